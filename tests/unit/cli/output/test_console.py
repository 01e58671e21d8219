"""The first sign of life on a terminal, while a command is imported."""

import io
import sys
import threading

import pytest

from cli.output import console


class Terminal(io.StringIO):
    """Stderr as a terminal, that says when something was written."""

    def __init__(self):
        super().__init__()
        self.written = threading.Event()

    def isatty(self):
        return True

    def write(self, text):
        self.written.set()
        return super().write(text)


def put_terminal(monkeypatch, after_s):
    """Make stderr a terminal; not in a fixture, since pytest puts its own stderr before each test."""
    monkeypatch.setattr(console, "FIRST_SIGN_S", after_s)
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(console, "_quiet", False)  # another test may have asked for it
    return terminal


def test_a_long_import_shows_a_word_and_erases_it(monkeypatch):
    terminal = put_terminal(monkeypatch, 0.0)
    threads = threading.active_count()
    with console.first_sign():
        assert terminal.written.wait(10)
        assert terminal.getvalue() == "\rstarting "
    assert terminal.getvalue() == "\rstarting \r\x1b[K"
    assert threading.active_count() == threads  # else the process could not be forked


def test_a_short_import_shows_nothing(monkeypatch):
    terminal = put_terminal(monkeypatch, 60.0)
    with console.first_sign():
        pass
    assert terminal.getvalue() == ""


@pytest.mark.parametrize("why", ["no terminal", "dumb", "quiet"])
def test_nothing_is_shown_where_it_could_not_be_erased_or_was_not_asked_for(monkeypatch, why):
    terminal = put_terminal(monkeypatch, 0.0)
    if why == "no terminal":
        monkeypatch.setattr(terminal, "isatty", lambda: False)
    elif why == "dumb":
        monkeypatch.setenv("TERM", "dumb")
    else:
        monkeypatch.setattr(console, "_quiet", True)
    with console.first_sign():
        assert not terminal.written.wait(0.05)
