"""Names of files and runs are shown as they are: in tables, pages, CSV, JSON, sheets and logs, in any locale."""

import csv
import html
import io
import json
import os
import pty
import re
import shutil
import subprocess
from pathlib import Path

import duckdb
import openpyxl
import pytest
from typer.testing import CliRunner

from cli.main import app
from nightread.scan.files import encode_path
from nightread.text import show_text
from tests.factories import small_chest, write_jpeg
from tests.program import PROGRAM, make_environment, run
from tests.web_page import open_page

RUN_NAME = "[/x] [link=http://evil]here[/link] :smile: =1+1"
NAMES = [
    b"[/x].jpeg", b"scan [copy].jpeg", b"[link=http:evil]1.jpeg", b":x:.jpeg", b"\x1b]8;;http:evil\x1b\\link.jpeg",
    b"\x1b[31mred.jpeg", "\u202egpj.exe.jpeg".encode(), b"new\nline.jpeg", b"tab\there.jpeg", b"\xff\xfe latin.jpeg",
    b"back\\slash.jpeg", b"=HYPERLINK(1).jpeg", b"@SUM(1).jpeg", b"-1+1.jpeg", "uml\u00e4ut \u05e9.jpeg".encode(),
    b'"quoted", comma.jpeg', b"<script>alert(1)<script>.jpeg", b"{{ 7*7 }}.jpeg", b"%s %d.jpeg", b" space .jpeg",
]  # fmt: skip


@pytest.fixture(scope="module")
def night(tmp_path_factory):
    """Environment, folder and the encoded paths of a scored run with hostile names."""
    folder = tmp_path_factory.mktemp("names")
    ward = folder / "ward"
    (ward / "[").mkdir(parents=True)
    write_jpeg(folder / "scan.jpeg", small_chest())
    for name in NAMES:
        shutil.copy(folder / "scan.jpeg", os.fsencode(ward) + b"/" + name)
    env = make_environment(folder, model="pneumonia-lite0", gate=False)
    run("score", ward, "--name", RUN_NAME, env=env, cwd=folder)
    return env, folder, sorted(encode_path(os.fsencode(ward) + b"/" + name) for name in NAMES)


def run_on_terminal(arguments, env, cwd):
    """Run the program on a terminal of 80 columns; returns exit code and screen output."""
    parent, child = pty.openpty()
    with subprocess.Popen(
        [PROGRAM, *arguments], env=env | {"COLUMNS": "80", "TERM": "xterm-256color", "PAGER": "cat"}, cwd=cwd,
        stdin=child, stdout=child, stderr=child,
    ) as process:  # fmt: skip
        os.close(child)
        shown = b""
        while True:
            try:
                part = os.read(parent, 65_536)
            except OSError:  # the program has closed the terminal
                break
            if not part:
                break
            shown += part
    os.close(parent)
    return process.returncode, shown.decode()


@pytest.mark.parametrize(
    "arguments",
    [("runs",), ("status",), ("results", "--limit", "100"), ("results", "--columns", "run,path")],
    ids=" ".join,
)
def test_a_table_on_a_terminal_shows_names_and_obeys_none(night, arguments):
    env, folder, paths = night
    code, shown = run_on_terminal(arguments, env, folder)
    assert code == 0, shown
    assert "Traceback" not in shown
    assert "\x1b]8" not in shown
    assert "\x1b[31mred" not in shown
    assert "\u202e" not in shown
    assert "[/x]" in shown
    if "--limit" in arguments:
        names = [path[path.index("/ward/") + 6 :] for path in paths]
        assert [name for name in names if show_text(name)[-8:] not in shown] == []


def test_csv_and_json_hold_the_names_as_they_are_stored(night):
    env, folder, paths = night
    text = run("results", "--format", "csv", env=env, cwd=folder).stdout
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    assert sorted(row["path"] for row in rows) == paths
    assert {row["run"] for row in rows} == {RUN_NAME}
    lines = run("results", "--format", "jsonl", env=env, cwd=folder).stdout.splitlines()
    assert sorted(json.loads(line)["path"] for line in lines) == paths
    assert json.loads(run("runs", "--json", env=env, cwd=folder).stdout)[0]["name"] == RUN_NAME


def test_no_cell_of_a_sheet_or_of_an_excel_csv_is_a_formula_or_a_link(night):
    env, folder, paths = night
    run("results", "--out", "night.xlsx", env=env, cwd=folder)
    sheet = openpyxl.load_workbook(folder / "night.xlsx").active
    header = [cell.value for cell in sheet[1]]
    assert {cell.data_type for row in sheet.iter_rows(min_row=2) for cell in row} <= {"s", "n", "b", "d"}
    assert [cell.hyperlink for row in sheet.iter_rows() for cell in row if cell.hyperlink] == []
    column = header.index("path")
    # The format writes control characters as _xHHHH_, which openpyxl hands on.
    held = sorted(
        row[column].replace("_x001B_", "\x1b").replace("_x000A_", "\n")
        for row in sheet.iter_rows(min_row=2, values_only=True)
    )
    assert held == paths

    written = subprocess.run(
        [PROGRAM, "results", "--excel"], env=env, cwd=folder, capture_output=True, check=True
    ).stdout
    assert written.startswith(b"\xef\xbb\xbf")
    assert written.count(b"\r\n") == len(paths) + 1
    cells = [cell for row in csv.reader(io.StringIO(written.decode("utf-8-sig"), newline="")) for cell in row]
    assert [cell for cell in cells if cell[:1] in {"=", "+", "@"}] == []


