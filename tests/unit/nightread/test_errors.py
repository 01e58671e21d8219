"""Errors and reason codes; tests/unit/project holds the pages against them."""

import inspect

import pytest

from nightread import errors
from nightread.reasons import Reason


def test_every_error_is_a_nightread_error():
    classes = [value for _, value in inspect.getmembers(errors, inspect.isclass) if issubclass(value, Exception)]

    assert all(issubclass(error, errors.NightreadError) for error in classes)


def test_a_scan_error_carries_its_reason_and_says_it():
    error = errors.UnreadableScan(Reason.DAMAGED, "cut short")

    assert (error.reason, str(error)) == (Reason.DAMAGED, "cut short")


@pytest.mark.parametrize("reason", list(Reason))
def test_reason_codes_are_lower_case_words(reason):
    assert reason.value.replace("-", "").isalpha()
    assert reason.value == reason.value.lower()
