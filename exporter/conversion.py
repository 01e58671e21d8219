"""Keras to ONNX."""

from dataclasses import dataclass
from typing import Any, Final

from nightread.preparing import InputSpec

#: Names in the graph. What an output means comes from the card's labels, never from these.
INPUT_NAME: Final = "scans"
OUTPUT_NAME: Final = "scores"

#: The newest that tf2onnx writes; every ONNX Runtime that is allowed here reads it.
OPSET: Final = 18


@dataclass(frozen=True, slots=True)
class Converted:
    """An ONNX model, checked for being well-formed but not yet compared with its source.

    Attributes:
        model: the ONNX file; (N, H, W, C) float32 to (N, labels) float32, N free.
        transposes: Transpose nodes left between NHWC and NCHW; each costs a copy of its tensor.
    """

    model: bytes
    transposes: int


def convert(model: Any, spec: InputSpec) -> Converted:
    """Convert a Keras model.

    `tf2onnx.convert.from_keras` fails on a Sequential model of Keras 3 (KeyError: keras_tensor_N), so the model is
    traced as a function. Where tf2onnx's optimizer fails in a pass it logs a traceback and goes on without that pass:
    the result is right then, only slower, which is why the transposes are counted.

    Args:
        model: Keras 3 on TensorFlow, (N, H, W, C) float32 to (N, labels).
        spec: the model's input.

    Raises:
        onnx.checker.ValidationError: what came out is not well-formed: a bug of the converter.
    """
    import onnx
    import tensorflow as tf
    from tf2onnx.convert import from_function

    signature = [tf.TensorSpec((None, *spec.shape), tf.float32, name=INPUT_NAME)]

    @tf.function(input_signature=signature)
    def score(scans: Any) -> dict[str, Any]:
        return {OUTPUT_NAME: model(scans, training=False)}

    proto, _ = from_function(score, input_signature=signature, opset=OPSET)
    onnx.checker.check_model(proto, full_check=True)
    transposes = sum(node.op_type == "Transpose" for node in proto.graph.node)
    return Converted(proto.SerializeToString(), transposes)
