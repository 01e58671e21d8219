"""The port of PyTorch's EfficientNet-Lite0: the same weights give the same embedding."""

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("tensorflow", reason="needs the extra `train`: uv sync --extra train")

from trainer.architectures.catalog import find_architecture
from trainer.architectures.efficientnetlite0 import build_backbone, find_weights, load_backbone_weights
from trainer.data.dataset import Task
from trainer.errors import TrainingError

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept:DeprecationWarning")

#: (2, 1280) float32, what PyTorch 2.13 with the package `efficientnet_lite_pytorch` 0.1.0 made of the scans below.
REFERENCE = Path(__file__).parent / "data" / "efficientnetlite0.npz"


def build(channels):
    import keras

    scans = keras.Input((96, 96, channels))
    backbone = keras.Model(scans, build_backbone(scans))
    load_backbone_weights(backbone, find_weights("imagenet"))
    return backbone


def test_gray_scans_are_embedded_as_pytorch_embeds_three_equal_channels():
    scans = np.random.default_rng(7).uniform(-1, 1, (2, 96, 96, 1)).astype(np.float32)
    with np.load(REFERENCE, allow_pickle=False) as arrays:
        expected = arrays["embedding"]
    assert np.abs(expected).max() > 1
    assert np.allclose(build(1)(scans, training=False), expected, atol=1e-4)
    assert np.allclose(build(3)(np.repeat(scans, 3, axis=3), training=False), expected, atol=1e-4)


def test_exposure_and_contrast_do_not_change_the_score():
    import keras

    keras.utils.set_random_seed(1)  # the weights of the head are drawn; some heads hardly tell one scan from another
    model = find_architecture("efficientnetlite0").build(Task(("pneumonia",), "sigmoid"), "imagenet")
    scan = np.random.default_rng(7).uniform(0.2, 0.8, (1, 112, 112, 1)).astype(np.float32)
    brighter, flatter = scan + np.float32(0.1), (scan - 0.5) * np.float32(0.6) + np.float32(0.5)
    scores = np.asarray(model(np.concatenate([scan, brighter, flatter]), training=False))[:, 0]
    assert np.ptp(scores) < 0.02
    other = np.asarray(model(scan[:, ::-1], training=False))[0, 0]
    assert abs(other - scores[0]) > np.ptp(scores)


def test_a_file_of_other_weights_is_refused(tmp_path):
    (tmp_path / "other.pth").write_bytes(b"\x80\x02K\x01.")
    with pytest.raises(TrainingError, match=r"other.pth holds no table of PyTorch weights"):
        find_architecture("efficientnetlite0").build(Task(("pneumonia",), "sigmoid"), str(tmp_path / "other.pth"))
