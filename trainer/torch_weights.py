"""Arrays from a PyTorch file of weights, without PyTorch and without unpickling.

Such a file, of the format before PyTorch 1.6, is a row of pickles and then the arrays' bytes. A pickle is a program: to
load it is to run it. Here its instructions are listed by the standard library, which runs nothing, and only the few
that a table of weights is made of are followed; any other is refused.

The format: `torch/serialization.py` (`_legacy_save`), and PEP 307 for the instructions.
"""

import pickletools
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np
import numpy.typing as npt

from trainer.errors import TrainingError

_MAGIC: Final = 0x1950A86A20F9469CFC6C
_PROTOCOL: Final = 1001

_DTYPES: Final = {"torch FloatStorage": np.dtype("<f4"), "torch LongStorage": np.dtype("<i8")}
_TABLE: Final = "collections OrderedDict"
_TENSOR: Final = "torch._utils _rebuild_tensor_v2"
_CONSTANTS: Final = {
    "BININT", "BININT1", "BININT2", "LONG1", "BINUNICODE", "NONE", "NEWTRUE", "NEWFALSE",
}  # fmt: skip
_MARK: Final = object()


@dataclass(frozen=True, slots=True)
class _Global:
    """A name that unpickling would import and call; here it stays a name."""

    name: str


@dataclass(frozen=True, slots=True)
class _Storage:
    """Where an array's numbers are: a key, their dtype and their count."""

    key: str
    dtype: np.dtype[Any]
    count: int


@dataclass(frozen=True, slots=True)
class _View:
    """An array: a part of a storage."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def read_torch_weights(path: Path) -> dict[str, npt.NDArray[Any]]:
    """Read the arrays of a `state_dict` that `torch.save` wrote before PyTorch 1.6.

    Returns:
        float32 or int64 arrays by name, in PyTorch's order of axes.

    Raises:
        TrainingError: the file cannot be read, or is anything else.
    """
    try:
        with path.open("rb") as file:
            if _follow(file) != _MAGIC or _follow(file) != _PROTOCOL:
                raise ValueError("not in PyTorch's format from before 1.6")
            _follow(file)  # sizes of C types, which the dtypes above fix
            table = _follow(file)
            storages = _read_storages(file, _follow(file), table)
        return {name: _cut_out(view, storages) for name, view in table.items()}
    except (OSError, ValueError, KeyError, IndexError, TypeError, EOFError) as error:
        raise TrainingError(f"{path} holds no table of PyTorch weights: {error}") from None


def _follow(file: BinaryIO) -> Any:
    """Follow one pickle to its value."""
    stack: list[Any] = []
    memo: dict[int, Any] = {}
    for code, argument, _ in pickletools.genops(file):
        name = code.name
        if name in _CONSTANTS:
            stack.append(argument if name not in {"NEWTRUE", "NEWFALSE"} else name == "NEWTRUE")
        elif name in {"BINPUT", "LONG_BINPUT"}:
            memo[argument] = stack[-1]
        elif name in {"BINGET", "LONG_BINGET"}:
            stack.append(memo[argument])
        elif name in {"EMPTY_TUPLE", "EMPTY_LIST", "EMPTY_DICT"}:
            stack.append({"EMPTY_TUPLE": (), "EMPTY_LIST": [], "EMPTY_DICT": {}}[name])
        elif name == "MARK":
            stack.append(_MARK)
        elif name in {"TUPLE", "TUPLE1", "TUPLE2"}:
            count = _count_marked(stack) if name == "TUPLE" else int(name[-1])
            items = tuple(stack[len(stack) - count :])
            del stack[len(stack) - count - (name == "TUPLE") :]
            stack.append(items)
        elif name == "APPENDS":
            count = _count_marked(stack)
            items_list = stack[len(stack) - count :]
            del stack[len(stack) - count - 1 :]
            stack[-1].extend(items_list)
        elif name in {"SETITEM", "SETITEMS"}:
            count = 2 if name == "SETITEM" else _count_marked(stack)
            flat = stack[len(stack) - count :]
            del stack[len(stack) - count - (name == "SETITEMS") :]
            stack[-1].update(zip(flat[::2], flat[1::2], strict=True))
        elif name == "GLOBAL":
            stack.append(_Global(argument))
        elif name == "BINPERSID":
            stack.append(_name_storage(stack.pop()))
        elif name == "REDUCE":
            arguments, called = stack.pop(), stack.pop()
            stack.append(_stand_for(called, arguments))
        elif name == "BUILD":
            stack.pop()  # the table's own attribute `_metadata`: versions of PyTorch's modules
        elif name == "STOP":
            return stack.pop()
        elif name != "PROTO":
            raise ValueError(f"the instruction {name}, which no table of weights needs")
    raise EOFError("a pickle without its end")


def _count_marked(stack: list[Any]) -> int:
    """Return how many values lie above the topmost mark."""
    return next(depth for depth, value in enumerate(reversed(stack)) if value is _MARK)


def _name_storage(reference: tuple[Any, ...]) -> _Storage:
    kind, dtype, key, _, count = reference[:5]
    if kind != "storage" or not isinstance(dtype, _Global):
        raise ValueError("a reference to something else than numbers")
    return _Storage(key, _DTYPES[dtype.name], count)


def _stand_for(called: Any, arguments: tuple[Any, ...]) -> Any:
    """Return what a call would make, for the two calls that a table of weights holds."""
    if called == _Global(_TABLE) and not arguments:
        return {}
    if called == _Global(_TENSOR):
        storage, offset, shape, strides = arguments[:4]
        return _View(storage, offset, shape, strides)
    raise ValueError(f"a call of {getattr(called, 'name', called)}, which no table of weights needs")


def _read_storages(file: BinaryIO, keys: Any, table: Any) -> dict[str, npt.NDArray[Any]]:
    """Read the numbers behind the pickles: for each key their count as int64, and then they themselves."""
    if not isinstance(table, dict) or not all(isinstance(view, _View) for view in table.values()):
        raise TypeError("something else than arrays by name")
    known = {view.storage.key: view.storage for view in table.values()}
    storages = {}
    for key in keys:
        count = int.from_bytes(file.read(8), "little")
        storage = known[key]
        content = file.read(storage.count * storage.dtype.itemsize)
        if count != storage.count or len(content) != storage.count * storage.dtype.itemsize:
            raise ValueError("it is cut short")
        storages[key] = np.frombuffer(content, storage.dtype)
    return storages


def _cut_out(view: _View, storages: dict[str, npt.NDArray[Any]]) -> npt.NDArray[Any]:
    """Copy an array out of its storage; its numbers may lie there in any order of the axes."""
    numbers = storages[view.storage.key]
    steps = (step * (side - 1) for side, step in zip(view.shape, view.strides, strict=True))
    if min((view.offset, *view.strides, *view.shape)) < 0 or view.offset + sum(steps) >= len(numbers):
        raise ValueError("an array that lies outside its numbers")
    strides = tuple(step * numbers.itemsize for step in view.strides)
    return np.lib.stride_tricks.as_strided(numbers[view.offset :], view.shape, strides).copy()
