"""The faults that pydantic finds in words."""

import json

import pytest
from pydantic import ValidationError

from nightread.field_faults import list_faults
from nightread.model.card import Card
from tests import factories

DIGESTS = {"digest": "0" * 64, "files": {"model.onnx": "0" * 64, "parity.npz": "0" * 64}}


def find_faults(content: str) -> list[str]:
    with pytest.raises(ValidationError) as caught:
        Card.model_validate_json(content)
    return list_faults(caught.value, "the card")


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"schema_version": 2}, "schema_version: 2 is not known; allowed is 1"),
        ({"name": 3}, "name: 3 is not text"),
        ({"name": None}, "name: null is not text"),
        ({"extra": 3}, "extra is not a known field"),
        ({"labels": "x"}, "labels: 'x' is not a list"),
        ({"labels": []}, "labels has too few items; the least is 1"),
        ({"activation": "relu"}, "activation: 'relu' is not known; allowed are 'sigmoid' or 'softmax'"),
        ({"created_at": "yesterday"}, "created_at: 'yesterday' is not a time; write it like 2026-11-20T10:00:00Z"),
        ({"parity_tolerance": 1}, "parity_tolerance: 1 is too large; the most is 0.1"),
        ({"parity_tolerance": 0}, "parity_tolerance: 0 is too small; it must be above 0"),
        ({"training": []}, "training: a list is not an object"),
        ({"thresholds": {"pneumonia": 0.5}}, "thresholds.pneumonia: 0.5 is not an object"),
        ({"labels": ["a", "a"]}, "the card: labels are not unique"),
    ],
)
def test_a_fault_names_field_value_and_what_is_allowed(fields, words):
    assert find_faults(json.dumps(factories.make_card(**DIGESTS, **fields))) == [words]


def test_a_missing_field_is_named():
    card = factories.make_card(**DIGESTS)
    del card["training"]["seed"]
    assert find_faults(json.dumps(card)) == ["training.seed is missing"]


def test_a_hyperparameter_of_another_kind_is_one_fault():
    training = factories.make_card()["training"] | {"hyperparameters": {"rate": [1]}}
    (fault,) = find_faults(json.dumps(factories.make_card(**DIGESTS, training=training)))
    assert fault.startswith("training.hyperparameters.rate: ")


def test_text_that_is_not_json_is_told_with_its_place():
    (fault,) = find_faults('{"name": 1,}')
    assert fault.startswith("the card is not JSON: ")
    assert fault.endswith("line 1 column 12")


def test_of_many_faults_the_first_ones_are_named():
    faults = find_faults(json.dumps(factories.make_card(**DIGESTS, limitations=[1] * 1000)))
    assert faults[-1] == "and 990 more"
    assert len(faults) == 11


def test_no_fault_of_a_card_is_told_in_the_words_of_pydantic():
    found = " ".join([*find_faults("{}"), *find_faults("[]"), *find_faults("3")])
    assert not [words for words in ("Input", "Field", "required", "valid") if words in found]
