"""Tiny ONNX files, encoded by hand as protocol buffers, since workers do not install the package onnx."""

from pathlib import Path
from typing import Any

import numpy as np

from nightread.model.bundle import Bundle, write_bundle
from tests.factories import make_card

#: Mean gray of a scan at distance 0 from the training scans of a tiny network.
USUAL_GRAY = 0.4

_FLOAT = 1
_EXTERNAL = 1


def varint(number: int) -> bytes:
    encoded = bytearray()
    while True:
        encoded.append((number & 0x7F) | (0x80 if number > 0x7F else 0))
        number >>= 7
        if not number:
            return bytes(encoded)


def number(field: int, value: int) -> bytes:
    return varint(field << 3) + varint(value)


def message(field: int, content: bytes | str) -> bytes:
    data = content.encode() if isinstance(content, str) else content
    return varint(field << 3 | 2) + varint(len(data)) + data


def encode_tensor(name: str, values: Any, *, external: bool = False) -> bytes:
    array = np.asarray(values, np.float32)
    dims = b"".join(number(1, size) for size in array.shape)
    if external:
        entries = message(1, "location") + message(2, "../elsewhere.bin")
        return dims + number(2, _FLOAT) + message(8, name) + message(13, entries) + number(14, _EXTERNAL)
    return dims + number(2, _FLOAT) + message(8, name) + message(9, array.tobytes())


def encode_node(operator: str, inputs: str, output: str, *, domain: str = "", attributes: bytes = b"") -> bytes:
    names = b"".join(message(1, name) for name in inputs.split())
    return names + message(2, output) + message(4, operator) + attributes + (message(7, domain) if domain else b"")


def encode_value(name: str, *sizes: int | str) -> bytes:
    dims = b"".join(message(1, message(2, size) if isinstance(size, str) else number(1, size)) for size in sizes)
    return message(1, name) + message(2, message(1, number(1, _FLOAT) + message(2, dims)))


def encode_model(
    nodes: list[bytes], tensors: list[bytes], inputs: list[bytes], outputs: list[bytes], *, opset: int = 17,
    more: bytes = b"",
) -> bytes:  # fmt: skip
    graph = (
        b"".join(message(1, node) for node in nodes)
        + message(2, "tiny")
        + b"".join(message(5, tensor) for tensor in tensors)
        + b"".join(message(11, value) for value in inputs)
        + b"".join(message(12, value) for value in outputs)
    )
    return number(1, 8) + message(7, graph) + message(8, message(1, "") + number(2, opset)) + more


def make_onnx(
    *,
    gain: float = 4.0,
    bias: float = -2.0,
    side_px: int = 8,
    labels: int = 1,
    batch: int | str = "N",
    last: str = "Sigmoid",
    domain: str = "",
    external: bool = False,
    gated: bool = False,
    **options: Any,
) -> bytes:
    """Return a network that scores the mean gray of a scan: sigmoid(gain * mean + bias).

    With a gate, the distance of a scan is ten times the difference between its mean and `USUAL_GRAY`.
    """
    pixels = side_px * side_px
    weights = np.full((pixels, labels), gain / pixels, np.float32)
    nodes = [
        encode_node("Flatten", "scans", "flat"),
        encode_node("Gemm", "flat weights bias", "logits"),
        encode_node(last, "logits", "scores", domain=domain),
    ]
    tensors = [encode_tensor("weights", weights, external=external), encode_tensor("bias", np.full(labels, bias))]
    outputs = [encode_value("scores", batch, labels)]
    if gated:
        nodes += [
            encode_node("Gemm", "flat far offset", "components"),
            encode_node("ReduceL2", "components", "distance", attributes=_LAST_AXIS),
        ]
        far = np.zeros((pixels, 8), np.float32)
        far[:, 0] = 10 / pixels
        tensors += [encode_tensor("far", far), encode_tensor("offset", [-10 * USUAL_GRAY, *[0] * 7])]
        outputs += [encode_value("distance", batch, 1), encode_value("components", batch, 8)]
    return encode_model(nodes, tensors, [encode_value("scans", batch, side_px, side_px, 1)], outputs, **options)


def score_tiny(inputs: Any, *, gain: float = 4.0, bias: float = -2.0, labels: int = 1) -> Any:
    """Return (N, labels) float32, the scores that `make_onnx` computes."""
    logits = gain * inputs.mean(axis=(1, 2, 3), dtype=np.float64) + bias
    return np.repeat(1 / (1 + np.exp(-logits))[:, np.newaxis], labels, axis=1).astype(np.float32)


#: Attribute `axes` of opset 17 for ReduceL2 over axis 1.
_LAST_AXIS = message(5, message(1, "axes") + number(8, 1) + number(20, 7))


def make_gate(**fields: float) -> dict[str, Any]:
    """Return a gate for a card: mean grays from 0.2 to 0.6 pass, those outside 0.3 to 0.5 as doubtful."""
    metric = {"value": 0.0, "low": 0.0, "high": 0.01}
    gate = {"max_distance": 2.0, "doubtful_distance": 1.0, "max_aspect_ratio": 4.0, "false_rejection": metric}
    return {**gate, **fields}


def write_tiny_bundle(
    models_dir: Path, version: str = "1", *, name: str = "tiny", gain: float = 4.0, bias: float = -2.0, **card: Any
) -> Bundle:
    """Write a bundle of `make_onnx` to `<models_dir>/<name>/<version>`; with a gate if the card has one."""
    inputs = np.linspace(0, 1, 3 * 64, dtype=np.float32).reshape(3, 8, 8, 1)
    return write_bundle(
        models_dir / name / version,
        model=make_onnx(gain=gain, bias=bias, gated=card.get("gate") is not None),
        parity_inputs=inputs,
        parity_scores=score_tiny(inputs, gain=gain, bias=bias),
        card=make_card(**{"name": name, "version": version, **card}),
    )
