"""Import and checks of models: valid bundles, and every kind of fault with its remedy."""

import json
import shutil

import numpy as np
import pytest

from db.engine import reading, write
from db.registry import Request, list_models, promote_model, register_model, retire_model
from nightread.errors import CardMismatch, DatabaseError, ModelError, NightreadError, ParityMismatch, WrongStage
from nightread.inference import bundle_check, trial
from nightread.inference.bundle_check import check_bundle
from nightread.model.bundle import DEFAULT_MODEL, PARITY_FILE, load_bundle
from nightread.settings import read_settings
from tests.db_factories import new_model
from tests.factories import UNGATED_MODEL, make_card
from tests.onnx_factories import make_onnx, score_tiny, write_tiny_bundle
from worker.registry import import_model
from worker.registry.choose import Why, choose_bundle, describe_model
from worker.registry.import_model import import_bundle, import_onnx
from worker.registry.inventory import list_registry


@pytest.fixture(autouse=True)
def _no_child_process(monkeypatch):
    """Try models in this process, which saves a second each; test_hostile_models.py has the child process."""
    for module in (import_model, bundle_check):
        monkeypatch.setattr(module, "try_model", trial.find_model_faults)


@pytest.fixture
def settings(tmp_path):
    return read_settings(models_dir=tmp_path / "models", model="", device="cpu", threads=1)


@pytest.fixture
def elsewhere(tmp_path):
    """A folder of bundles outside the models folder."""
    return tmp_path / "elsewhere"


def stored(engine):
    with reading(engine) as connection:
        return {model.reference: model.stage.value for model in list_models(connection)}


def make_inputs(spec):
    return np.linspace(*spec.value_range, 5 * 64, dtype=np.float32).reshape(5, *spec.shape)


def import_tiny(engine, settings, tmp_path, model=None, without=(), **card):
    (tmp_path / "model.onnx").write_bytes(make_onnx() if model is None else model)
    fields = {name: value for name, value in make_card(**card).items() if name not in without}
    (tmp_path / "card.json").write_text(json.dumps(fields))
    return import_onnx(engine, settings, tmp_path / "model.onnx", tmp_path / "card.json", make_inputs)


def refusal(engine, settings, tmp_path, *arguments, **options):
    with pytest.raises(CardMismatch) as refused:
        import_tiny(engine, settings, tmp_path, *arguments, **options)
    assert stored(engine) == {}
    assert not list(settings.models_dir.glob("*/*"))
    return str(refused.value)


class TestImportOfABundle:
    def test_it_is_copied_and_a_candidate(self, engine, settings, elsewhere):
        bundle = write_tiny_bundle(elsewhere)
        imported = import_bundle(engine, settings, elsewhere / "tiny" / "1")
        assert (imported.bundle.digest, imported.is_new) == (bundle.digest, True)
        assert load_bundle(settings.models_dir / "tiny" / "1").digest == bundle.digest
        assert stored(engine) == {"tiny@1": "candidate"}

    def test_a_second_time_changes_nothing(self, engine, settings, elsewhere):
        write_tiny_bundle(elsewhere)
        import_bundle(engine, settings, elsewhere / "tiny" / "1")
        assert not import_bundle(engine, settings, elsewhere / "tiny" / "1").is_new

    def test_one_that_lies_there_already_is_written_down(self, engine, settings):
        write_tiny_bundle(settings.models_dir)
        assert import_bundle(engine, settings, settings.models_dir / "tiny" / "1").is_new
        assert stored(engine) == {"tiny@1": "candidate"}

    def test_the_database_refuses_another_digest_before_anything_is_copied(self, engine, settings, elsewhere):
        write_tiny_bundle(elsewhere)
        write(engine, lambda connection: register_model(connection, new_model(name="tiny")))
        with pytest.raises(DatabaseError, match="tiny@1 with another digest"):
            import_bundle(engine, settings, elsewhere / "tiny" / "1")
        assert not settings.models_dir.exists()

    def test_the_folder_refuses_another_digest(self, engine, settings, elsewhere):
        write_tiny_bundle(settings.models_dir)
        write_tiny_bundle(elsewhere, bias=-1.0)
        with pytest.raises(CardMismatch, match="another model bundle tiny@1"):
            import_bundle(engine, settings, elsewhere / "tiny" / "1")
        assert stored(engine) == {}

    def test_a_name_that_was_taken_meanwhile_leaves_no_folder(self, engine, settings, elsewhere, monkeypatch):
        write_tiny_bundle(elsewhere)

        def take_first(*arguments):
            write(engine, lambda connection: register_model(connection, new_model(name="tiny")))
            return copy(*arguments)

        copy = import_model.copy_bundle
        monkeypatch.setattr(import_model, "copy_bundle", take_first)
        with pytest.raises(DatabaseError, match="another digest"):
            import_bundle(engine, settings, elsewhere / "tiny" / "1")
        assert not (settings.models_dir / "tiny" / "1").exists()

    def test_one_that_is_not_reproduced_here_is_refused(self, engine, settings, elsewhere):
        inputs = np.zeros((1, 8, 8, 1), np.float32)
        import_model.write_bundle(
            elsewhere / "tiny" / "1", model=make_onnx(), parity_inputs=inputs,
            parity_scores=score_tiny(inputs) + np.float32(0.01), card=make_card(),
        )  # fmt: skip
        with pytest.raises(ParityMismatch):
            import_bundle(engine, settings, elsewhere / "tiny" / "1")
        assert not settings.models_dir.exists()


