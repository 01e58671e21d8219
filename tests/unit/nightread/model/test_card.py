import pytest
from pydantic import ValidationError

from nightread.model.card import Card, Precision
from tests import factories

_DIGESTS = {"digest": "0" * 64, "files": {"model.onnx": "1" * 64, "parity.npz": "2" * 64}}


def make_card(**fields):
    return Card.model_validate({**factories.make_card(), **_DIGESTS, **fields})


def make_multi_label(**fields):
    thresholds = {name: {"low": 0.4, "high": 0.6} for name in ("edema", "pneumonia")}
    return make_card(**{"labels": ["pneumonia", "edema"], "thresholds": thresholds, **fields})


def test_a_card_survives_being_written_and_read():
    card = make_multi_label()

    assert Card.model_validate_json(card.model_dump_json()) == card


def test_reference():
    assert make_card().reference == "tiny@1"


def test_a_card_has_a_name_and_what_drift_is_measured_against():
    reference = {"scans": 120, "rejected_share": 0.0, "quantiles": {"score": [place / 100 for place in range(101)]}}
    card = make_card(drift_reference=reference)

    assert card.reference == "tiny@1"
    assert card.drift_reference.quantiles["score"][50] == 0.5
    assert make_card().drift_reference is None


@pytest.mark.parametrize(
    ("score", "decision"),
    [
        (0.0, "normal"),
        (0.39999, "normal"),
        (0.4, "uncertain"),
        (0.59, "uncertain"),
        (0.6, "pneumonia"),
        (1.0, "pneumonia"),
    ],
)
def test_thresholds_make_a_decision_of_a_score(score, decision):
    assert make_card().decide((score,)) == (decision,)


def test_one_threshold_leaves_nothing_uncertain():
    card = make_card(thresholds={"pneumonia": {"low": 0.5, "high": 0.5}})

    assert [card.decide((score,))[0] for score in (0.4999, 0.5)] == ["normal", "pneumonia"]


def test_each_label_is_decided_by_its_own_threshold_in_label_order():
    card = make_multi_label(thresholds={"edema": {"low": 0.1, "high": 0.2}, "pneumonia": {"low": 0.8, "high": 0.9}})

    assert card.decide((0.5, 0.5)) == ("normal", "edema")


def test_of_softmax_labels_the_highest_score_decides():
    card = make_card(labels=["normal", "bacterial", "viral"], activation="softmax", thresholds={})

    assert card.decide((0.2, 0.5, 0.3)) == ("bacterial",) * 3


@pytest.mark.parametrize("scores", [(), (0.1, 0.2, 0.7, 0.0)])
@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_more_or_fewer_scores_than_labels_are_an_error(activation, scores):
    card = make_multi_label() if activation == "sigmoid" else make_multi_label(activation="softmax", thresholds={})

    with pytest.raises(ValueError, match="2 labels"):
        card.decide(scores)


@pytest.mark.parametrize(
    ("fields", "fault"),
    [
        ({"thresholds": {}}, "thresholds are for"),
        ({"thresholds": {"pneumonia": {"low": 0.6, "high": 0.4}}}, "above high"),
        ({"thresholds": {"pneumonia": {"low": 0, "high": 0.4}}}, "greater than 0"),
        ({"thresholds": {"edema": {"low": 0.4, "high": 0.6}}}, "thresholds are for"),
        ({"labels": ["pneumonia", "pneumonia"]}, "not unique"),
        ({"labels": []}, "labels"),
        ({"labels": ["pneu\nmonia"]}, "labels"),
        ({"labels": ["uncertain"], "thresholds": {"uncertain": {"low": 0.4, "high": 0.6}}}, "decisions"),
        ({"labels": ["normal"], "thresholds": {"normal": {"low": 0.4, "high": 0.6}}}, "decisions"),
        ({"activation": "softmax"}, "at least two labels"),
        ({"activation": "tanh"}, "activation"),
        ({"name": "../up"}, "name"),
        ({"version": "a/b"}, "version"),
        ({"created_at": "2026-11-20T10:00:00"}, "timezone"),
        ({"digest": "A" * 64}, "digest"),
        ({"parity_tolerance": 0}, "parity_tolerance"),
        ({"parity_tolerance": 0.5}, "parity_tolerance"),
        ({"metrics": {"pneumonia": {"auroc": {"value": float("nan"), "low": 0, "high": 1}}}}, "finite"),
        ({"treshold": 0.5}, "treshold"),
        ({"schema_version": 2}, "schema_version"),
    ],
)
def test_a_card_that_does_not_hold_is_refused(fields, fault):
    with pytest.raises(ValidationError, match=fault):
        make_card(**fields)


def test_a_card_cannot_be_changed():
    with pytest.raises(ValidationError):
        make_card().name = "other"


def test_a_card_from_before_precisions_is_of_float32_and_tells_no_outputs():
    card = make_card()
    assert (card.precision, card.outputs, card.conversion) == (Precision.FLOAT32, (), None)
    assert card.schema_version == 1


def test_the_first_output_must_hold_a_score_for_each_label():
    outputs = [{"name": "embedding", "shape": [75], "description": "the last layer's input"}]
    with pytest.raises(ValidationError, match="it must hold the scores of 1 labels"):
        make_card(outputs=outputs)
    assert make_card(outputs=[{"name": "scores", "shape": [1], "description": "scores"}, *outputs])


def test_a_precision_that_nobody_makes_is_refused():
    with pytest.raises(ValidationError, match="precision"):
        make_card(precision="int4")
