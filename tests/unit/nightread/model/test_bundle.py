import hashlib
import io
import json
import os
import stat

import numpy as np
import pytest

from nightread.errors import CardMismatch, NightreadError
from nightread.model import bundle
from nightread.model.bundle import (
    CARD_FILE,
    MODEL_FILE,
    PARITY_FILE,
    copy_bundle,
    find_bundle,
    find_new_folder,
    list_bundles,
    list_card_faults,
    load_bundle,
    write_bundle,
)
from tests import factories
from tests.onnx_factories import write_tiny_bundle

MODEL = bytes(range(256)) * 20


def write_tiny(folder, **changes):
    arguments = {
        "model": MODEL,
        "parity_inputs": np.linspace(0, 1, 3 * 64, dtype=np.float32).reshape(3, 8, 8, 1),
        "parity_scores": np.array([[0.1], [0.5], [0.9]], np.float32),
        "card": factories.make_card(),
        **changes,
    }
    return write_bundle(folder, **arguments)


@pytest.fixture
def folder(tmp_path):
    write_tiny(tmp_path / "tiny" / "1")
    return tmp_path / "tiny" / "1"


@pytest.fixture(autouse=True)
def _no_shipped_bundles(monkeypatch, tmp_path):
    monkeypatch.setattr(bundle, "SHIPPED_DIR", tmp_path / "shipped")


def refusal(folder):
    with pytest.raises(CardMismatch) as caught:
        load_bundle(folder)
    return str(caught.value)


def test_what_was_written_is_read(folder):
    loaded = load_bundle(folder)

    assert loaded.model == MODEL
    assert loaded.card.reference == "tiny@1"
    assert loaded.parity_inputs.shape == (3, 8, 8, 1)
    assert loaded.parity_scores.tolist() == np.array([[0.1], [0.5], [0.9]], np.float32).tolist()
    assert sorted(path.name for path in folder.parent.iterdir()) == ["1"]


def test_the_digest_is_that_of_model_and_card(folder, tmp_path):
    digest = load_bundle(folder).digest

    assert write_tiny(tmp_path / "again" / "1").digest == digest
    assert write_tiny(tmp_path / "model" / "1", model=MODEL + b"x").digest != digest
    assert write_tiny(tmp_path / "card" / "1", card=factories.make_card(calibration="isotonic")).digest != digest
    card = (folder / CARD_FILE).read_bytes()
    zeros = card.replace(digest.encode(), b"0" * 64)
    assert digest == hashlib.sha256(hashlib.sha256(MODEL).digest() + zeros).hexdigest()


@pytest.mark.parametrize("bits", [0x01, 0x20])
def test_any_flipped_byte_of_the_card_is_found(folder, bits):
    whole = (folder / CARD_FILE).read_bytes()

    for position in range(len(whole)):
        damaged = bytearray(whole)
        damaged[position] ^= bits
        (folder / CARD_FILE).write_bytes(damaged)
        assert refusal(folder), f"byte {position}: {whole[max(0, position - 20) : position + 20]!r}"


@pytest.mark.parametrize("name", [MODEL_FILE, PARITY_FILE])
def test_a_flipped_byte_of_the_other_files_is_found(folder, name):
    whole = (folder / name).read_bytes()

    for position in {*range(0, len(whole), 37), len(whole) - 1}:
        damaged = bytearray(whole)
        damaged[position] ^= 1
        (folder / name).write_bytes(damaged)
        message = refusal(folder)
        assert message.startswith(name)
        assert "export or import" in message


@pytest.mark.parametrize("name", [MODEL_FILE, PARITY_FILE, CARD_FILE])
def test_a_missing_or_shortened_file_is_named(folder, name):
    whole = (folder / name).read_bytes()
    (folder / name).write_bytes(whole[:-1])
    assert "tiny/1" in refusal(folder)

    (folder / name).unlink()
    assert name in refusal(folder)


def test_a_folder_that_is_none_is_told(tmp_path):
    assert "none/1 is incomplete" in refusal(tmp_path / "none" / "1")