class TestImportOfAnOnnxFile:
    @pytest.fixture(autouse=True)
    def _without_the_package_onnx(self, monkeypatch):
        """Workers do not install the package onnx; tests/train covers its additional checks."""
        monkeypatch.setattr(trial.importlib.util, "find_spec", lambda name: None)

    def test_it_becomes_a_bundle_whose_card_tells_what_its_parity_is_worth(self, engine, settings, tmp_path):
        imported = import_tiny(engine, settings, tmp_path)
        bundle = load_bundle(settings.models_dir / "tiny" / "1")
        assert (imported.bundle.digest, imported.folder) == (bundle.digest, settings.models_dir / "tiny" / "1")
        assert bundle.card.limitations[0] == "everything"
        assert "against onnxruntime" in bundle.card.limitations[-1]
        assert "on the importing machine, over 5 inputs" in bundle.card.limitations[-1]
        np.testing.assert_allclose(bundle.parity_scores, score_tiny(bundle.parity_inputs), atol=1e-6)
        assert stored(engine) == {"tiny@1": "candidate"}

    def test_what_can_be_computed_may_be_left_out_or_be_another_bundles(self, engine, settings, tmp_path):
        left_out = ("created_at", "parity_tolerance")
        card = import_tiny(engine, settings, tmp_path, without=left_out, digest="0" * 64, files={}).bundle.card
        assert card.parity_tolerance == 1e-5
        assert card.created_at.utcoffset().total_seconds() == 0

    def test_every_fault_of_card_and_graph_is_named_at_once(self, engine, settings, tmp_path):
        model = make_onnx(last="Magic", domain="com.example", external=True)
        said = refusal(engine, settings, tmp_path, model, labels=[], threshold=1, without=("activation",))
        for words in ("card: labels", "card: threshold", "card: activation", "com.example:Magic", "other files"):
            assert words in said

    def test_a_graph_is_looked_at_beside_a_card_that_does_not_hold(self, sqlite_engine, settings, tmp_path):
        said = refusal(sqlite_engine, settings, tmp_path, make_onnx(batch=1), labels=[])
        assert "card: labels" in said
        assert "graph: it takes batches of 1 only" in said

    @pytest.mark.parametrize(
        ("model", "card", "words"),
        [
            (make_onnx(side_px=16), {}, ["takes tensor(float) (N, 16, 16, 1)", "(N, 8, 8, 1)"]),
            (make_onnx(labels=2), {}, ["returns tensor(float) (N, 2)", "names 1 labels"]),
            (make_onnx(batch=1), {}, ["batches of 1 only", "batch axis"]),
            (make_onnx(side_px=16, labels=2, batch=4), {}, ["takes tensor", "returns tensor", "batches of 4"]),
            (make_onnx(last="Neg"), {}, ["scores from", "[0, 1]", "sigmoid"]),
            (make_onnx(last="Magic"), {}, ["ONNX Runtime", "Magic"]),
            (make_onnx(last="Gelu", domain="com.microsoft"), {}, ["com.microsoft:Gelu", "standard operators"]),
            (b"no network", {}, ["not an ONNX file"]),
            (make_onnx(), {"preprocessing_version": "0"}, ["preprocessing_version: 0"]),
        ],
    )
    def test_a_fault_is_refused_with_what_was_found_and_allowed(self, sqlite_engine, settings, tmp_path, model, card,
                                                                words):  # fmt: skip
        said = refusal(sqlite_engine, settings, tmp_path, model, **card)
        assert [word for word in words if word not in said] == []

    def test_a_name_and_version_that_are_known_are_refused(self, engine, settings, tmp_path):
        import_tiny(engine, settings, tmp_path)
        with pytest.raises(CardMismatch, match=r"has tiny@1 already.*another version"):
            import_tiny(engine, settings, tmp_path)
        shutil.rmtree(settings.models_dir)
        with pytest.raises(CardMismatch, match="has tiny@1 already"):
            import_tiny(engine, settings, tmp_path)

    @pytest.mark.parametrize("content", [b"{", b"[]", b"\xff"])
    def test_a_card_that_is_no_json_object_is_told(self, sqlite_engine, settings, tmp_path, content):
        (tmp_path / "model.onnx").write_bytes(make_onnx())
        (tmp_path / "card.json").write_bytes(content)
        with pytest.raises(CardMismatch, match=r"card\.json .*no JSON.*models show --json"):
            import_onnx(sqlite_engine, settings, tmp_path / "model.onnx", tmp_path / "card.json", make_inputs)

    def test_a_missing_file_is_told(self, sqlite_engine, settings, tmp_path):
        with pytest.raises(NightreadError, match="cannot be read"):
            import_onnx(sqlite_engine, settings, tmp_path / "none.onnx", tmp_path / "card.json", make_inputs)


