"""Makes TensorFlow ready for `train`, `export` and `evaluate`."""

import importlib.util
import os
import sys

from nightread.errors import NightreadError

_TRAIN_PACKAGES = ("tensorflow", "keras", "tf2onnx", "onnx")


def prepare_tensorflow() -> None:
    """Check that the extra `train` is installed, and silence TensorFlow's start-up messages; call before importing it.

    Raises:
        NightreadError: a package is missing; the message names the remedy.
    """
    missing = [package for package in _TRAIN_PACKAGES if importlib.util.find_spec(package) is None]
    if missing and sys.version_info >= (3, 14):
        raise NightreadError(
            f"training and export need {', '.join(missing)}; TensorFlow has no release for Python 3.14 yet: train with "
            "Python 3.13, and score with any"
        )
    if missing:
        raise NightreadError(
            f"training and export need {', '.join(missing)}, which the extra `train` brings: "
            "uv sync --extra train, or uv run --extra train nightread ..."
        )
    os.environ["KERAS_BACKEND"] = "tensorflow"
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