ASCII, LATIN = {"LC_ALL": "C", "PYTHONUTF8": "0"}, {"LC_ALL": "C", "PYTHONIOENCODING": "latin-1"}


@pytest.mark.parametrize(("form", "locale"), [("table", ASCII), ("table", LATIN), ("csv", ASCII), ("json", LATIN)])
def test_output_is_whole_utf_8_in_every_locale(night, form, locale):
    env, folder, _ = night
    done = subprocess.run(
        [PROGRAM, "results", "--format", form], env=env | locale, cwd=folder, capture_output=True, check=False
    )
    assert (done.returncode, b"Traceback" in done.stderr) == (0, False), done.stderr
    assert "uml\u00e4ut \u05e9.jpeg" in done.stdout.decode("utf-8")


#: What a terminal obeys, and what turns the direction of text.
OBEYED = ("\x1b", "\x07", "\x9b", "\u202e")


@pytest.fixture
def invoke(night, monkeypatch):
    """Call the program in this process; returns stdout and stderr."""
    env, folder, _ = night
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(folder)

    def invoke(*arguments):
        called = CliRunner().invoke(app, list(map(str, arguments)), catch_exceptions=False)
        assert called.exit_code in {0, 3}, called.output
        return called.stdout, called.stderr

    return invoke


@pytest.mark.parametrize(
    "arguments",
    [
        ("runs",), ("status",), ("results",), ("report", "--format", "text"), ("drift",),
        ("shadow", RUN_NAME, "--model", "pneumonia-cnn75", "--most-moved", "99"), ("predict", "ward"),
        ("verify", RUN_NAME, "--sample", "2"),
        ("explain", "not-frontal"),
    ],
    ids=" ".join,
)  # fmt: skip
def test_text_for_people_holds_no_character_that_a_terminal_obeys(invoke, arguments):
    if arguments == ("predict", "ward"):
        arguments = ("predict", *sorted(Path("ward").rglob("*.jpeg")))
    shown = "".join(invoke(*arguments))
    assert [char for char in OBEYED if char in shown] == []
    if arguments[0] in {"report", "shadow", "predict"}:
        assert "[/x].jpeg" in shown
        assert "\\x1b[31mred.jpeg" in shown


@pytest.mark.parametrize("arguments", [("drift",), ("shadow", RUN_NAME, "--model", "pneumonia-cnn75"), ("status",)])
def test_json_of_commands_holds_the_name_of_the_run_as_it_is(invoke, arguments):
    assert json.loads(invoke(*arguments, "--json")[0])["name"] == RUN_NAME


def test_reports_show_names_as_they_are(invoke, night):
    _, folder, paths = night
    invoke("report", "--format", "html", "--out", "report.html")
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert [char for char in OBEYED if char in page] == []
    assert "<script>alert" not in page
    assert html.escape(RUN_NAME) in page
    invoke("report", "--format", "json", "--out", "report.json")
    told = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    assert told["name"] == RUN_NAME
    assert {one["path"] for label in told["labels"].values() for one in label["highest"]} <= set(paths)


def test_a_parquet_file_holds_the_names_as_they_are_stored(invoke, night):
    _, folder, paths = night
    invoke("results", "--out", "night.parquet")
    read = duckdb.sql(f"SELECT path, run FROM '{folder / 'night.parquet'}'").fetchall()
    assert sorted(path for path, _ in read) == paths
    assert {run_name for _, run_name in read} == {RUN_NAME}


def test_errors_and_log_lines_hold_no_character_that_a_terminal_obeys(night):
    env, folder, _ = night
    name = "\x1b[31m[/x]\u202e"
    for arguments in (("status", name), ("score", name), ("models", "show", name), ("results", "--label", name)):
        done = subprocess.run([PROGRAM, *arguments], env=env, cwd=folder, capture_output=True, check=False)
        shown = (done.stdout + done.stderr).decode()
        assert "Traceback" not in shown
        assert [char for char in OBEYED if char in shown] == []
    for form in ("text", "json"):
        logged = env | {"NIGHTREAD_LOG_FORMAT": form, "NIGHTREAD_LOG_LEVEL": "DEBUG"}
        done = run("score", folder / "ward", "--name", name, env=logged, cwd=folder)
        assert [char for char in OBEYED if char in done.stderr] == []


def test_every_page_that_is_linked_shows_names_as_they_are(night):
    env, _, _ = night
    url = f"sqlite:///{env['XDG_DATA_HOME']}/nightread/nightread.db"
    with open_page(url) as client:
        seen, waiting = set(), ["/"]
        while waiting and len(seen) < 60:
            address = waiting.pop()
            seen.add(address)
            response = client.get(address)
            assert response.status_code in {200, 404}, address
            if "html" in response.headers["content-type"]:
                assert "<script>alert" not in response.text
                assert [char for char in OBEYED if char in response.text] == []
                links = {
                    html.unescape(link).partition("#")[0] for link in re.findall(r'href="(/[^"]*)"', response.text)
                }
                waiting += sorted(links - seen - set(waiting))
    assert sum("/scans/" in address for address in seen) >= len(NAMES)