class TestChecking:
    def test_a_whole_bundle_passes_every_check(self, settings):
        write_tiny_bundle(settings.models_dir)
        checked = check_bundle(settings.models_dir / "tiny" / "1", settings)
        assert checked.ok
        assert [finding.check for finding in checked.findings] == [
            "bytes", "card", "graph", "device", "parity at batch size 1", "parity at batch size 2",
            "parity at batch size 7", "parity at batch size 32", "parity at every position of 7",
        ]  # fmt: skip
        assert checked.parity <= 1e-6

    def test_a_damaged_file_ends_it(self, settings):
        write_tiny_bundle(settings.models_dir)
        (settings.models_dir / "tiny" / "1" / PARITY_FILE).write_bytes(b"")
        (finding,) = check_bundle(settings.models_dir / "tiny" / "1", settings).findings
        assert not finding.ok
        assert PARITY_FILE in finding.found

    def test_scores_that_are_not_reproduced_are_shown_with_their_difference(self, settings):
        inputs = np.zeros((1, 8, 8, 1), np.float32)
        import_model.write_bundle(
            settings.models_dir / "tiny" / "1", model=make_onnx(), parity_inputs=inputs,
            parity_scores=score_tiny(inputs) + np.float32(0.01), card=make_card(),
        )  # fmt: skip
        checked = check_bundle(settings.models_dir / "tiny" / "1", settings)
        assert [finding.ok for finding in checked.findings] == [True] * 4 + [False] * 5
        assert checked.parity == pytest.approx(0.01, abs=1e-4)

    def test_a_graph_that_does_not_fit_its_card_is_told(self, settings):
        import_model.write_bundle(
            settings.models_dir / "tiny" / "1", model=make_onnx(labels=2),
            parity_inputs=np.zeros((1, 8, 8, 1), np.float32), parity_scores=np.zeros((1, 1), np.float32),
            card=make_card(),
        )  # fmt: skip
        checked = check_bundle(settings.models_dir / "tiny" / "1", settings)
        assert not checked.ok
        assert "(N, 2)" in next(finding.found for finding in checked.findings if finding.check == "graph")


