"""Names of files and runs are shown as they are: in tables, pages, CSV, JSON, sheets and logs, in any locale."""

import csv
import io
import json
import os
import pty
import shutil
import subprocess

import openpyxl
import pytest
from starlette.testclient import TestClient

from nightread.scan.files import encode_path
from nightread.settings import Settings
from nightread.text import show_text
from tests.factories import small_chest, write_jpeg
from tests.program import PROGRAM, make_environment, run
from web.app import make_app

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
    env = make_environment(folder)
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


def test_the_page_and_its_csv_show_them_too(night):
    env, _, _ = night
    url = f"sqlite:///{env['XDG_DATA_HOME']}/nightread/nightread.db"
    with TestClient(make_app(Settings(database_url=url)), base_url="http://localhost") as client:
        for address in ("/", "/runs/latest", f"/runs/{_find_run(client)}"):
            response = client.get(address)
            assert response.status_code in {200, 404}
            assert "<script>alert" not in response.text
            assert "\x1b" not in response.text


def _find_run(client):
    return client.get("/").text.partition('href="/runs/')[2].partition('"')[0]
