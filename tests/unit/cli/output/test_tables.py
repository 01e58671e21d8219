"""Tables fit the terminal, and what is printed is what a file or a run is called."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from cli.output import tables
from nightread.text import show_text

NAMES = ["a [left]/b [copy].jpeg", "x [/y].jpeg", "[link=http://x]1.jpeg", ":x:", "[/x]"]
MARKUP = st.text(st.sampled_from("[]/:=\\ab "), min_size=1, max_size=20)


def draw(table, width=80, **options):
    console = Console(width=width, highlight=False, markup=False, emoji=False, **options)
    with console.capture() as said:
        console.print(table)
    return [line.rstrip() for line in said.get().splitlines()]


def make_results(*scans, **options):
    table = tables.make_table("scan", "label", "score", "status", "time", spare=("status", "label", "time"), **options)
    for index, scan in enumerate(scans):
        table.add_row(scan, "pneumonia", "0.9000", "scored", f"2026-11-29 17:07:{index:02}")
    return table


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_no_markup(name):
    table = tables.make_table("scan")
    table.add_row(name)
    assert draw(table) == ["scan", name]


@given(MARKUP, MARKUP, st.integers(1, 60))
def test_no_name_stops_a_table_of_any_width(name, other, width):
    assert len(draw(make_results(name, other), width)) >= 3


@given(st.text(st.sampled_from("a/見[é\u0301"), min_size=1, max_size=40), st.integers(3, 40))
def test_a_cut_text_fits_and_keeps_its_ends(name, width):
    cut = tables.cut_middle(Text(name), width)
    assert cut.cell_len <= width
    if cell_len(name) > width:
        assert cut.plain.count("…") == 1
        assert name.startswith(cut.plain.partition("…")[0].rstrip())
        assert name.endswith(cut.plain.partition("…")[2].lstrip())
    else:
        assert cut.plain == name


def test_the_name_of_a_file_stays_whole_and_its_folders_are_cut():
    assert tables.cut_middle(Text("ward-1/a-long-folder/scan-0001.jpeg"), 24).plain == "ward-1/a…/scan-0001.jpeg"
    assert tables.cut_middle(Text("ward-1/scan-0001-with-a-very-long-name.jpeg"), 20).plain.endswith("-name.jpeg")


def test_messages_are_no_markup_either():
    with tables.err.capture() as said:
        tables.err.print("run [/x] :x:")
    assert said.get() == "run [/x] :x:\n"


def test_control_characters_are_escaped_in_every_cell():
    table = tables.make_table("scan", "name", text=("name",))
    table.add_row("a\x1b[2Jb\n", "one\ntwo\x07")
    assert draw(table) == ["scan         name", "a\\x1b[2Jb\\n  one", "             two\\x07"]


def test_a_table_that_fits_tells_all():
    assert draw(make_results("night/ward-1/a.jpg", "night/ward-10/b.jpg"))[1].startswith("night/ward-1/a.jpg")


def test_what_all_rows_share_is_told_once():
    long = "/home/a/scans/2026-11-20/st-marys"
    drawn = draw(make_results(f"{long}/ward-1/a.jpg", f"{long}/ward-10/b.jpg"))
    assert drawn[0] == f"all in {long}/"
    assert drawn[1].split() == ["scan", "label", "score", "status", "time"]
    assert drawn[2].startswith("ward-1/a.jpg   pneumonia")


def test_columns_with_one_value_give_way_before_a_scan_is_cut():
    drawn = draw(make_results(f"ward-1/{'a' * 40}.jpg", f"ward-2/{'b' * 40}.jpg"))
    assert drawn[0] == "all label pneumonia; status scored"
    assert drawn[1].split() == ["scan", "score", "time"]
    assert drawn[2].startswith("ward-1/aaaaaaaaa")


def test_a_spare_column_is_left_out_and_named():
    drawn = draw(make_results("ward-1/" + "a" * 60, "ward-2/" + "b" * 60), width=50)
    assert drawn[1] == "not shown at this width: time"
    assert drawn[2].split() == ["scan", "score"]


@pytest.mark.parametrize("width", [80, 140])
def test_ids_names_and_numbers_are_whole(width):
    table = tables.make_table("run", "name", "found", "scored", "model", "started", spare=("started", "model"))
    for index in range(3):
        table.add_row(f"58470b4{index}", "st marys, night of 2026-11-20", "10,000", "9,990", "m@1", f"2026-11-2{index}")
    drawn = draw(table, width)
    assert all(len(line) <= width for line in drawn)
    assert [line.split()[0] for line in drawn[-3:]] == ["58470b40", "58470b41", "58470b42"]
    assert all("st marys, night of 2026-11-20" in line and "10,000" in line for line in drawn[-3:])


def test_without_a_terminal_nothing_is_cut_or_left_out():
    path = "/scans/" + "a" * 300
    assert draw(make_results(path, path + "b"), width=10_000)[1].startswith(path)


def test_sentences_break_between_words():
    table = tables.make_table("check", "found", text=("found",))
    table.add_row("roots", "NIGHTREAD_SCAN_ROOTS is not set: jobs may read any folder that their run names")
    assert draw(table, 50)[1:] == [
        "roots  NIGHTREAD_SCAN_ROOTS is not set: jobs may", "       read any folder that their run names",
    ]  # fmt: skip


def test_an_empty_table_has_its_titles():
    assert draw(make_results()) == ["scan  label  score  status  time"]


@pytest.mark.parametrize(
    ("text", "is_finding", "style"),
    [("pneumonia", True, "red"), ("failed", False, "red"), ("rejected: damaged", False, "color(166)"),
     ("uncertain", False, "color(166)"), ("normal", False, "")],
)  # fmt: skip
def test_a_color_repeats_what_the_word_says(text, is_finding, style):
    painted = tables.paint(text, is_finding=is_finding)
    assert (painted.plain, painted.style) == (text, style)


def test_colors_do_not_change_the_text():
    table = tables.make_table("status")
    table.add_row(tables.paint("failed"))
    assert draw(table, no_color=True, force_terminal=True)[1].startswith("failed")
    assert "\x1b[31mfailed" in draw(table, force_terminal=True, color_system="standard")[1]


def test_show_text_is_for_lines_outside_a_table():
    assert show_text("[/x]\n") == "[/x]\\n"
