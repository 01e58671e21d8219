"""The reference pages agree with the program."""

import re

import pytest
import typer

import nightread.errors
from cli.exits import MEANINGS as EXIT_MEANINGS
from cli.exits import Exit
from cli.main import COMMANDS as TABLE
from cli.main import load_command
from nightread.errors import NightreadError
from nightread.reasons import MEANINGS as REASON_MEANINGS
from nightread.reasons import Reason
from nightread.settings import SECRETS, Settings
from nightread.settings_sources import ENV_FILE_VARIABLE, SETTINGS_FILE_VARIABLE
from tests.project import COMMANDS, PAGES, find_command_lines, find_table_cells, read
from worker.guard_codes import GuardCode


def test_settings_page_names_every_setting_and_no_other():
    in_table = find_table_cells(read("docs/reference/settings.md").partition("| setting |")[2])
    assert sorted(in_table) == sorted(f"NIGHTREAD_{name.upper()}" for name in Settings.model_fields)
    named = {name for page in PAGES for name in re.findall(r"NIGHTREAD_[A-Z_]+[A-Z]", page.read_text())}
    assert named <= {
        *in_table,
        "NIGHTREAD_TEST_DATA",
        "NIGHTREAD_FAILPOINT",
        "NIGHTREAD_FAILPOINT_DIR",
        ENV_FILE_VARIABLE,
        SETTINGS_FILE_VARIABLE,
        *(f"NIGHTREAD_{name.upper()}_FILE" for name in SECRETS),
    }


@pytest.mark.parametrize("name", [n for n, f in Settings.model_fields.items() if f.default_factory is None])
def test_settings_page_tells_the_default_of(name):
    page = read("docs/reference/settings.md")
    row = next(line for line in page.splitlines() if f"`NIGHTREAD_{name.upper()}`" in line)
    default = Settings.model_fields[name].default
    if hasattr(default, "get_secret_value"):
        default = default.get_secret_value()
    shown = row.split("|")[2].strip().strip("`")
    if default in ("", ()):
        assert shown in {"none", "the bundle that ships"}
    else:
        assert shown == (f"{default:g}" if isinstance(default, float) else str(default))


def test_commands_page_names_every_command_and_no_other():
    rows = [cell for cell in find_table_cells(read("docs/reference/commands.md")) if cell.startswith("nightread ")]
    named = [" ".join(re.findall(r"[a-z]+", re.sub(r"\[?[A-Z]+\]?[.]*", "", row))[1:]) for row in rows]
    assert sorted(named) == sorted(COMMANDS)


def test_every_command_line_on_a_page_is_one_of_the_program():
    lines = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        lines += [" ".join(words) for words in find_command_lines(text)]
        lines += re.findall(r"`nightread\s([a-z][^`]*)`", text)
    assert len(lines) > 100
    for line in lines:
        words = line.split("#")[0].replace("COMMAND", "score").split()
        name = next((name for name in (" ".join(words[:2]), words[0]) if name in {*COMMANDS, "models"}), None)
        assert name is not None, line
        assert {word for word in words if word.startswith("--")} <= COMMANDS.get(name, set()), line


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_program_parses_every_command_of(page):
    rows = {row.name: row for row in TABLE}
    for words in find_command_lines(page.read_text(encoding="utf-8")):
        name = next(name for name in (" ".join(words[:2]), words[0]) if name in rows)
        try:
            load_command(rows[name]).make_context(name, words[len(name.split()) :])
        except typer.BadParameter as error:
            assert "does not exist" in error.format_message(), words  # noqa: PT017  # a reader's own folder


def test_every_script_on_a_page_takes_its_options():
    lines = [
        line
        for page in PAGES
        for line in re.findall(r"python (?:-m )?((?:studies|tests)[./]\w[\w./]*)([^`\n#]*)", page.read_text("utf-8"))
    ]
    assert len(lines) > 8
    for script, options in lines:
        source = read(f"{script.removesuffix('.py').replace('.', '/')}.py")
        for option in re.findall(r"(?<=\s)--[a-z-]+", options):
            assert f'"{option}"' in source, (script, option)


def test_commands_page_names_options_that_exist():
    for row in read("docs/reference/commands.md").splitlines():
        if row.startswith("| `nightread "):
            command, text = row.split("|", 2)[1:]
            words = re.findall(r"[a-z]+", command)[1:]
            name = next(name for name in (" ".join(words[:2]), words[0]) if name in COMMANDS)
            assert set(re.findall(r"`(--[a-z-]+)", text)) <= COMMANDS[name], row


def test_readme_starts_with_two_commands():
    block = re.search(r"## Two commands.*?```sh\n(.*?)```", read("README.md"), re.DOTALL)[1]
    assert [line.partition("#")[0].strip() for line in block.splitlines()] == [
        "uv run nightread score FOLDER",
        "uv run --group test pytest",
    ]
    assert "\nuv run --group test pytest\n" in read(".ci/run")


def test_reason_codes_page_explains_every_reason_on_its_side():
    rejected, failed = read("docs/reference/reason-codes.md").split("\n## failed\n")
    assert find_table_cells(rejected) == [reason.value for reason in Reason if reason.is_rejection]
    assert find_table_cells(failed) == [reason.value for reason in Reason if not reason.is_rejection]


def test_exit_codes_page_explains_every_exit_code():
    codes = re.findall(r"^\| (\d+) \|", read("docs/reference/exit-codes.md"), re.MULTILINE)
    assert codes == [str(code.value) for code in Exit]


def test_guards_page_lists_every_mark():
    rows = read("docs/reference/guards.md").partition("## Guards")[2]
    marks = [mark for cell in re.findall(r"(?m)^\| (`[^|]*) \|", rows) for mark in re.findall(r"`([a-z-]+)`", cell)]
    assert sorted(marks) == sorted(GuardCode)


def read_meanings(page, code):
    """Return meaning and remedy of each code on a page, without links."""
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", read(page))
    return {row[0]: row[1:] for row in re.findall(rf"(?m)^\| {code} \| (.*) \| (.*) \|$", text)}


def test_explain_says_what_the_pages_say():
    reasons = read_meanings("docs/reference/reason-codes.md", "`([a-z-]+)`")
    assert reasons == {reason.value: meaning for reason, meaning in REASON_MEANINGS.items()}
    codes = read_meanings("docs/reference/exit-codes.md", r"(\d+)")
    assert codes == {str(code.value): meaning for code, meaning in EXIT_MEANINGS.items()}


def test_tree_of_errors_is_drawn_whole():
    def walk(error):
        yield error
        for child in error.__subclasses__():
            yield from walk(child)

    for error in walk(NightreadError):
        if error.__module__ == "nightread.errors":
            assert re.search(rf"^ *{error.__name__}\b", nightread.errors.__doc__, re.MULTILINE)
