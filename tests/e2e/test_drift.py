"""`nightread drift` from end to end: a folder is scored, measurements are stored, and drift is reported."""

import numpy as np
import pytest

from exporter.drift_reference import measure_scans
from nightread.inference.session import open_session
from nightread.model.card import Output
from nightread.model.drift import summarise
from nightread.scan.preprocessing import InputSpec, read_and_prepare
from nightread.settings import Device
from tests.factories import draw_chest, encode_jpeg
from tests.onnx_factories import make_gate, make_onnx, write_tiny_bundle
from tests.program import last_json, make_environment, run

SPEC = InputSpec(height_px=8, width_px=8, channels=1)
OUTPUTS = [Output(name=name, shape=(1,), description="") for name in ("scores", "distance", "components")]


def test_a_worker_stores_what_the_export_measured_and_drift_compares_it(tmp_path):
    files = [encode_jpeg(draw_chest(seed, 40, 48)) for seed in range(20)]
    tensors = np.stack([read_and_prepare(file, SPEC, max_pixels=10**6)[0] for file in files])
    measured = measure_scans(open_session(make_onnx(gated=True), Device.CPU, 1), tensors, SPEC, OUTPUTS)
    write_tiny_bundle(
        tmp_path / "models",
        gate=make_gate(max_distance=9, doubtful_distance=9),
        drift_reference=summarise(measured, rejected_share=0.0).model_dump(mode="json"),
    )
    (tmp_path / "night").mkdir()
    for number, file in enumerate(files):
        (tmp_path / "night" / f"{number}.jpg").write_bytes(file)
    env = make_environment(tmp_path, models_dir=tmp_path / "models", model="tiny@1", threads=1)

    run("score", tmp_path / "night", env=env, cwd=tmp_path)
    told = last_json(run("drift", "--json", env=env, cwd=tmp_path))

    assert told["looks_alike"] is True
    assert told["measured"] == told["gate"]["judged"] == 20
    assert told["measurements"].keys() == measured.keys()
    for name, shift in told["measurements"].items():
        assert shift["median"] == pytest.approx(float(np.median(measured[name])), abs=1e-4), (
            name
        )  # components are stored to four decimals
        assert shift["ks"] <= 0.06, name  # the same scans, but for the steps of 20 scans' quantiles
