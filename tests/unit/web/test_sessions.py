"""Signed sessions, and the bound on attempts to log in."""

import pytest

from web import sessions
from web.sessions import Attempts, Sessions


@pytest.fixture
def keeper():
    return Sessions(b"k" * 32)


def test_a_session_is_read_back(keeper):
    session = keeper.begin("ana")
    assert keeper.read(keeper.write(session)) == session


def test_a_forged_cookie_is_no_session(keeper):
    cookie = keeper.write(keeper.begin("ana"))
    payload, time, signature = cookie.split(".")
    other = Sessions(b"x" * 32).write(keeper.begin("ana"))
    operator = Sessions(b"k" * 32).write(keeper.begin("boss")).split(".")[0]
    forged = [
        "",
        ".",
        "..",
        payload,
        f"{payload}.{time}.",
        f"{operator}.{time}.{signature}",
        other,
        cookie[:-2],
        "\ud800",
    ]
    assert [keeper.read(cookie) for cookie in forged] == [None] * len(forged)
    assert keeper.read(cookie) is not None


def test_a_session_ends_by_time(keeper, monkeypatch):
    cookie = keeper.write(keeper.begin("ana"))
    monkeypatch.setattr(sessions, "LIFETIME_S", -1)
    assert keeper.read(cookie) is None


def test_a_session_that_was_ended_is_not_taken_again(keeper):
    session = keeper.begin("ana")
    cookie = keeper.write(session)
    keeper.end(session)
    assert keeper.read(cookie) is None


def test_attempts_are_counted_by_address_and_forgotten_in_time(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(sessions.time, "monotonic", lambda: now[0])
    attempts = Attempts()
    assert [attempts.is_allowed("10.0.0.1") for _ in range(sessions.ATTEMPTS + 2)] == [True] * sessions.ATTEMPTS + [
        False
    ] * 2
    assert attempts.is_allowed("10.0.0.2")
    now[0] = sessions.ATTEMPTS_S + 1
    assert attempts.is_allowed("10.0.0.1")
