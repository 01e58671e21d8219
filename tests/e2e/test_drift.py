"""From a folder to the answer: a night is scored, what it measures is stored, and `nightread drift` tells of it."""

from dataclasses import asdict

import numpy as np
import pytest

from nightread.drift import summarise
from nightread.measuring import measure
from nightread.preparing import InputSpec, read_and_prepare
from tests.factories import encode_jpeg, small_chest, write_jpeg
from tests.onnx_factories import score_tiny, write_tiny_bundle
from tests.program import last_json, make_environment, run

SPEC = InputSpec(height_px=8, width_px=8, channels=1)


def make_reference(scans=150):
    tensors = [
        read_and_prepare(encode_jpeg(small_chest(1000 + seed)), SPEC, max_pixels=10**6)[0] for seed in range(scans)
    ]
    told = [asdict(measure(tensor, SPEC)) for tensor in tensors]
    values = {name: np.array([one[name] for one in told]) for name in told[0]}
    values["score"] = score_tiny(np.stack(tensors))[:, 0].astype(np.float64)
    return summarise(values, rejected_share=0.0).model_dump(mode="json")


@pytest.fixture
def call(tmp_path):
    write_tiny_bundle(tmp_path / "models", drift_reference=make_reference())
    env = make_environment(tmp_path, models_dir=tmp_path / "models", model="tiny@1", threads=1)

    def call(*arguments):
        return run(*arguments, env=env, cwd=tmp_path)

    return call


def test_a_night_is_told_from_one_of_other_scans_and_so_is_its_repetition(call, tmp_path):
    for seed in range(40):
        write_jpeg(tmp_path / "alike" / f"{seed}.jpg", small_chest(seed))
        write_jpeg(tmp_path / "other" / f"{seed}.jpg", 130 + small_chest(seed) // 4)
    call("score", tmp_path / "alike")
    call("score", tmp_path / "other")

    alike, other = last_json(call("drift", "alike", "--json")), last_json(call("drift", "other", "--json"))
    assert (alike["looks_like_training"], alike["measured"]) == (True, 40)
    assert other["looks_like_training"] is False
    assert other["measurements"]["brightness"]["alarm"]

    again = last_json(call("score", tmp_path / "other", "--json"))
    assert again["reused"] == 40
    repeated = last_json(call("drift", again["run"], "--json"))
    assert repeated["measurements"] == other["measurements"]
    assert call("drift").stdout.splitlines()[-1].startswith("this run does not look like the training data: ")
