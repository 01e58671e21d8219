"""Models are imported, promoted, rolled back and retired from Python as from the command line."""

import json
import re

import pytest

from db.engine import reading
from db.registry import find_production, list_stage_changes
from db.types import ModelStage
from nightread.errors import CardMismatch, ModelError, NightreadError, PromotionRefused, WrongStage
from nightread.model.bundle import DEFAULT_MODEL, PARITY_FILE
from nightread.settings import read_settings
from tests.factories import make_card, make_metric, write_jpeg
from tests.onnx_factories import make_onnx, write_tiny_bundle
from worker.errors import WrongPaths
from worker.registry.import_model import import_model
from worker.registry.promote import promote, retire, rollback


@pytest.fixture
def settings(tmp_path):
    return read_settings(models_dir=tmp_path / "models", model="", device="cpu", threads=1)


@pytest.fixture
def onnx_file(tmp_path):
    """An ONNX file with a card beside it."""
    (tmp_path / "card.json").write_text(json.dumps(make_card()))
    (tmp_path / "model.onnx").write_bytes(make_onnx())
    return tmp_path / "model.onnx"


def production(engine):
    with reading(engine) as connection:
        found = find_production(connection)
    return None if found is None else found.reference


def test_promote_and_rollback_change_the_production_model(sqlite_engine, settings):
    for version in "12":
        write_tiny_bundle(settings.models_dir, version)
        turnover = promote(sqlite_engine, settings, f"tiny@{version}")
    assert (turnover.production.reference, turnover.replaced.reference) == ("tiny@2", "tiny@1")
    assert rollback(sqlite_engine, settings).production.reference == production(sqlite_engine) == "tiny@1"
    with reading(sqlite_engine) as connection:
        assert all("@" in change.changed_by for change in list_stage_changes(connection))


def test_promote_refuses_a_bundle_that_cannot_be_served_here(sqlite_engine, settings):
    write_tiny_bundle(settings.models_dir)
    (settings.models_dir / "tiny" / "1" / PARITY_FILE).write_bytes(b"")
    with pytest.raises(ModelError):
        promote(sqlite_engine, settings, "tiny@1")
    assert production(sqlite_engine) is None


def test_rollback_without_a_production_model_is_an_error(sqlite_engine, settings):
    with pytest.raises(WrongStage, match="there is no production model"):
        rollback(sqlite_engine, settings)


def test_rollback_leads_to_the_bundle_that_ships_even_a_retired_one(sqlite_engine, settings):
    for version in "12":
        write_tiny_bundle(settings.models_dir, version)
        promote(sqlite_engine, settings, f"tiny@{version}")
    retire(sqlite_engine, settings, DEFAULT_MODEL)
    assert rollback(sqlite_engine, settings, to_shipped=True).replaced.reference == "tiny@2"
    assert production(sqlite_engine) == DEFAULT_MODEL
    assert rollback(sqlite_engine, settings).production.reference == "tiny@2"
    assert [rollback(sqlite_engine, settings).production.reference for _ in "12"] == ["tiny@1", DEFAULT_MODEL]


@pytest.mark.parametrize(
    ("metrics", "fault"),
    [
        ({"auc": make_metric(0.7)}, "AUC 0.700 is below 0.8 on the hold-out"),
        ({"auc": make_metric(0.9), "sensitivity": make_metric(0.5)}, "sensitivity 0.500 is below 0.8"),
        ({"auc": make_metric(0.9), "ece": make_metric(0.2)}, "ECE 0.200 is above 0.1"),
        ({"auc": make_metric(0.9, 0.4)}, "no better than chance"),
        ({}, "its card has no AUC"),
    ],
)
def test_a_model_below_the_floor_needs_a_reason_which_is_stored(sqlite_engine, settings, metrics, fault):
    write_tiny_bundle(settings.models_dir, metrics={"hold-out": metrics})
    with pytest.raises(PromotionRefused, match=re.escape(fault)):
        promote(sqlite_engine, settings, "tiny@1")
    assert production(sqlite_engine) is None
    promote(sqlite_engine, settings, "tiny@1", why="a trial at night")
    with reading(sqlite_engine) as connection:
        assert [change.why for change in list_stage_changes(connection)] == ["a trial at night"]


