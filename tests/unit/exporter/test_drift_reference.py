from pathlib import Path

import numpy as np
import pytest

from exporter.drift_reference import measure_hold_out, measure_scans
from nightread.inference.session import open_session
from nightread.model.card import Output
from nightread.model.training_folder import TrainingFolder
from nightread.scan.preprocessing import InputSpec
from nightread.settings import Device
from tests.factories import make_metric
from tests.onnx_factories import USUAL_GRAY, make_gate, make_onnx, score_tiny

SPEC = InputSpec(height_px=8, width_px=8, channels=1)
SCORES = Output(name="scores", shape=(1,), description="scores")
DISTANCE = Output(name="distance", shape=(1,), description="distance")
COMPONENTS = Output(name="components", shape=(8,), description="components")
OUTPUTS = [SCORES, DISTANCE, COMPONENTS]
GATE = {"gate": make_gate(false_rejection=make_metric(0.0125, 0.005))}


def draw(scans):
    return np.random.default_rng(4).random((scans, 8, 8, 1)).astype(np.float32)


def open_tiny(*, gated=False):
    return open_session(make_onnx(gated=gated), Device.CPU, 1)


def make_trained(scans, card):
    return TrainingFolder(Path("none"), SPEC, ("pneumonia",), (), scans, None, None, None, card, gate=None)


def test_the_hold_out_is_measured_through_the_graph():
    scans = draw(30)
    reference = measure_hold_out(open_tiny(gated=True), make_trained(scans, GATE), OUTPUTS)

    assert (reference.scans, reference.rejected_share) == (30, 0.0125)
    assert reference.quantiles["score"][0] == pytest.approx(score_tiny(scans).min(), abs=1e-4)
    assert reference.quantiles["score"][100] == pytest.approx(score_tiny(scans).max(), abs=1e-4)
    assert reference.quantiles["brightness"][50] == pytest.approx(0.5, abs=0.05)
    distances = np.abs(10 * (scans.mean(axis=(1, 2, 3)) - USUAL_GRAY))
    assert reference.quantiles["distance"][100] == pytest.approx(distances.max(), abs=1e-3)
    assert reference.quantiles["component_1"][100] == pytest.approx(distances.max(), abs=1e-3)
    assert {f"component_{place}" for place in range(1, 9)} <= reference.quantiles.keys()


def test_without_a_gate_there_is_nothing_that_workers_measure():
    assert measure_hold_out(open_tiny(), make_trained(draw(5), {}), [SCORES]) is None


def test_scans_are_measured_in_batches_as_in_one():
    scans = draw(7)
    whole = measure_scans(open_tiny(), scans, SPEC, [SCORES])
    alone = [measure_scans(open_tiny(), scans[place : place + 1], SPEC, [SCORES]) for place in range(7)]
    for name, values in whole.items():
        assert values == pytest.approx([one[name][0] for one in alone], abs=1e-6)
