from pathlib import Path

import numpy as np
import pytest

from exporter.reference import measure_hold_out, measure_scans
from exporter.training_folder import TrainingFolder
from nightread.card import Output
from nightread.preparing import InputSpec
from tests.factories import make_metric
from tests.onnx_factories import encode_model, encode_node, encode_value, make_onnx, score_tiny

SPEC = InputSpec(height_px=8, width_px=8, channels=1)
SCORES = Output(name="scores", shape=(1,), description="scores")
DISTANCE = Output(name="distance", shape=(1,), description="distance")
COMPONENTS = Output(name="components", shape=(8,), description="components")
GATE = {"gate": {"max_distance": 2.0, "max_aspect_ratio": 2.0, "false_rejection": make_metric(0.0125, 0.005)}}


def draw(scans):
    return np.random.default_rng(4).random((scans, 8, 8, 1)).astype(np.float32)


def make_trained(scans, card):
    return TrainingFolder(Path("none"), SPEC, ("pneumonia",), (), scans, None, None, None, card)


def make_gated():
    """Return a graph whose distance is the mean of a scan, and whose components are its first row."""
    return encode_model(
        [
            encode_node("ReduceMean", "scans axes", "mean"),
            encode_node("Sigmoid", "mean", "scores"),
            encode_node("Identity", "mean", "distance"),
            encode_node("Slice", "scans starts ends slice_axes", "row"),
            encode_node("Reshape", "row shape", "components"),
        ],
        [],
        [encode_value("scans", "N", 8, 8, 1)],
        [encode_value("scores", "N", 1), encode_value("distance", "N", 1), encode_value("components", "N", 8)],
    )


def test_the_hold_out_is_measured_through_the_graph():
    scans = draw(30)
    reference = measure_hold_out(make_onnx(), make_trained(scans, GATE), [SCORES])

    scores = np.round(score_tiny(scans)[:, 0].astype(np.float64), 4)
    assert set(reference.quantiles["score"]) <= set(np.round([*scores, *(scores + 1e-4), *(scores - 1e-4)], 4))
    assert (reference.scans, reference.rejected_share) == (30, 0.0125)
    assert reference.quantiles["brightness"][50] == pytest.approx(0.5, abs=0.05)
    assert "distance" not in reference.quantiles


def test_without_a_gate_there_is_nothing_that_workers_measure():
    assert measure_hold_out(make_onnx(), make_trained(draw(5), {}), [SCORES]) is None


def test_scans_are_measured_in_batches_as_in_one():
    scans = draw(7)
    whole = measure_scans(make_onnx(), scans, SPEC, [SCORES])
    alone = [measure_scans(make_onnx(), scans[place : place + 1], SPEC, [SCORES]) for place in range(7)]
    for name, values in whole.items():
        assert values == pytest.approx([one[name][0] for one in alone], abs=1e-6)
