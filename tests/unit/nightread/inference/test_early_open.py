"""Opening a model ahead saves time and changes nothing else."""

import pytest

from nightread.errors import CardMismatch
from nightread.inference import early_open
from nightread.inference.early_open import Ahead
from nightread.model.bundle import find_bundle, load_bundle
from nightread.settings import read_settings
from tests.onnx_factories import write_tiny_bundle


def open_ahead(models_dir, model):
    return Ahead(read_settings(models_dir=models_dir, model=model, device="cpu"))


def test_the_model_that_is_named_is_read_and_opened_once(tmp_path, monkeypatch):
    bundle = write_tiny_bundle(tmp_path)
    ahead = open_ahead(tmp_path, "tiny@1")
    scorer = ahead.take_scorer(bundle)
    monkeypatch.setattr(early_open, "load_bundle", lambda folder: pytest.fail("read again"))

    assert scorer is not None
    assert scorer.digest == ahead.load(tmp_path / "tiny" / "1").digest == bundle.digest


def test_another_model_is_read_as_if_nothing_had_been_opened(tmp_path):
    write_tiny_bundle(tmp_path)
    other = write_tiny_bundle(tmp_path, "2", gain=5.0)
    ahead = open_ahead(tmp_path, "tiny@1")

    assert ahead.load(tmp_path / "tiny" / "2").digest == other.digest
    assert ahead.take_scorer(other) is None


def test_a_damaged_bundle_is_refused_where_it_is_read(tmp_path):
    bundle = write_tiny_bundle(tmp_path)
    folder = tmp_path / "tiny" / "1"
    (folder / "model.onnx").write_bytes(b"damaged")
    ahead = open_ahead(tmp_path, "tiny@1")

    assert ahead.take_scorer(bundle) is None
    with pytest.raises(CardMismatch, match="not the file that its card describes"):
        ahead.load(folder)


def test_nothing_is_opened_where_only_the_database_knows_the_model(tmp_path):
    shipped = load_bundle(find_bundle("", tmp_path))
    write_tiny_bundle(tmp_path)

    assert open_ahead(tmp_path, "").take_scorer(shipped) is None
    assert open_ahead(tmp_path / "none", "").take_scorer(shipped) is not None
