"""A model serves only if graph, card, device and scores match its export."""

import dataclasses

import numpy as np
import onnxruntime
import pytest

from nightread.errors import CardMismatch, DeviceError, ParityMismatch
from nightread.inference import session
from nightread.inference.scorer import Scorer
from nightread.inference.session import open_session
from nightread.model.bundle import Bundle, write_bundle
from nightread.settings import Device
from tests.factories import make_card
from tests.onnx_factories import USUAL_GRAY, make_gate, make_onnx, score_tiny, write_tiny_bundle

HAS_CUDA = "CUDAExecutionProvider" in onnxruntime.get_available_providers() and any(
    node.exists() for node in session._GPU_NODES
)


@pytest.fixture(scope="module")
def scorer(shipped):
    return Scorer(shipped, Device.CPU, 1)


def change(bundle: Bundle, **fields) -> Bundle:
    """Return a bundle with changed card fields."""
    return dataclasses.replace(bundle, card=bundle.card.model_copy(update=fields))


class TestScoring:
    def test_the_bundle_that_ships_is_reproduced_here(self, scorer, shipped):
        assert scorer.parity <= scorer.allowed_parity
        assert scorer.allowed_parity < 1e-4
        assert (scorer.digest, scorer.card) == (shipped.digest, shipped.card)

    def test_what_it_runs_on_is_told(self, scorer):
        assert (scorer.provider, scorer.device) == ("CPUExecutionProvider", "cpu")
        assert scorer.runtime == f"onnxruntime {onnxruntime.__version__}"

    def test_scores_have_a_column_a_label_and_are_float32(self, scorer, shipped):
        scores = scorer.score_batch(shipped.parity_inputs)
        assert scores.shape == (len(shipped.parity_inputs), len(shipped.card.labels))
        assert scores.dtype == np.float32
        assert ((scores >= 0) & (scores <= 1)).all()

    def test_a_score_depends_neither_on_the_batch_around_it_nor_on_its_place(self, scorer):
        inputs = np.random.default_rng(0).random((7, *scorer.card.input.shape), dtype=np.float32)
        together = scorer.score_batch(inputs)
        for place, tensor in enumerate(inputs):
            np.testing.assert_allclose(scorer.score_batch(tensor[np.newaxis]), together[place : place + 1], atol=1e-6)
        np.testing.assert_allclose(scorer.score_batch(inputs[::-1])[::-1], together, atol=1e-6)
        padded = np.concatenate([inputs, np.zeros((9, *scorer.card.input.shape), np.float32)])
        np.testing.assert_allclose(scorer.score_batch(padded)[:7], together, atol=1e-6)

    def test_the_same_batch_has_the_same_scores_to_the_bit(self, scorer, shipped):
        first = scorer.score_batch(shipped.parity_inputs)
        assert (scorer.score_batch(shipped.parity_inputs) == first).all()


