"""The repository's own files, as tests read them."""

import re
import shlex
import tomllib

from cli.main import COMMANDS as TABLE
from cli.main import load_command
from tests.factories import ROOT

PAGES = sorted({*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")})


def read(name):
    return (ROOT / name).read_text(encoding="utf-8")


def read_packages():
    """Return the names of the packages in the wheel."""
    return tomllib.loads(read("pyproject.toml"))["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]


def find_table_cells(text, column=0):
    """Return the code words in one column of all tables of a page."""
    cells = []
    for line in text.splitlines():
        if line.startswith("|") and not set(line) <= set("|-: "):
            parts = re.split(r"(?<!\\)\|", line)[1:-1]
            if column < len(parts):
                cells += re.findall(r"`([^`]+)`", parts[column])
    return cells


def find_shell_lines(text):
    """Return the lines of the shell blocks of a page, whole and without comments."""
    blocks = "".join(re.findall(r"```sh\n(.*?)```", text, re.DOTALL)).replace("\\\n", " ")
    return [line for whole in blocks.splitlines() if (line := re.split(r"\s# ", whole)[0].strip())]


def read_words(line):
    """Return the words after the program's name, also in a checkout or a container; none of another's line."""
    found = re.match(r"(?:uv run (?:--\w+ \w+ )*|docker compose run --rm (?:-T )?)?(?:nightread|cli) (.+)", line)
    words = shlex.split(found[1], comments=True) if found else []
    return words[: next((index for index, word in enumerate(words) if word in {"|", ">", "&&"}), None)]


def find_command_lines(text):
    """Return the words of each line of the program in the shell blocks of a page."""
    return [words for line in find_shell_lines(text) if (words := read_words(line))]


def list_options(command):
    return {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}


#: Every command of the program with its options, by name.
COMMANDS = {row.name: list_options(load_command(row)) for row in TABLE}