def test_a_worse_model_needs_a_reason_and_one_of_other_scans_does_not(sqlite_engine, settings):
    training = make_card()["training"] | {"scans": {"hold-out": 100}, "patients": {"hold-out": 50}}
    other = training | {"scans": {"hold-out": 99}}
    for version, auc, trained in (("1", 0.95, training), ("2", 0.93, training), ("3", 0.93, other)):
        metrics = {"hold-out": {"auc": make_metric(auc)}}
        write_tiny_bundle(settings.models_dir, version, metrics=metrics, training=trained)
    promote(sqlite_engine, settings, "tiny@1")
    with pytest.raises(PromotionRefused, match=r"AUC of hold-out is worse, 0\.930 after 0\.950 \(0\.940-0\.960\)"):
        promote(sqlite_engine, settings, "tiny@2")
    assert promote(sqlite_engine, settings, "tiny@3", why="not needed").production.reference == "tiny@3"
    with reading(sqlite_engine) as connection:
        assert {change.why for change in list_stage_changes(connection)} == {None}


def test_retire_takes_a_bundle_that_no_run_has_used_and_undo_brings_it_back(sqlite_engine, settings):
    write_tiny_bundle(settings.models_dir)
    assert retire(sqlite_engine, settings, "tiny@1") == (ModelStage.RETIRED, True)
    assert retire(sqlite_engine, settings, "tiny@1") == (ModelStage.RETIRED, False)
    assert retire(sqlite_engine, settings, "tiny@1", undo=True) == (ModelStage.CANDIDATE, True)


def test_retire_of_the_production_model_or_an_unknown_one_is_an_error(sqlite_engine, settings):
    write_tiny_bundle(settings.models_dir)
    promote(sqlite_engine, settings, "tiny@1")
    with pytest.raises(WrongStage, match="in production"):
        retire(sqlite_engine, settings, "tiny@1")
    with pytest.raises(CardMismatch, match="none@1"):
        retire(sqlite_engine, settings, "none@1")


@pytest.mark.parametrize("given", [0, 2])
def test_import_model_draws_parity_inputs_or_takes_those_that_are_given(sqlite_engine, settings, onnx_file, given):
    scans = [write_jpeg(onnx_file.parent / "scans" / f"{number}.jpg") for number in range(given)]
    inputs = [onnx_file.parent / "scans"] if scans else []
    imported = import_model(sqlite_engine, settings, onnx_file, card=onnx_file.with_name("card.json"), inputs=inputs)
    assert (len(imported.bundle.parity_inputs), imported.is_new) == (given or 8, True)
    assert not import_model(sqlite_engine, settings, imported.folder).is_new


@pytest.mark.parametrize(
    ("source", "options", "error", "message"),
    [
        ("none.onnx", {}, WrongPaths, "there is no"),
        ("model.onnx", {}, NightreadError, "an ONNX file needs --card"),
        (".", {"card": "card.json"}, NightreadError, "is a folder"),
        ("model.onnx", {"card": "card.json", "inputs": ["none"]}, WrongPaths, "there is no file in"),
        ("model.onnx", {"card": "card.json", "inputs": ["card.json"]}, WrongPaths, "is not a scan"),
    ],
)
def test_import_model_refuses_what_makes_no_bundle(sqlite_engine, settings, onnx_file, source, options, error, message):
    here = onnx_file.parent
    given = {"card": here / "card.json"} if "card" in options else {}
    given |= {"inputs": [here / name for name in options.get("inputs", [])]}
    with pytest.raises(error, match=message):
        import_model(sqlite_engine, settings, here / source, **given)
