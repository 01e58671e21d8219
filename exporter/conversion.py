"""Conversion of a Keras model to ONNX: one input, scores first, then the other outputs of the network."""

import logging
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import onnx
import tensorflow as tf
from onnx import numpy_helper
from tf2onnx.convert import from_function
from tf2onnx.graph import GraphUtil

from exporter.outputs import find_outputs
from nightread.model.card import Output
from nightread.model.training_folder import FittedGate
from nightread.scan.preprocessing import InputSpec

#: Name of the graph's input.
INPUT_NAME: Final = "scans"

#: The newest that tf2onnx writes; every ONNX Runtime that pyproject.toml allows reads it.
OPSET: Final = 18

#: Operators that treat a constant of shape () and one of shape (1,) alike.
_ELEMENTWISE: Final = frozenset({"Add", "Sub", "Mul", "Div"})


@dataclass(frozen=True, slots=True)
class Converted:
    """A well-formed ONNX model, not yet compared with its source.

    Attributes:
        model: the ONNX file; (N, H, W, C) float32 to (N, labels) float32, N free.
        transposes: Transpose nodes left between NHWC and NCHW; each costs a copy of its tensor.
        outputs: the graph's outputs in order; the scores are the first.
    """

    model: bytes
    transposes: int
    outputs: tuple[Output, ...]


def convert(model: Any, spec: InputSpec, gate: FittedGate | None = None) -> Converted:
    """Convert a Keras model.

    `tf2onnx.convert.from_keras` fails on a Sequential model of Keras 3 (KeyError: keras_tensor_N), so the model is
    traced as a function.

    Args:
        model: Keras 3 on TensorFlow, (N, H, W, C) float32 to (N, labels).
        spec: the model's input.
        gate: adds its outputs to the graph; None for none.

    Raises:
        onnx.checker.ValidationError: the graph is not well-formed: a bug of the converter.
    """
    compute, outputs = find_outputs(model, gate)
    signature = [tf.TensorSpec((None, *spec.shape), tf.float32, name=INPUT_NAME)]
    with _quiet_optimizer():
        traced = tf.function(compute, input_signature=signature)
        proto, _ = from_function(traced, input_signature=signature, opset=OPSET)
        proto = _remove_transposes(proto)
    _order_outputs(proto, [output.name for output in outputs])
    onnx.checker.check_model(proto, full_check=True)
    return Converted(proto.SerializeToString(), count_transposes(proto), outputs)


def count_transposes(proto: Any) -> int:
    """Count the Transpose nodes of a graph."""
    return Counter(node.op_type for node in proto.graph.node)["Transpose"]


def _remove_transposes(proto: Any) -> Any:
    """Run tf2onnx's optimizer again if a constant of shape () made its transpose pass fail.

    That pass takes `max()` of the shape of each constant that is added after a convolution (tf2onnx 1.17). One failure
    leaves the transposes around every layer: 102 of them in MobileNetV3-Small, whose hard-swish adds 3.
    """
    consumers: dict[str, set[str]] = defaultdict(set)
    for node in proto.graph.node:
        for name in node.input:
            consumers[name].add(node.op_type)
    scalars = [
        tensor
        for tensor in proto.graph.initializer
        if not tensor.dims and consumers[tensor.name] and consumers[tensor.name] <= _ELEMENTWISE
    ]
    if not scalars:
        return proto
    for tensor in scalars:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).reshape(1), tensor.name))
    return GraphUtil.optimize_model_proto(proto)


def _order_outputs(proto: Any, names: list[str]) -> None:
    """Sort the graph's outputs in this order; tf2onnx sorts them by name."""
    found = {output.name: output for output in proto.graph.output}
    ordered = [found[name] for name in names]
    del proto.graph.output[:]
    proto.graph.output.extend(ordered)


@contextmanager
def _quiet_optimizer() -> Iterator[None]:
    """Suppress the traceback of a failed optimizer pass: the graph is right without that pass."""
    logger = logging.getLogger("tf2onnx.optimizer")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
