"""Reader of PyTorch files of weights, without PyTorch and without unpickling.

In the format before PyTorch 1.6 such a file is a row of pickles, then the arrays' bytes. A pickle is a program: loading
it runs it. Here the standard library lists its instructions, which runs nothing. Only the few instructions that a table
of weights consists of are followed; any other is refused.

The format: `torch/serialization.py` (`_legacy_save`), and PEP 307 for the instructions.
"""

import pickletools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np
import numpy.typing as npt

from trainer.errors import TrainingError

_MAGIC: Final = 0x1950A86A20F9469CFC6C
_PROTOCOL: Final = 1001

_DTYPES: Final[dict[str, np.dtype[Any]]] = {"torch FloatStorage": np.dtype("<f4"), "torch LongStorage": np.dtype("<i8")}
_TABLE: Final = "collections OrderedDict"
_TENSOR: Final = "torch._utils _rebuild_tensor_v2"
_CONSTANTS: Final = ("BININT", "BININT1", "BININT2", "LONG1", "BINUNICODE")
_MARK: Final = object()


@dataclass(frozen=True, slots=True)
class _Global:
    """A name that unpickling would import and call; here it remains a name."""

    name: str


@dataclass(frozen=True, slots=True)
class _Storage:
    """The numbers of an array: key, dtype and count."""

    key: str
    dtype: np.dtype[Any]
    count: int


@dataclass(frozen=True, slots=True)
class _View:
    """An array as a part of a storage."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def read_torch_weights(path: Path) -> dict[str, npt.NDArray[Any]]:
    """Read the arrays of a `state_dict` that `torch.save` wrote before PyTorch 1.6.

    Returns:
        float32 or int64 arrays by name, in PyTorch's order of axes.

    Raises:
        TrainingError: the file cannot be read, or has another content.
    """
    try:
        with path.open("rb") as file:
            return _read_table(file)
    except (OSError, ValueError, KeyError, IndexError, TypeError, EOFError, StopIteration) as error:
        raise TrainingError(f"{path} holds no table of PyTorch weights: {error}") from None


def _read_table(file: BinaryIO) -> dict[str, npt.NDArray[Any]]:
    if _Follower().follow(file) != _MAGIC or _Follower().follow(file) != _PROTOCOL:
        raise ValueError("not in PyTorch's format from before 1.6")
    _Follower().follow(file)  # sizes of C types, fixed by the dtypes above
    table = _Follower().follow(file)
    if not isinstance(table, dict) or not all(isinstance(view, _View) for view in table.values()):
        raise TypeError("it is no table of arrays by name")
    storages = _read_storages(file, _Follower().follow(file), table)
    return {name: _cut_out(view, storages) for name, view in table.items()}


class _Follower:
    """Follows the instructions of one pickle, by one method for each kind that a table of weights consists of."""

    def __init__(self) -> None:
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}

    def follow(self, file: BinaryIO) -> Any:
        """Follow one pickle and return its value."""
        for code, argument, _ in pickletools.genops(file):
            if code.name == "STOP":
                return self._stack.pop()
            step = self._STEPS.get(code.name)
            if step is None:
                raise ValueError(f"the instruction {code.name}, which no table of weights needs")
            step(self, argument)
        raise EOFError("a pickle without its end")

    def _push(self, value: Any) -> None:
        self._stack.append(value)

    def _pop_many(self, count: int) -> list[Any]:
        items = self._stack[len(self._stack) - count :]
        del self._stack[len(self._stack) - count :]
        return items

    def _pop_marked(self) -> list[Any]:
        """Pop the values above the topmost mark, and the mark."""
        above = next(depth for depth, value in enumerate(reversed(self._stack)) if value is _MARK)
        return self._pop_many(above + 1)[1:]

    def _remember(self, place: Any) -> None:
        self._memo[place] = self._stack[-1]

    def _extend(self, items: list[Any]) -> None:
        self._stack[-1].extend(items)

    def _update(self, flat: list[Any]) -> None:
        self._stack[-1].update(zip(flat[::2], flat[1::2], strict=True))

    def _call(self) -> None:
        called, arguments = self._pop_many(2)
        self._push(_stand_for(called, arguments))

    _STEPS: Final[dict[str, Callable[["_Follower", Any], None]]] = {
        "PROTO": lambda _self, _: None,
        **dict.fromkeys(_CONSTANTS, _push),
        "NONE": lambda self, _: self._push(None),
        "NEWTRUE": lambda self, _: self._push(True),
        "NEWFALSE": lambda self, _: self._push(False),
        "EMPTY_TUPLE": lambda self, _: self._push(()),
        "EMPTY_LIST": lambda self, _: self._push([]),
        "EMPTY_DICT": lambda self, _: self._push({}),
        "MARK": lambda self, _: self._push(_MARK),
        **dict.fromkeys(("BINPUT", "LONG_BINPUT"), _remember),
        **dict.fromkeys(("BINGET", "LONG_BINGET"), lambda self, argument: self._push(self._memo[argument])),
        "TUPLE": lambda self, _: self._push(tuple(self._pop_marked())),
        "TUPLE1": lambda self, _: self._push(tuple(self._pop_many(1))),
        "TUPLE2": lambda self, _: self._push(tuple(self._pop_many(2))),
        "TUPLE3": lambda self, _: self._push(tuple(self._pop_many(3))),
        "APPEND": lambda self, _: self._extend(self._pop_many(1)),
        "APPENDS": lambda self, _: self._extend(self._pop_marked()),
        "SETITEM": lambda self, _: self._update(self._pop_many(2)),
        "SETITEMS": lambda self, _: self._update(self._pop_marked()),
        "GLOBAL": lambda self, argument: self._push(_Global(argument)),
        "BINPERSID": lambda self, _: self._push(_name_storage(self._stack.pop())),
        "REDUCE": lambda self, _: self._call(),
        # The table's own attribute `_metadata`: versions of PyTorch's modules.
        "BUILD": lambda self, _: self._stack.__delitem__(-1),
    }  # fmt: skip


def _name_storage(reference: tuple[Any, ...]) -> _Storage:
    kind, dtype, key, _, count = reference[:5]
    if kind != "storage" or not isinstance(dtype, _Global):
        raise ValueError("a reference that is not to numbers")
    return _Storage(key, _DTYPES[dtype.name], count)


def _stand_for(called: Any, arguments: Any) -> Any:
    """Return the result of a call, for the two calls in a table of weights."""
    if called == _Global(_TABLE) and not arguments:
        return {}
    if called == _Global(_TENSOR):
        storage, offset, shape, strides = arguments[:4]
        return _View(storage, offset, shape, strides)
    raise ValueError(f"a call of {getattr(called, 'name', called)}, which no table of weights needs")


def _read_storages(file: BinaryIO, keys: list[str], table: dict[str, _View]) -> dict[str, npt.NDArray[Any]]:
    """Read the numbers after the pickles: for each key their count as int64, then the numbers."""
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
    """Copy an array out of its storage, in which its axes may have any order."""
    numbers = storages[view.storage.key]
    steps = (step * (side - 1) for side, step in zip(view.shape, view.strides, strict=True))
    if min((view.offset, *view.strides, *view.shape)) < 0 or view.offset + sum(steps) >= len(numbers):
        raise ValueError("an array outside its numbers")
    strides = tuple(step * numbers.itemsize for step in view.strides)
    return np.lib.stride_tricks.as_strided(numbers[view.offset :], view.shape, strides).copy()