def rewrite(folder, **fields):
    """Change fields of the card and update its digest."""
    card = json.loads((folder / CARD_FILE).read_bytes())
    blank = json.dumps({**card, **fields, "digest": "0" * 64}, indent=2).encode()
    model = (folder / MODEL_FILE).read_bytes()
    (folder / CARD_FILE).write_bytes(blank.replace(b"0" * 64, bundle.compute_digest(model, blank).encode(), 1))


def test_a_card_may_be_written_by_other_tools(folder):
    rewrite(folder, description="written anew")

    assert load_bundle(folder).card.description == "written anew"


def test_an_unknown_preprocessing_version_is_refused(folder):
    rewrite(folder, preprocessing_version="99")

    message = refusal(folder)
    assert "preprocessing version 99" in message
    assert "use the release" in message


@pytest.mark.parametrize("version", ["1", "2"])
def test_a_bundle_prepares_scans_in_its_own_version(tmp_path, version):
    write_tiny(tmp_path / "tiny" / "1", card=factories.make_card(preprocessing_version=version))

    loaded = load_bundle(tmp_path / "tiny" / "1")

    assert loaded.card.input.preprocessing_version == version
    assert "preprocessing_version" not in json.loads((tmp_path / "tiny" / "1" / CARD_FILE).read_bytes())["input"]


def test_labels_that_do_not_fit_the_parity_scores_are_refused(folder):
    rewrite(folder, labels=["a", "b"], thresholds={name: {"low": 0.4, "high": 0.6} for name in "ab"})

    assert "(N, 2)" in refusal(folder)


def test_a_misspelt_field_is_refused_and_named(folder):
    rewrite(folder, tresholds={})

    assert "tresholds" in refusal(folder)


def test_a_parity_file_that_is_none_is_refused(folder):
    for content in (b"no archive", b"PK\x03\x04", b""):
        (folder / PARITY_FILE).write_bytes(content)
        rewrite(
            folder,
            files={MODEL_FILE: hashlib.sha256(MODEL).hexdigest(), PARITY_FILE: hashlib.sha256(content).hexdigest()},
        )
        assert "holds no arrays" in refusal(folder)


def test_a_pickle_in_the_parity_file_is_never_loaded(folder):
    buffer = io.BytesIO()
    np.savez(buffer, inputs=np.array([{"an": "object"}], dtype=object), scores=np.zeros((1, 1), np.float32))
    (folder / PARITY_FILE).write_bytes(buffer.getvalue())
    digest = hashlib.sha256(buffer.getvalue()).hexdigest()
    rewrite(folder, files={MODEL_FILE: hashlib.sha256(MODEL).hexdigest(), PARITY_FILE: digest})

    assert "holds no arrays" in refusal(folder)


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"card": factories.make_card(thresholds={})}, "thresholds are for"),
        ({"parity_inputs": np.zeros((3, 9, 8, 1), np.float32)}, r"\(3, 9, 8, 1\)"),
        ({"parity_inputs": np.zeros((3, 8, 8, 1))}, "must be float32"),
        (
            {"parity_inputs": np.zeros((0, 8, 8, 1), np.float32), "parity_scores": np.zeros((0, 1), np.float32)},
            "N >= 1",
        ),
        ({"parity_scores": np.zeros((2, 1), np.float32)}, r"scores \(2, 1\)"),
        ({"parity_scores": np.zeros((3, 2), np.float32)}, r"scores \(3, 2\)"),
        ({"parity_scores": np.full((3, 1), np.nan, np.float32)}, "not finite"),
        ({"card": factories.make_card(preprocessing_version="99")}, "preprocessing_version: 99"),
    ],
)
def test_a_bundle_that_does_not_fit_is_refused_and_leaves_nothing_behind(tmp_path, changes, fault):
    with pytest.raises(CardMismatch, match=fault):
        write_tiny(tmp_path / "new" / "1", **changes)

    assert list_bundles(tmp_path) == []
    write_tiny(tmp_path / "new" / "1")


