"""Precisions of a graph: how each is made from the float32 graph, and the limits of what each may cost."""

import tempfile
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import onnx
from onnxruntime import quantization
from onnxruntime.quantization.shape_inference import quant_pre_process
from onnxruntime.transformers.float16 import convert_float_to_float16

from nightread.model.card import COMPONENTS, DISTANCE, EMBEDDING, PLACEMENT, Precision
from nightread.scan.preprocessing import Tensor


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits within which a precision's scores may differ from those of Keras.

    Attributes:
        parity: largest absolute difference of a score.
        batch: largest absolute difference between the scores that one scan gets in different batches.
        auc_drop: largest drop of the hold-out's AUC.
        flipped: largest share of the hold-out's decisions that may change.
    """

    parity: float
    batch: float
    auc_drop: float
    flipped: float


#: float32 sums in another order differ by about 1e-7. float16 has 11 significant bits and an int8 activation 8; if
#: another batch changes the last bit, the change reaches the score.
LIMITS: Final[Mapping[Precision, Limits]] = {
    Precision.FLOAT32: Limits(parity=1e-5, batch=1e-6, auc_drop=1e-5, flipped=0.0),
    Precision.FLOAT16: Limits(parity=5e-3, batch=5e-3, auc_drop=0.002, flipped=0.005),
    Precision.INT8: Limits(parity=0.05, batch=0.01, auc_drop=0.002, flipped=0.005),
}

#: Scans in one step of the calibration: every activation of each of them is kept in memory.
_CALIBRATION_BATCH: Final = 16

_OF_THE_GATE: Final = frozenset({DISTANCE, COMPONENTS, PLACEMENT})

_WITH_WEIGHTS: Final = frozenset({"Conv", "Gemm", "MatMul"})


def change_precision(model: bytes, precision: Precision, calibration: Tensor, *, input_name: str) -> bytes:
    """Return the same network in another precision; its inputs and outputs stay float32.

    Args:
        model: float32 ONNX file.
        precision: of the result.
        calibration: (N, H, W, C) float32 training scans, used for int8 only.
        input_name: of the graph.
    """
    if precision is Precision.FLOAT16:
        return _to_float16(model)
    return _quantize(model, calibration, input_name) if precision is Precision.INT8 else model


def _to_float16(model: bytes) -> bytes:
    halved = convert_float_to_float16(onnx.load_model_from_string(model), keep_io_types=True)
    content: bytes = halved.SerializeToString()
    return content


class _CalibrationReader(quantization.CalibrationDataReader):
    """Yields the calibration scans batch by batch."""

    def __init__(self, calibration: Tensor, input_name: str) -> None:
        starts = range(0, len(calibration), _CALIBRATION_BATCH)
        self._batches = ({input_name: calibration[start : start + _CALIBRATION_BATCH]} for start in starts)

    def get_next(self) -> dict[str, Tensor] | None:
        return next(self._batches, None)


def _quantize(model: bytes, calibration: Tensor, input_name: str) -> bytes:
    """Quantise statically: QDQ, ranges from the smallest to the largest value, one scale for each channel of weights.

    Weights take 7 bits: on processors without VNNI the sum of two 8-bit products overflows 16 bits, and scores are
    wrong by up to 0.7 (cnn75). Everything from the last layer with weights on stays float32: it costs nothing, and
    scores in 256 steps would tie.
    """
    with tempfile.TemporaryDirectory() as folder:
        source, prepared, quantized = (Path(folder) / name for name in ("float32.onnx", "prepared.onnx", "int8.onnx"))
        source.write_bytes(model)
        # Symbolic shape inference would need sympy; that of ONNX is enough for these graphs.
        quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
        quantization.quantize_static(
            str(prepared),
            str(quantized),
            _CalibrationReader(calibration, input_name),
            quant_format=quantization.QuantFormat.QDQ,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            calibrate_method=quantization.CalibrationMethod.MinMax,
            per_channel=True,
            reduce_range=True,
            nodes_to_exclude=list(_find_float32(onnx.load(str(prepared)).graph)),
        )
        proto = onnx.load(str(quantized))
    used = [opset for opset in proto.opset_import if opset.domain in {node.domain for node in proto.graph.node}]
    del proto.opset_import[:]  # ONNX Runtime lists every operator set that it knows
    proto.opset_import.extend(used)
    onnx.checker.check_model(proto, full_check=True)
    content: bytes = proto.SerializeToString()
    return content


def _find_float32(graph: Any) -> set[str]:
    """Return the names of the nodes that stay float32 in int8.

    They are the last nodes with weights before scores and activation map, the nodes after them, and those of the gate.
    """
    names = {output.name for output in graph.output}
    gate = _find_before(graph, names & _OF_THE_GATE) - _find_before(graph, names - _OF_THE_GATE)
    # The embedding comes before the last layer, as do the features of the gate.
    return gate | _find_before(graph, names - {EMBEDDING, *_OF_THE_GATE}, stop_at=_WITH_WEIGHTS)


def _find_before(graph: Any, outputs: Iterable[str], stop_at: Collection[str] = ()) -> set[str]:
    """Return the names of the nodes that outputs are computed from, back to the operators `stop_at`."""
    producers = {name: node for node in graph.node for name in node.output}
    waiting, found = list(outputs), set()
    while waiting:
        node = producers.get(waiting.pop())
        if node is not None and node.name not in found:
            found.add(node.name)
            waiting.extend(() if node.op_type in stop_at else node.input)
    return found
