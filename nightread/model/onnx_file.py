"""Inspection of ONNX files without the package onnx, which workers do not install.

ONNX is a protocol buffer: nested messages of numbered fields. Only what decides whether a graph may be opened is read:
its operators and their domains, whether it refers to tensors in other files, and whether its time is bounded: a graph
without control flow computes each node once.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from nightread.errors import CardMismatch

#: Domains whose operators the ONNX standard defines; most files write the empty name for `ai.onnx`.
STANDARD_DOMAINS: Final = frozenset({"", "ai.onnx", "ai.onnx.ml"})

#: Where ONNX Runtime's own format names itself. Bytes may be a graph of either format.
_ORT_AT: Final = slice(4, 8)
_ORT_FORMAT: Final = b"ORTM"

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_EXTERNAL: Final = 1
_LARGEST_KEY: Final = 2**32 - 1

#: Field numbers of onnx.proto with nested messages to read, by message.
_NESTED: Final = {
    "model": {7: "graph", 8: "opset", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse tensor"},
    "node": {5: "attribute"},
    "attribute": {
        5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse tensor", 23: "sparse tensor",
    },
    "sparse tensor": {1: "tensor", 2: "tensor"},
}  # fmt: skip
_IR_VERSION, _GRAPH = 1, 7
_OPSET_DOMAIN, _OPSET_VERSION = 1, 2
_OP_TYPE, _NODE_DOMAIN = 4, 7
_SUBGRAPHS = frozenset({6, 11})
_EXTERNAL_DATA, _DATA_LOCATION = 13, 14
_NODE, _INITIALIZER = 1, 5
_NODE_INPUT, _NODE_OUTPUT, _NODE_ATTRIBUTE = 1, 2, 5
_DATA_TYPE, _TENSOR_NAME, _RAW_DATA = 2, 8, 9
_FLOAT32: Final = 1


@dataclass(slots=True)
class OnnxFile:
    """Operators and external tensors of a graph and its subgraphs.

    Attributes:
        opsets: version of each imported operator set, by domain.
        operators: number of nodes by (domain, operator).
        functions: number of functions that the file itself defines; one may call others twice, and those again.
        subgraphs: number of graphs inside nodes, which are the bodies of If, Loop, Scan and the like.
        external_tensors: number of tensors that are stored in other files.
    """

    opsets: dict[str, int] = field(default_factory=dict)
    operators: dict[tuple[str, str], int] = field(default_factory=dict)
    functions: int = 0
    subgraphs: int = 0
    external_tensors: int = 0

    @property
    def custom_operators(self) -> list[str]:
        """DOMAIN:OPERATOR of operators that the standard does not define, sorted."""
        return sorted(f"{domain}:{operator}" for domain, operator in self.operators if domain not in STANDARD_DOMAINS)

    @property
    def faults(self) -> list[str]:
        """Why the file must not be opened, each as words that go on after "the model"; empty if it may be."""
        faults = []
        if self.external_tensors:  # no digest covers them, and their paths may lead anywhere
            faults.append(
                f"stores {self.external_tensors} tensors in other files, which no digest covers: export it again with "
                "all tensors in the ONNX file"
            )
        if self.subgraphs:
            faults.append(
                "has control flow (If, Loop, Scan or another operator with a graph inside), whose time has no limit: "
                "export it again without"
            )
        if self.functions:
            faults.append(
                "defines functions of its own, which may multiply without a limit: inline them with "
                "onnx.inliner.inline_local_functions"
            )
        return faults


def read_onnx(model: bytes) -> OnnxFile:
    """Read an ONNX file.

    Raises:
        CardMismatch: the bytes are not an ONNX file.
    """
    if model[_ORT_AT] == _ORT_FORMAT:
        raise CardMismatch("the model has the format of ONNX Runtime itself, which nothing checks: export it as ONNX")
    found = OnnxFile()
    has_graph = has_version = False
    waiting: list[tuple[str, memoryview]] = [("model", memoryview(model))]
    try:
        while waiting:  # no recursion: a hostile file may nest deeply
            kind, content = waiting.pop()
            fields = list(_read_fields(content))
            if kind == "model":
                numbers = {number for number, _ in fields}
                has_graph, has_version = _GRAPH in numbers, _IR_VERSION in numbers
            _note(kind, fields, found)
            nested = _NESTED.get(kind, {})
            waiting += [
                (nested[number], value)
                for number, value in fields
                if number in nested and isinstance(value, memoryview)
            ]
    except (IndexError, ValueError, UnicodeDecodeError):
        raise CardMismatch("the model is not an ONNX file, or it is damaged: export it again") from None
    if not (has_graph and has_version):
        raise CardMismatch("the model is not an ONNX file, or it has no graph: export it again")
    return found


def check_onnx(model: bytes) -> OnnxFile:
    """Read an ONNX file and check that it may be opened: it refers to no other file, and its time is bounded.

    Raises:
        CardMismatch: it may not, or is not an ONNX file.
    """
    found = read_onnx(model)
    if found.faults:
        raise CardMismatch(f"the model {'; it '.join(found.faults)}")
    return found


def scale_last_layer(model: bytes, output: str, slope: float, intercept: float) -> bytes:
    """Return a graph whose scores are `sigmoid(slope * logit + intercept)`; nothing but two tensors changes.

    Args:
        model: an ONNX file in which a sigmoid of one dense layer gives the scores, as float32.
        output: name of the scores.
        slope: above 0.
        intercept: of the logit.

    Raises:
        CardMismatch: the scores come from another kind of layer.
    """
    changed = memoryview(bytearray(model))
    graph = next(value for number, value in _read_fields(changed) if number == _GRAPH and isinstance(value, memoryview))
    producers: dict[str, tuple[str, list[str]]] = {}  # operator and inputs, by output
    tensors: dict[str, dict[int, int | memoryview]] = {}
    for number, value in _read_fields(graph):
        if number == _NODE and isinstance(value, memoryview):
            fields = list(_read_fields(value))
            names = {
                place: [_to_text(name) for found, name in fields if found == place]
                for place in (_NODE_INPUT, _NODE_OUTPUT)
            }
            operator = _to_text(dict(fields).get(_OP_TYPE))
            if operator == "Gemm" and any(number == _NODE_ATTRIBUTE for number, _ in fields):
                operator = "Gemm with factors"
            producers |= dict.fromkeys(names[_NODE_OUTPUT], (operator, names[_NODE_INPUT]))
        elif number == _INITIALIZER and isinstance(value, memoryview):
            tensor = dict(_read_fields(value))
            tensors[_to_text(tensor.get(_TENSOR_NAME))] = tensor
    weights, bias = (_find_values(tensors.get(name)) for name in _find_dense(producers, output))
    weights *= np.float32(slope)
    bias[:] = (slope * bias.astype(np.float64) + intercept).astype(np.float32)
    return bytes(changed)


def _find_dense(producers: dict[str, tuple[str, list[str]]], output: str) -> tuple[str, str]:
    """Return the names of weights and bias of the dense layer whose sigmoid is `output`."""
    operator, inputs = producers.get(output, ("", []))
    if operator == "Sigmoid":
        operator, inputs = producers.get(inputs[0], ("", []))
        if operator == "Gemm":
            return inputs[1], inputs[2]
        if operator == "Add":
            for product, bias in (inputs, inputs[::-1]):
                multiplied, factors = producers.get(product, ("", []))
                if multiplied == "MatMul":
                    return factors[1], bias
    raise CardMismatch(
        "the scores are not the sigmoid of one dense layer in float32; only such a bundle can be calibrated: "
        "export it with --precision float32"
    )


def _find_values(tensor: dict[int, int | memoryview] | None) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    """Return the values of a float32 tensor, to be changed in place."""
    raw = None if tensor is None else tensor.get(_RAW_DATA)
    if tensor is None or tensor.get(_DATA_TYPE) != _FLOAT32 or not isinstance(raw, memoryview):
        raise CardMismatch(
            "the last layer's weights are no float32 values in the graph; only such a bundle can be calibrated: "
            "export it with --precision float32"
        )
    return np.frombuffer(raw, np.dtype("<f4"))


def _note(kind: str, fields: list[tuple[int, int | memoryview]], found: OnnxFile) -> None:
    values = dict(fields)
    if kind == "node":
        key = _to_text(values.get(_NODE_DOMAIN)), _to_text(values.get(_OP_TYPE))
        found.operators[key] = found.operators.get(key, 0) + 1
    elif kind == "opset":
        version = values.get(_OPSET_VERSION, 0)
        found.opsets[_to_text(values.get(_OPSET_DOMAIN))] = version if isinstance(version, int) else 0
    elif kind == "function":
        found.functions += 1
    elif kind == "attribute":
        found.subgraphs += len(_SUBGRAPHS & values.keys())
    elif kind == "tensor" and (_EXTERNAL_DATA in values or values.get(_DATA_LOCATION) == _EXTERNAL):
        found.external_tensors += 1


def _to_text(value: int | memoryview | None) -> str:
    return bytes(value).decode("utf-8") if isinstance(value, memoryview) else ""


def _read_fields(content: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Yield (number, value) of each field of one message."""
    position = 0
    while position < len(content):
        key, position = _read_varint(content, position)
        if key > _LARGEST_KEY:  # a reader with 32-bit keys would see another field
            raise ValueError("a field number beyond the range of protocol buffers")
        number, kind = key >> 3, key & 7
        if kind == _VARINT:
            value, position = _read_varint(content, position)
            yield number, value
            continue
        if kind == _BYTES:
            size, position = _read_varint(content, position)
        elif kind in {_FIXED64, _FIXED32}:
            size = 8 if kind == _FIXED64 else 4
        else:
            raise ValueError("a wire type that ONNX does not use")
        if not number or position + size > len(content):
            raise ValueError("a field that exceeds its message")
        if kind == _BYTES:
            yield number, content[position : position + size]
        position += size


def _read_varint(content: memoryview, position: int) -> tuple[int, int]:
    """Return a number of seven bits per byte, and the position after it."""
    number = 0
    for shift in range(0, 70, 7):
        byte = content[position]
        position += 1
        number |= (byte & 0x7F) << shift
        if not byte & 0x80:
            return number, position
    raise ValueError("a number of more than ten bytes")