class TestRefusing:
    @pytest.mark.parametrize("difference", [1e-3, -0.5, np.nan])
    def test_scores_other_than_those_of_the_export(self, shipped, difference):
        scores = shipped.parity_scores.copy()
        scores[-1, 0] += difference
        with pytest.raises(ParityMismatch, match=r"differs by .* allowed is .*NIGHTREAD_DEVICE=cpu") as refused:
            Scorer(dataclasses.replace(shipped, parity_scores=scores), Device.CPU, 1)
        assert "\n" not in str(refused.value)

    def test_a_difference_in_the_first_input_alone(self, shipped):
        scores = shipped.parity_scores.copy()
        scores[0, 0] += 1e-3
        with pytest.raises(ParityMismatch):
            Scorer(dataclasses.replace(shipped, parity_scores=scores), Device.CPU, 1)

    def test_another_input_shape_than_the_card_says(self, shipped):
        other = shipped.card.input.model_copy(update={"height_px": 224})
        with pytest.raises(CardMismatch, match=r"takes tensor\(float\) \(N, .*75, 75, 3.*card says .*224, 75, 3"):
            Scorer(change(shipped, input=other), Device.CPU, 1)

    def test_another_number_of_labels_than_the_card_says(self, shipped):
        with pytest.raises(CardMismatch, match="its card names 2 labels"):
            Scorer(change(shipped, labels=("pneumonia", "effusion")), Device.CPU, 1)

    @pytest.mark.parametrize("model", [b"", b"garbage", b"\x08\x07" * 500, None], ids=["none", "text", "bytes", "cut"])
    def test_bytes_that_are_no_model(self, shipped, model):
        if model is None:
            model = shipped.model[: len(shipped.model) // 2]
        with pytest.raises(CardMismatch, match=r"not an ONNX file|cannot be loaded by ONNX Runtime") as refused:
            Scorer(dataclasses.replace(shipped, model=model), Device.CPU, 1)
        assert "\n" not in str(refused.value)


class TestDevices:
    def test_auto_takes_the_cpu_where_there_is_no_gpu(self, shipped, monkeypatch):
        monkeypatch.setattr(session, "_GPU_NODES", ())
        opened = open_session(shipped.model, Device.AUTO, 1)
        assert (opened.provider, opened.device) == ("CPUExecutionProvider", "cpu")

    @pytest.mark.skipif(HAS_CUDA, reason="CUDA is here")
    def test_cuda_is_refused_where_it_is_not_active_with_the_remedy(self, shipped):
        with pytest.raises(DeviceError, match=r"cannot use CUDA here: .*--extra cuda.*NIGHTREAD_DEVICE=cpu"):
            open_session(shipped.model, Device.CUDA, 1)

    @pytest.mark.skipif(HAS_CUDA, reason="CUDA is here")
    def test_a_gpu_that_cannot_be_used_is_told_and_the_cpu_taken(self, shipped, monkeypatch, tmp_path, caplog):
        monkeypatch.setattr(session, "_GPU_NODES", (tmp_path,))
        opened = open_session(shipped.model, Device.AUTO, 1)
        assert opened.provider == "CPUExecutionProvider"
        assert "a GPU is there but ONNX Runtime cannot use it" in caplog.text

    @pytest.mark.gpu
    @pytest.mark.skipif(not HAS_CUDA, reason="no CUDA here")
    @pytest.mark.parametrize("device", [Device.CUDA, Device.AUTO])
    def test_cuda_reproduces_the_export_and_is_what_is_told(self, shipped, device):
        scorer = Scorer(shipped, device, 1)
        assert (scorer.provider, scorer.device) == ("CUDAExecutionProvider", "cuda")
        assert scorer.parity <= scorer.allowed_parity


class TestGate:
    def test_a_model_with_a_gate_tells_distances_and_components(self, tmp_path):
        scorer = Scorer(write_tiny_bundle(tmp_path, gate=make_gate()), Device.CPU, 1)
        inferred = scorer.infer_batch(np.full((3, 8, 8, 1), USUAL_GRAY + 0.2, np.float32))
        assert inferred.scores.shape == (3, 1)
        np.testing.assert_allclose(inferred.distances, [2, 2, 2], atol=1e-5)
        assert inferred.components.shape == (3, 8)
        assert inferred.placements is None

    def test_a_model_without_one_tells_scores_alone(self, tmp_path):
        inferred = Scorer(write_tiny_bundle(tmp_path), Device.CPU, 1).infer_batch(np.zeros((2, 8, 8, 1), np.float32))
        assert inferred.scores.shape == (2, 1)
        assert inferred.distances is None

    def test_a_graph_that_lacks_what_the_gate_of_its_card_needs_is_refused(self, tmp_path):
        inputs = np.zeros((1, 8, 8, 1), np.float32)
        bundle = write_bundle(
            tmp_path / "tiny" / "1", model=make_onnx(), parity_inputs=inputs, parity_scores=score_tiny(inputs),
            card=make_card(gate=make_gate()),
        )  # fmt: skip
        with pytest.raises(CardMismatch, match=r"has no output distance of shape .*which the gate of its card needs"):
            Scorer(bundle, Device.CPU, 1)