class TestChoosing:
    def promote(self, engine, bundle):
        write(engine, lambda connection: promote_model(connection, describe_model(bundle), Request("ada@host")))

    def test_it_is_the_named_one_else_the_production_model_else_the_one_that_ships(self, engine, settings):
        assert (choice := choose_bundle(engine, settings)).bundle.card.reference == DEFAULT_MODEL
        assert (choice.why, choice.stored) == (Why.SHIPS, None)
        self.promote(engine, write_tiny_bundle(settings.models_dir))
        write_tiny_bundle(settings.models_dir, "2")
        assert (choice := choose_bundle(engine, settings)).bundle.card.reference == "tiny@1"
        assert choice.why is Why.PRODUCTION
        named = settings.model_copy(update={"model": "tiny@2"})
        assert (choice := choose_bundle(engine, named)).bundle.card.reference == "tiny@2"
        assert choice.why is Why.ASKED

    def test_a_production_model_that_is_not_here_is_told(self, engine, settings):
        self.promote(engine, write_tiny_bundle(settings.models_dir))
        shutil.rmtree(settings.models_dir)
        with pytest.raises(CardMismatch, match=r"tiny@1 \(production\) is not on this machine: copy its bundle"):
            choose_bundle(engine, settings)

    @pytest.mark.parametrize("model", ["", "tiny@1"])
    def test_another_bundle_of_the_same_name_and_version_is_refused(self, engine, settings, model):
        self.promote(engine, write_tiny_bundle(settings.models_dir))
        shutil.rmtree(settings.models_dir)
        write_tiny_bundle(settings.models_dir, bias=-1.0)
        with pytest.raises(CardMismatch, match=r"tiny@1 on this machine has the digest .*bundles never change"):
            choose_bundle(engine, settings.model_copy(update={"model": model}))

    def test_a_retired_model_is_for_those_who_make_no_run(self, engine, settings):
        bundle = write_tiny_bundle(settings.models_dir)
        write(engine, lambda connection: register_model(connection, describe_model(bundle)))
        write(engine, lambda connection: retire_model(connection, bundle.digest, Request("ada@host")))
        named = settings.model_copy(update={"model": "tiny@1"})
        with pytest.raises(WrongStage, match="tiny@1 is retired"):
            choose_bundle(engine, named)
        assert choose_bundle(engine, named, allow_retired=True).is_retired


def test_the_list_tells_where_machine_and_database_differ(engine, settings):
    for version in "1234":
        write_tiny_bundle(settings.models_dir, version)
    for version in "12":
        import_bundle(engine, settings, settings.models_dir / "tiny" / version)
    write(engine, lambda connection: register_model(connection, new_model(name="tiny", version="3")))
    write(engine, lambda connection: register_model(connection, new_model(name="gone", digest="e" * 64)))
    (settings.models_dir / "tiny" / "2" / PARITY_FILE).unlink()
    (settings.models_dir / "tiny" / "4").rename(settings.models_dir / "tiny" / "5")

    entries = {entry.reference: entry for entry in list_registry(engine, settings)}

    assert list(entries) == sorted(["gone@1", DEFAULT_MODEL, UNGATED_MODEL, "tiny@1", "tiny@2", "tiny@3", "tiny@5"])
    assert (entries["tiny@1"].stage, entries["tiny@1"].difference, entries["tiny@1"].error) == ("candidate", "", "")
    assert (entries["tiny@2"].stage, PARITY_FILE in entries["tiny@2"].error) == ("candidate", True)
    assert "the database has another bundle of this name" in entries["tiny@3"].difference
    assert "its card says tiny@4" in entries["tiny@5"].difference
    assert (entries["gone@1"].is_here, entries["gone@1"].labels) == (False, ("pneumonia",))
    assert "not on this machine" in entries["gone@1"].difference
    assert entries[DEFAULT_MODEL].stage is None


def test_a_model_that_wants_other_files_is_never_opened(settings):
    from nightread.inference.session import open_session
    from nightread.settings import Device

    with pytest.raises(ModelError, match="other files"):
        open_session(make_onnx(external=True), Device.CPU, 1)
