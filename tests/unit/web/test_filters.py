"""Filters and positions in the URL of a worklist."""

from urllib.parse import parse_qs

import pytest
from starlette.datastructures import QueryParams
from starlette.exceptions import HTTPException

from db.marks import Review
from db.types import ScanStatus
from db.worklist_request import PageOrder, Position
from web.filters import WorklistFilter, read_filter, read_place, read_position, read_run_id, write_position


def read(**parameters):
    return read_filter(QueryParams(parameters))


def test_an_address_without_parameters_asks_for_everything():
    assert read() == WorklistFilter()
    assert not read().is_set
    assert not read().to_query()


def test_empty_fields_of_the_form_are_no_restriction():
    assert read(status="", decision="", label="", min_score=" ") == WorklistFilter()


def test_unknown_parameters_are_passed_over():
    assert read(utm_source="mail") == WorklistFilter()


def test_every_field_is_read_and_written_again():
    asked = read(
        status="scored", decision="not & normal", label="effusion:é", min_score="0.1", reason="blank", text="ward & 1",
        order="lowest", review="agree", folder="/scans/ward 1", manufacturer="A & B", station="ROOM 1", view="PA",
    )  # fmt: skip
    assert asked == WorklistFilter(
        ScanStatus.SCORED,
        "not & normal",
        "effusion:é",
        0.1,
        "blank",
        "ward & 1",
        Review.AGREE,
        "/scans/ward 1",
        "A & B",
        "ROOM 1",
        "PA",
        PageOrder.LOWEST,
    )
    assert asked.is_set
    assert read_filter(QueryParams(asked.to_query().removeprefix("?"))) == asked


def test_a_filter_is_kept_beside_the_place_to_go_on_from():
    place = Position(0.1 + 0.2, 17, "a:b")
    query = parse_qs(WorklistFilter(min_score=0.5).to_query(after=write_position(place)).removeprefix("?"))
    assert query["min_score"] == ["0.5"]
    assert read_position(query["after"][0]) == place


@pytest.mark.parametrize(
    "parameters",
    [
        {"review": "x"},
        {"order": "random"}, {"text": "a\0b"}, {"text": "x" * 201}, {"reason": "x" * 65}, {"text": "\ud800"},
        {"status": "lost"}, {"status": "SCORED"}, {"min_score": "half"}, {"min_score": "nan"}, {"min_score": "-0.1"},
        {"min_score": "1.1"}, {"min_score": "inf"}, {"label": "x" * 65}, {"label": "a\0b"}, {"decision": "\0"},
    ],
)  # fmt: skip
def test_what_cannot_be_asked_for_is_refused(parameters):
    with pytest.raises(HTTPException) as refused:
        read(**parameters)
    assert refused.value.status_code == 400


@pytest.mark.parametrize(
    "place",
    [Position(0.1 + 0.2, 1, "pneumonia"), Position(0.0, 2, "a:b:"), Position(1e-300, 3, " "), Position(None, 4, None)],
)
def test_a_place_is_read_as_it_was_written(place):
    assert read_position(write_position(place)) == place


@pytest.mark.parametrize(
    "text",
    ["x", "0.5", "0.5:1", "0.5:1:", ":1:a", "nan:1:a", "2:1:a", "0.5:-1:a", f"0.5:{10**18}:a", "::", "0.5:²:a"],
)
def test_a_changed_place_is_refused(text):
    with pytest.raises(HTTPException) as refused:
        read_position(text)
    assert refused.value.status_code == 400


def test_no_place_is_the_first_page():
    assert read_position(None) is None
    assert read_position("") is None
    assert read_run_id("") is None


def test_only_a_whole_id_is_a_run_to_go_on_from():
    assert read_run_id("a" * 32) == "a" * 32
    for text in ("a" * 31, "A" * 32, "g" * 32, "a" * 32 + "\n"):
        with pytest.raises(HTTPException):
            read_run_id(text)


def test_a_place_is_a_number_of_rows():
    assert (read_place(None), read_place(""), read_place("50")) == (0, 0, 50)
    for text in ("-1", "x", "1e3", "²", "1" * 19, str(10**12)):
        with pytest.raises(HTTPException):
            read_place(text)
