"""Rival: tf.data and Keras' `predict`: `python keras_predict.py FOLDER ARCHITECTURE [OPTION]`; prints JSON.

The network is that of the bundle with random weights, since only its speed is measured. Nothing is stored, which
favours this rival. Scans are resized with antialiasing, like the training scans of Nightread's networks;
--no-antialias omits it, which changes pictures and scores. --one-at-a-time loads and predicts each scan by itself, like
the article's `predictPic`.
"""

import json
import os
import sys
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ["CUDA_VISIBLE_DEVICES"] = ""

import keras
import numpy as np
import tensorflow as tf

from trainer.architectures.catalog import find_architecture
from trainer.data.dataset import Task

_NETWORK = find_architecture(sys.argv[2])
_HEIGHT, _WIDTH, _CHANNELS = _NETWORK.input.shape
_COLOR_MODE = "grayscale" if _CHANNELS == 1 else "rgb"
_BATCH = 32


def read(path: tf.Tensor) -> tf.Tensor:
    """Decode and resize one JPEG."""
    pixels = tf.io.decode_jpeg(tf.io.read_file(path), channels=_CHANNELS)
    return tf.image.resize(pixels, (_HEIGHT, _WIDTH), antialias="--no-antialias" not in sys.argv) / 255.0


def predict_all(model: keras.Model, paths: list[str]) -> int:
    """Predict in batches with parallel decoding; returns the number of scores."""
    scans = tf.data.Dataset.from_tensor_slices(paths).map(read, num_parallel_calls=tf.data.AUTOTUNE)
    return len(model.predict(scans.batch(_BATCH).prefetch(tf.data.AUTOTUNE), verbose=0))


def predict_each(model: keras.Model, paths: list[str]) -> int:
    """Load and predict one scan at a time; returns the number of scores."""
    scores = []
    for path in paths:
        image = keras.utils.load_img(path, color_mode=_COLOR_MODE, target_size=(_HEIGHT, _WIDTH))
        pixels = np.expand_dims(keras.utils.img_to_array(image) / 255.0, 0)
        scores.append(model.predict(pixels, verbose=0))
    return len(scores)


def main() -> None:
    """Measure after a warm-up, without building, tracing and the first batch."""
    paths = sorted(str(path) for path in Path(sys.argv[1]).iterdir())
    predict = predict_each if "--one-at-a-time" in sys.argv else predict_all
    model = _NETWORK.build(Task(("pneumonia",), "sigmoid", "normal"), "none")
    predict(model, paths[:_BATCH])
    started = time.perf_counter()
    count = predict(model, paths)
    print(json.dumps({"scans": count, "seconds": time.perf_counter() - started}))


main()
