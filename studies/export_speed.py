"""Compare the CPU time of a network in each precision with Keras' `predict`, interleaved.

    uv run --extra train python studies/export_speed.py trainings/cnn75
    uv run --extra train python studies/export_speed.py --application MobileNetV3Small --size 224

An application of Keras has random weights and noise as input: only its times and parity are meaningful.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["KERAS_BACKEND"] = "tensorflow"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ["CUDA_VISIBLE_DEVICES"] = ""

import keras
import numpy as np
import onnx

from exporter.conversion import INPUT_NAME, convert
from exporter.precision import change_precision
from nightread.inference.session import open_session
from nightread.machine import count_cores
from nightread.model.card import Precision
from nightread.model.training_folder import read_training_folder
from nightread.scan.preprocessing import InputSpec, Tensor
from nightread.settings import Device

_CALIBRATION_SCANS = 64


def main() -> None:
    """Print Markdown tables of the graphs and of their times."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("training_folder", nargs="?", type=Path)
    parser.add_argument("--application", help="name in keras.applications instead of a training folder")
    parser.add_argument("--size", type=int, default=224, help="input of the application, in pixels")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 32])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=0.5, help="seconds per engine and round")
    arguments = parser.parse_args()
    if arguments.application:
        model, spec = build_application(arguments.application, arguments.size)
        scans = calibration = np.random.default_rng(0).random((_CALIBRATION_SCANS, *spec.shape), np.float32)
    elif arguments.training_folder:
        trained = read_training_folder(arguments.training_folder)
        model = keras.models.load_model(trained.checkpoint, compile=False, safe_mode=True)
        spec, scans = trained.input, trained.scans
        calibration = scans if trained.calibration is None else trained.calibration
    else:
        parser.error("name a training folder or an --application")
    started_at = time.perf_counter()
    converted = convert(model, spec)
    seconds = time.perf_counter() - started_at
    print(f"converted in {seconds:.1f} s; load average {os.getloadavg()[0]:.1f} on {count_cores()} cores\n")
    engines: dict[str, Callable[[Tensor], Any]] = {
        "Keras predict": lambda batch: model.predict(batch, verbose=0, batch_size=len(batch)),
        "Keras call": lambda batch: np.asarray(model(batch, training=False)),
    }
    expected = engines["Keras call"](scans[:32])
    print(f"scores from {expected.min():.3f} to {expected.max():.3f}\n")
    print("| precision | MB | Transpose nodes | parity |\n|---|---|---|---|")
    for precision in Precision:
        content = change_precision(converted.model, precision, calibration, input_name=INPUT_NAME)
        engines[precision] = open_engine(content)
        difference = np.abs(engines[precision](scans[:32]) - expected).max()
        transposes = sum(node.op_type == "Transpose" for node in onnx.load_model_from_string(content).graph.node)
        print(f"| {precision} | {len(content) / 1e6:.2f} | {transposes} | {difference:.1g} |")
    for size in arguments.batch_sizes:
        batch = np.resize(scans, (size, *spec.shape))
        print_times(size, measure(engines, batch, arguments.rounds, arguments.seconds))


def build_application(name: str, size_px: int) -> tuple[Any, InputSpec]:
    """Return a network of keras.applications with random weights and one sigmoid output, and its input spec."""
    keras.utils.set_random_seed(0)
    base = getattr(keras.applications, name)(input_shape=(size_px, size_px, 3), include_top=False, weights=None)
    pooled = keras.layers.GlobalAveragePooling2D()(base.output)
    model = keras.Model(base.input, keras.layers.Dense(1, activation="sigmoid")(pooled))
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.0  # take the statistics of the batch below, so that activations have a usual size
    model(np.random.default_rng(1).random((4, size_px, size_px, 3), np.float32), training=True)
    return model, InputSpec(height_px=size_px, width_px=size_px, channels=3)


def open_engine(model: bytes) -> Callable[[Tensor], Any]:
    """Open a graph as a worker does."""
    return open_session(model, Device.CPU, count_cores()).score


def measure(
    engines: dict[str, Callable[[Tensor], Any]], batch: Tensor, rounds: int, seconds: float
) -> dict[str, list[float]]:
    """Return the milliseconds per scan of each engine in each round; engines take turns within a round."""
    times: dict[str, list[float]] = {name: [] for name in engines}
    for engine in engines.values():
        engine(batch)  # warm-up: tracing, buffers
    for _ in range(rounds):
        for name, engine in engines.items():
            count, started_at = 0, time.perf_counter()
            while (spent_s := time.perf_counter() - started_at) < seconds:
                engine(batch)
                count += 1
            times[name].append(spent_s / count / len(batch) * 1e3)
    return times


def print_times(size: int, times: dict[str, list[float]]) -> None:
    """Print medians of the times and of the speed-ups over Keras' `predict` and over float32 in each round."""
    print(f"\n| batch {size} | ms per scan | faster than predict | faster than float32 |\n|---|---|---|---|")
    for name, spent in times.items():
        ratios = (
            statistics.median(other / own for other, own in zip(times[reference], spent, strict=True))
            for reference in ("Keras predict", Precision.FLOAT32)
        )
        print(f"| {name} | {statistics.median(spent):.3f} | " + " | ".join(f"{ratio:.2f} x" for ratio in ratios) + " |")


if __name__ == "__main__":
    main()
