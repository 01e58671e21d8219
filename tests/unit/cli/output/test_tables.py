"""What is printed is what a file or a run is called."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cli.output import tables
from nightread.text import show_text


def show(name):
    """Return a table with one cell, as the console of the program draws it."""
    table = tables.make_table("scan")
    table.add_row(show_text(name))
    with tables.out.capture() as said:
        tables.out.print(table)
        tables.out.print(show_text(name))
    return said.get().splitlines()


@pytest.mark.parametrize("name", ["a [left]/b [copy].jpeg", "x [/y].jpeg", "[link=http://x]1.jpeg", ":x:", "[/x]"])
def test_a_name_is_no_markup(name):
    assert [line.rstrip() for line in show(name)] == ["scan", name, name]


@given(st.text(st.sampled_from("[]/:=\\ab "), max_size=20))
def test_no_name_stops_a_table(name):
    assert len(show(name)) == 3


def test_messages_are_no_markup_either():
    with tables.err.capture() as said:
        tables.err.print("run [/x] :x:")
    assert said.get() == "run [/x] :x:\n"
