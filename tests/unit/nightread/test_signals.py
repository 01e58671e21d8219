"""Signals of the process: a service stops at each of them, and one that is ignored stays so."""

import signal

import pytest

from nightread.machine import stop_at_signals

_NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@pytest.fixture(autouse=True)
def _kept():
    # A shell starts what runs in the background with SIGINT ignored.
    kept = {number: signal.signal(number, signal.SIG_DFL) for number in _NUMBERS}
    yield
    for number, handler in kept.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", _NUMBERS, ids=lambda number: number.name)
def test_a_service_stops_at_a_signal(number):
    seen = []
    stop_at_signals(lambda: seen.append(number))
    signal.raise_signal(number)
    assert seen == [number]


def test_a_signal_that_is_ignored_stays_so():
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    stop_at_signals(lambda: None)
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
