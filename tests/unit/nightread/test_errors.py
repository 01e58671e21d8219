import inspect

import pytest

from nightread import errors
from nightread.reasons import Reason


def test_every_error_is_a_nightread_error():
    classes = [value for _, value in inspect.getmembers(errors, inspect.isclass) if issubclass(value, Exception)]

    assert all(issubclass(error, errors.NightreadError) for error in classes)


def test_the_tree_in_the_docstring_names_every_error():
    names = [name for name, value in inspect.getmembers(errors, inspect.isclass) if issubclass(value, Exception)]

    assert all(name in errors.__doc__ for name in names)


def test_a_scan_error_carries_its_reason_and_says_it():
    error = errors.UnreadableScan(Reason.DAMAGED, "cut short")

    assert (error.reason, str(error)) == (Reason.DAMAGED, "cut short")


@pytest.mark.parametrize("reason", list(Reason))
def test_codes_are_lower_case_words(reason):
    assert reason.value.replace("-", "").isalpha()
    assert reason.value == reason.value.lower()


def test_the_file_is_at_fault_or_the_system():
    rejections = {reason.value for reason in Reason if reason.is_rejection}

    assert rejections == {
        "empty-file", "not-an-image", "unsupported-format", "damaged", "too-large", "too-small", "blank", "multi-frame",
        "not-a-radiograph", "unsupported-transfer-syntax", "for-processing",
        "outside-roots", "permission-denied", "not-a-file",
        "color-photograph", "document", "aspect-ratio", "inverted", "rotated", "not-a-chest-xray",
    }  # fmt: skip