def test_a_bundle_is_never_written_over(folder):
    before = (folder / CARD_FILE).read_bytes()

    with pytest.raises(CardMismatch, match="use another version"):
        write_tiny(folder, model=b"other")

    assert (folder / CARD_FILE).read_bytes() == before
    assert load_bundle(folder).model == MODEL


def test_an_empty_folder_is_written_into(tmp_path):
    (tmp_path / "new" / "1").mkdir(parents=True)

    assert write_tiny(tmp_path / "new" / "1").model == MODEL


def write_version(models_dir, version, created_at="2026-11-20T10:00:00Z", name="tiny"):
    card = factories.make_card(name=name, version=version, created_at=created_at)
    write_tiny(models_dir / name / version, card=card)
    return models_dir / name / version


def test_a_reference_finds_its_version(tmp_path):
    first, second = write_version(tmp_path, "1"), write_version(tmp_path, "2")

    assert find_bundle("tiny@1", tmp_path) == first
    assert find_bundle("tiny@2", tmp_path) == second


def test_a_name_alone_finds_the_newest_by_time_and_not_by_text(tmp_path):
    write_version(tmp_path, "9", "2026-11-20T23:30:00+09:00")
    newest = write_version(tmp_path, "10", "2026-11-20T15:00:00Z")
    write_version(tmp_path, "11", "2026-11-20T09:00:00-05:00")

    assert find_bundle("tiny", tmp_path) == newest


def test_a_damaged_card_does_not_hide_the_others(tmp_path):
    good = write_version(tmp_path, "1")
    (write_version(tmp_path, "2") / CARD_FILE).write_bytes(b"{")

    assert find_bundle("tiny", tmp_path) == good


def test_the_operators_bundles_go_before_those_that_ship(tmp_path):
    write_version(bundle.SHIPPED_DIR, "1")
    own = write_version(tmp_path / "own", "1")

    assert find_bundle("tiny@1", tmp_path / "own") == own


def test_no_reference_means_the_bundle_that_ships(tmp_path):
    name, version = bundle.DEFAULT_MODEL.split("@")
    shipped = write_version(bundle.SHIPPED_DIR, version, name=name)

    assert find_bundle("", tmp_path) == shipped


@pytest.mark.parametrize("reference", ["none", "tiny@9", "../tiny", "tiny@../1", "*"])
def test_a_bundle_that_is_not_there_is_told_with_those_that_are(tmp_path, reference):
    write_version(tmp_path, "1")
    write_version(tmp_path, "2")

    with pytest.raises(CardMismatch) as caught:
        find_bundle(reference, tmp_path)

    assert reference in str(caught.value)
    assert "tiny@1, tiny@2" in str(caught.value)
    assert "NIGHTREAD_MODELS_DIR" in str(caught.value)


def test_no_bundles_at_all_is_told(tmp_path):
    with pytest.raises(CardMismatch, match="there are: none"):
        find_bundle("tiny", tmp_path / "missing")


def test_an_unfinished_bundle_is_not_listed(tmp_path):
    write_version(tmp_path, "1").rename(tmp_path / "tiny" / ".1.4711")

    assert list_bundles(tmp_path) == []


