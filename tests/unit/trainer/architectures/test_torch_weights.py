"""Reading of PyTorch weights; test files have the format of `torch.save` before PyTorch 1.6."""

import collections
import io
import pickle
import sys
import types

import numpy as np
import pytest

from trainer.architectures.torch_weights import read_torch_weights
from trainer.errors import TrainingError


@pytest.fixture
def torch_names(monkeypatch):
    """Stand-ins for the names in a pickle of weights, since PyTorch is not installed."""
    utils, torch = types.ModuleType("torch._utils"), types.ModuleType("torch")

    def _rebuild_tensor_v2(*arguments):
        raise AssertionError("nothing in the file may be called")

    class FloatStorage:
        pass

    _rebuild_tensor_v2.__module__, _rebuild_tensor_v2.__qualname__ = "torch._utils", "_rebuild_tensor_v2"
    FloatStorage.__module__, FloatStorage.__qualname__ = "torch", "FloatStorage"
    utils._rebuild_tensor_v2, torch.FloatStorage, torch._utils = _rebuild_tensor_v2, FloatStorage, utils
    monkeypatch.setitem(sys.modules, "torch", torch)
    monkeypatch.setitem(sys.modules, "torch._utils", utils)
    return torch


def write(path, torch, arrays, *, strides=None, cut=0):
    """Write arrays by name; each has a storage of its own."""

    class Tensor:
        def __init__(self, key, array):
            self.key, self.array = key, array

        def __reduce__(self):
            steps = strides or tuple(step // self.array.itemsize for step in self.array.strides)
            arguments = Storage(self.key, self.array.size), 0, self.array.shape, steps, False, collections.OrderedDict()
            return torch._utils._rebuild_tensor_v2, arguments

    class Storage:
        def __init__(self, key, count):
            self.key, self.count = key, count

    class Pickler(pickle.Pickler):
        def persistent_id(self, value):
            if isinstance(value, Storage):
                return "storage", torch.FloatStorage, value.key, "cpu", value.count, None
            return None

    file = io.BytesIO()
    pickle.dump(0x1950A86A20F9469CFC6C, file, protocol=2)
    pickle.dump(1001, file, protocol=2)
    pickle.dump({"little_endian": True, "type_sizes": {"int": 4}}, file, protocol=2)
    table = collections.OrderedDict((name, Tensor(f"key {name}", array)) for name, array in arrays.items())
    Pickler(file, protocol=2).dump(table)
    pickle.dump([f"key {name}" for name in arrays], file, protocol=2)
    for array in arrays.values():
        file.write(array.size.to_bytes(8, "little") + array.tobytes(order="A"))
    path.write_bytes(file.getvalue()[: -cut or None])
    return path


def test_arrays_are_read_by_name(tmp_path, torch_names):
    arrays = {
        "first.weight": np.arange(24, dtype=np.float32).reshape(2, 3, 4),
        "last.bias": np.array([1.5], np.float32),
    }
    found = read_torch_weights(write(tmp_path / "weights.pth", torch_names, arrays))
    assert list(found) == list(arrays)
    for name, array in arrays.items():
        assert np.array_equal(found[name], array)
        assert found[name].dtype == np.float32


def test_an_array_that_is_stored_column_by_column_is_turned(tmp_path, torch_names):
    array = np.asfortranarray(np.arange(6, dtype=np.float32).reshape(2, 3))
    found = read_torch_weights(write(tmp_path / "weights.pth", torch_names, {"turned": array}))
    assert np.array_equal(found["turned"], array)


def test_an_array_that_reaches_beyond_its_numbers_is_refused(tmp_path, torch_names):
    path = write(tmp_path / "weights.pth", torch_names, {"wide": np.zeros((2, 3), np.float32)}, strides=(100, 1))
    with pytest.raises(TrainingError, match="outside its numbers"):
        read_torch_weights(path)


def test_a_file_that_is_cut_short_is_refused(tmp_path, torch_names):
    path = write(tmp_path / "weights.pth", torch_names, {"weight": np.zeros(9, np.float32)}, cut=4)
    with pytest.raises(TrainingError, match="cut short"):
        read_torch_weights(path)


def test_a_program_in_the_place_of_weights_is_not_run(tmp_path):
    class Evil:
        def __reduce__(self):
            return (tmp_path / "was-here").touch, ()

    path = tmp_path / "weights.pth"
    parts = [pickle.dumps(value, protocol=2) for value in (0x1950A86A20F9469CFC6C, 1001, {}, Evil())]
    path.write_bytes(b"".join(parts))
    with pytest.raises(TrainingError, match="which no table of weights needs"):
        read_torch_weights(path)
    assert not (tmp_path / "was-here").exists()


@pytest.mark.parametrize("content", [b"", b"not a pickle", pickle.dumps({"a": 1})])
def test_anything_else_is_refused(tmp_path, content):
    (tmp_path / "other").write_bytes(content)
    with pytest.raises(TrainingError, match="other holds no table of PyTorch weights"):
        read_torch_weights(tmp_path / "other")
