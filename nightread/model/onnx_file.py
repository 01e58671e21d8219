"""What an ONNX file is made of, read from its bytes without the package onnx, which a worker does not install.

ONNX is a protocol buffer: fields of a number, a kind and a value, nested. Only what decides whether a graph may be
opened is looked at: which operators of which domains it uses, and whether it wants tensors from other files.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from nightread.errors import CardMismatch

#: Domains whose operators the ONNX standard defines; the first is what the second is written as in most files.
STANDARD_DOMAINS: Final = frozenset({"", "ai.onnx", "ai.onnx.ml"})

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_EXTERNAL: Final = 1
_LARGEST_KEY: Final = 2**32 - 1

#: Field numbers of onnx.proto that hold a message to look into, by message.
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
_FUNCTION_DOMAIN = 10
_EXTERNAL_DATA, _DATA_LOCATION = 13, 14


@dataclass(slots=True)
class OnnxFile:
    """What a graph and all graphs within it use.

    Attributes:
        opsets: version of each imported operator set, by domain.
        operators: nodes by (domain, operator).
        own_domains: of functions that the file itself defines.
        external_tensors: how many tensors the file wants from other files.
    """

    opsets: dict[str, int] = field(default_factory=dict)
    operators: dict[tuple[str, str], int] = field(default_factory=dict)
    own_domains: set[str] = field(default_factory=set)
    external_tensors: int = 0

    @property
    def custom_operators(self) -> list[str]:
        """DOMAIN:OPERATOR of each that neither the standard nor the file itself defines, sorted."""
        known = STANDARD_DOMAINS | self.own_domains
        return sorted(f"{domain}:{operator}" for domain, operator in self.operators if domain not in known)


def read_onnx(model: bytes) -> OnnxFile:
    """Read what a graph uses.

    Raises:
        CardMismatch: the bytes are no ONNX file.
    """
    found = OnnxFile()
    has_graph = has_version = False
    waiting: list[tuple[str, memoryview]] = [("model", memoryview(model))]
    try:
        while waiting:  # no recursion: how deep a file nests is up to whoever wrote it
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
        raise CardMismatch("the model is no ONNX file, or a damaged one: export it again") from None
    if not (has_graph and has_version):
        raise CardMismatch("the model is no ONNX file, or holds no graph: export it again")
    return found


def refuse_external_data(model: bytes) -> OnnxFile:
    """Read what a graph uses, and make sure that all of it is in the file.

    A tensor from another file is no part of the bundle: no digest covers it, and its name may lead anywhere.

    Raises:
        CardMismatch: it wants other files, or is no ONNX file.
    """
    found = read_onnx(model)
    if found.external_tensors:
        raise CardMismatch(explain_external_data(found))
    return found


def explain_external_data(found: OnnxFile) -> str:
    """Say that a graph wants other files, and what to do."""
    return (
        f"the model keeps {found.external_tensors} tensors in other files, which no digest covers: "
        "export it again with all of them in the ONNX file"
    )


def _note(kind: str, fields: list[tuple[int, int | memoryview]], found: OnnxFile) -> None:
    values = dict(fields)
    if kind == "node":
        key = _to_text(values.get(_NODE_DOMAIN)), _to_text(values.get(_OP_TYPE))
        found.operators[key] = found.operators.get(key, 0) + 1
    elif kind == "opset":
        version = values.get(_OPSET_VERSION, 0)
        found.opsets[_to_text(values.get(_OPSET_DOMAIN))] = version if isinstance(version, int) else 0
    elif kind == "function":
        found.own_domains.add(_to_text(values.get(_FUNCTION_DOMAIN)))
    elif kind == "tensor" and (_EXTERNAL_DATA in values or values.get(_DATA_LOCATION) == _EXTERNAL):
        found.external_tensors += 1


def _to_text(value: int | memoryview | None) -> str:
    return bytes(value).decode("utf-8") if isinstance(value, memoryview) else ""


def _read_fields(content: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Yield (number, value) of each field of one message."""
    position = 0
    while position < len(content):
        key, position = _read_varint(content, position)
        if key > _LARGEST_KEY:  # a reader that keeps 32 bits of it would see another field
            raise ValueError("a field number that protocol buffers do not have")
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
            raise ValueError("a kind of field that ONNX does not use")
        if not number or position + size > len(content):
            raise ValueError("a field that goes beyond its message")
        if kind == _BYTES:
            yield number, content[position : position + size]
        position += size


def _read_varint(content: memoryview, position: int) -> tuple[int, int]:
    """Return a number of seven bits a byte, and the position behind it."""
    number = 0
    for shift in range(0, 70, 7):
        byte = content[position]
        position += 1
        number |= (byte & 0x7F) << shift
        if not byte & 0x80:
            return number, position
    raise ValueError("a number of more than ten bytes")