class TestCopying:
    def test_a_copy_has_the_same_bytes_in_the_folder_of_its_name_and_version(self, folder, tmp_path):
        copied, copy = copy_bundle(folder, tmp_path / "models")
        assert copy == tmp_path / "models" / "tiny" / "1"
        assert copied.digest == load_bundle(folder).digest
        assert {path.name: path.read_bytes() for path in copy.iterdir()} == {
            path.name: path.read_bytes() for path in folder.iterdir()
        }

    def test_the_same_bundle_again_is_left_alone(self, folder, tmp_path):
        _, copy = copy_bundle(folder, tmp_path / "models")
        times = {path: path.stat().st_mtime_ns for path in copy.iterdir()}
        assert copy_bundle(folder, tmp_path / "models")[1] == copy
        assert copy_bundle(copy, tmp_path / "models")[1] == copy
        assert {path: path.stat().st_mtime_ns for path in copy.iterdir()} == times

    def test_another_bundle_of_that_name_and_version_is_refused(self, folder, tmp_path):
        copy_bundle(folder, tmp_path / "models")
        write_tiny(tmp_path / "other", model=MODEL + b"x")
        with pytest.raises(CardMismatch, match=r"another model bundle tiny@1.*another version"):
            copy_bundle(tmp_path / "other", tmp_path / "models")

    def test_a_shipped_bundle_of_that_name_and_version_counts_too(self, folder, tmp_path):
        write_tiny(tmp_path / "shipped" / "tiny" / "1", model=MODEL + b"x")
        with pytest.raises(CardMismatch, match="another model bundle tiny@1"):
            copy_bundle(folder, tmp_path / "models")

    def test_a_damaged_one_is_not_written_over(self, folder, tmp_path):
        _, copy = copy_bundle(folder, tmp_path / "models")
        (copy / MODEL_FILE).write_bytes(b"damaged")
        with pytest.raises(CardMismatch, match=r"tiny@1 on this machine, damaged.*remove the folder"):
            copy_bundle(folder, tmp_path / "models")

    def test_a_damaged_source_is_refused(self, folder, tmp_path):
        (folder / MODEL_FILE).write_bytes(b"damaged")
        with pytest.raises(CardMismatch):
            copy_bundle(folder, tmp_path / "models")
        assert not (tmp_path / "models").exists()

    def test_a_folder_that_cannot_be_written_is_told_with_the_setting(self, folder, tmp_path):
        (tmp_path / "models").write_bytes(b"a file")
        with pytest.raises(NightreadError, match=r"tiny/1 cannot be written to .*NIGHTREAD_MODELS_DIR"):
            copy_bundle(folder, tmp_path / "models")


def test_every_fault_of_a_card_is_listed():
    faults = list_card_faults({**factories.make_card(labels=[], threshold=1), "input": {"height_px": 1}})
    named = {fault.partition(" ")[0].removesuffix(":") for fault in faults}
    assert {"labels", "threshold", "input.height_px", "input.width_px", "input.channels"} <= named
    assert list_card_faults(factories.make_card()) == []
    assert list_card_faults(factories.make_card(preprocessing_version="0"))[0].startswith("preprocessing_version: 0")


def test_a_card_with_half_of_a_character_is_refused(tmp_path):
    assert "a lone surrogate" in list_card_faults(factories.make_card(description="a\ud800"))[0]
    with pytest.raises(CardMismatch, match=r"the card is not valid: .*a lone surrogate"):
        write_tiny_bundle(tmp_path, description="a\ud800")


@pytest.mark.parametrize("version", ["", ".", "../x", "X", "a b", "a\n", "a\0", "a" * 65])
def test_a_version_that_no_card_takes_is_refused_before_the_work(tmp_path, version):
    with pytest.raises(CardMismatch, match="cannot be the version of a model bundle; allowed are 1 to 64"):
        find_new_folder(tmp_path, "tiny", version)


def test_a_version_that_is_taken_is_refused_before_the_work(tmp_path):
    assert find_new_folder(tmp_path, "tiny", "1") == tmp_path / "tiny" / "1"
    write_tiny_bundle(tmp_path)
    with pytest.raises(CardMismatch, match="holds a model bundle tiny@1 already"):
        find_new_folder(tmp_path, "tiny", "1")


def test_a_folder_that_was_renamed_is_not_found_as_that_version(tmp_path):
    write_tiny_bundle(tmp_path)
    (tmp_path / "tiny" / "1").rename(tmp_path / "tiny" / "2")
    for reference in ("tiny", "tiny@2"):
        with pytest.raises(CardMismatch, match="the card of the model bundle tiny/2 says tiny/1"):
            find_bundle(reference, tmp_path)


def test_workers_of_other_users_may_read_a_bundle(tmp_path):
    before = os.umask(0o077)
    try:
        folder = tmp_path / "models" / "tiny" / "1"
        write_tiny(folder)
    finally:
        os.umask(before)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (folder.parent, folder, *folder.iterdir())}
    assert {name: mode for name, mode in modes.items() if mode != (0o644 if "." in name else 0o755)} == {}
