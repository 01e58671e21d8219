"""Models from elsewhere: each fault is one line, within limits of time and memory, and nothing is left behind."""

import json
import os
import subprocess
import threading
import zipfile
from io import BytesIO
from types import SimpleNamespace

import numpy as np
import pytest

from cli.exits import explain
from db.engine import reading
from db.registry import list_models
from nightread.errors import CardMismatch, NightreadError
from nightread.inference import trial
from nightread.inference.bundle_check import check_bundle
from nightread.inference.session import open_session
from nightread.inference.trial import try_model
from nightread.model import bundle
from nightread.model.bundle import CARD_FILE, MODEL_FILE, PARITY_FILE, load_bundle
from nightread.settings import Device, read_settings
from tests.factories import make_card
from tests.onnx_factories import (
    encode_model,
    encode_node,
    encode_value,
    make_onnx,
    message,
    number,
    write_tiny_bundle,
)
from worker.registry.import_model import import_bundle, import_onnx

SCANS, SCORES = encode_value("scans", "N", 8, 8, 1), encode_value("scores", "N", 1)


def ints(name, *values):
    """Return an attribute of integers."""
    return message(5, message(1, name) + b"".join(number(8, value) for value in values) + number(20, 7))


def integers(name, *values):
    """Return a tensor of int64."""
    return number(1, len(values)) + number(2, 7) + message(8, name) + message(9, np.array(values, "<i8").tobytes())


def make_loop():
    """Return a model with a Loop that never ends."""
    body = (
        message(1, encode_node("Identity", "go", "more")) + message(1, encode_node("Identity", "kept", "next"))
        + message(2, "body")
    )  # fmt: skip
    node = encode_node("Loop", "", "x", attributes=message(5, message(1, "body") + message(6, body) + number(20, 5)))
    return encode_model([node], [], [SCANS], [SCORES])


def make_functions(depth=40):
    """Return a model of functions that each call the next one twice."""
    functions = b""
    for level in range(depth):
        calls = [encode_node(f"F{level + 1}", "x", out, domain="local") for out in ("y", "z")]
        functions += message(25, message(1, f"F{level}") + b"".join(message(7, call) for call in calls)
                             + message(4, "x") + message(5, "z") + message(10, "local"))  # fmt: skip
    return make_onnx(last="F0", domain="local", more=functions)


def make_memory_bomb():
    """Return a small model that computes a tensor of 4 TB from constants, as it loads or at the first scan."""
    nodes = [
        encode_node("ConstantOfShape", "shape", "huge"), encode_node("ReduceSum", "huge", "all"),
        encode_node("Reshape", "all one", "sum"),
        encode_node("Flatten", "scans", "flat"), encode_node("ReduceMean", "flat", "mean", attributes=ints("axes", 1)),
        encode_node("Mul", "mean sum", "product"), encode_node("Sigmoid", "product", "scores"),
    ]  # fmt: skip
    return encode_model(nodes, [integers("shape", 10**4, 10**4, 10**4), integers("one", 1, 1)], [SCANS], [SCORES])


def make_slow(side=3000, times=400):
    """Return a model without a loop that multiplies large matrices for hours."""
    nodes = [encode_node("RandomUniform", "", "m0", attributes=ints("shape", side, side))]
    nodes += [encode_node("MatMul", f"m{step} m{step}", f"m{step + 1}") for step in range(times)]
    nodes += [
        encode_node("ReduceMean", f"m{times}", "one"), encode_node("Flatten", "scans", "flat"),
        encode_node("ReduceMean", "flat", "mean", attributes=ints("axes", 1)),
        encode_node("Mul", "mean one", "product"), encode_node("Sigmoid", "product", "scores"),
    ]  # fmt: skip
    return encode_model(nodes, [], [SCANS], [SCORES])


def reshaped(*sizes):
    nodes = [encode_node("Reshape", "scans sizes", "flat"), encode_node("Sigmoid", "flat", "scores")]
    return encode_model(nodes, [integers("sizes", *sizes)], [SCANS], [SCORES])


def gathered(place):
    axis = message(5, message(1, "axis") + number(3, 1) + number(20, 2))
    nodes = [encode_node("Flatten", "scans", "flat"), encode_node("Gather", "flat place", "scores", attributes=axis)]
    return encode_model(nodes, [integers("place", place)], [SCANS], [SCORES])


def cyclic():
    nodes = [encode_node("Add", "b scans", "a"), encode_node("Neg", "a", "b"), encode_node("Sigmoid", "b", "scores")]
    return encode_model(nodes, [], [SCANS], [SCORES])


MODELS = {
    "endless loop": (make_loop(), "control flow"),
    "exponential functions": (make_functions(), "functions of its own"),
    "other format": (number(1, 8) + message(2, "ORTM") + make_onnx()[2:], "format of ONNX Runtime itself"),
    "no protocol buffer": (b"\x89PNG not a model", "not an ONNX file"),
    "empty": (b"", "not an ONNX file"),
    "cycle": (cyclic(), "cannot be loaded"),
    "one batch only": (reshaped(1, 1), "fails on 1 scans"),
    "another batch fails": (gathered(64), "Gather"),
    "undefined operator": (make_onnx(last="Magic"), "Magic"),
    "undefined input": (encode_model([encode_node("Sigmoid", "gone", "scores")], [], [SCANS], [SCORES]), "loaded"),
    "no output": (encode_model([encode_node("Sigmoid", "scans", "scores")], [], [SCANS], []), "output"),
    "opset of the future": (make_onnx(opset=4000), "cannot be loaded"),
    "wrong weights": (make_onnx().replace(number(1, 64) + number(1, 1), number(1, 63) + number(1, 1), 1), "loaded"),
}


@pytest.fixture
def settings(tmp_path):
    return read_settings(models_dir=tmp_path / "models", model="", device="cpu", threads=1)


def refuse(work):
    """Run `work`, which must end with an error that the program prints in one line."""
    with pytest.raises(NightreadError) as refused:
        work()
    said, _ = explain(refused.value)
    assert "\n" not in said
    return said


@pytest.mark.parametrize("name", MODELS)
def test_a_hostile_model_is_refused_in_one_line_and_leaves_nothing(
    sqlite_engine, settings, tmp_path, name, monkeypatch
):
    model, words = MODELS[name]
    monkeypatch.setattr("worker.registry.import_model.try_model", trial.find_model_faults)
    (tmp_path / "model.onnx").write_bytes(model)
    (tmp_path / "card.json").write_text(json.dumps(make_card()))
    inputs = np.zeros((2, 8, 8, 1), np.float32)
    said = refuse(
        lambda: import_onnx(
            sqlite_engine, settings, tmp_path / "model.onnx", tmp_path / "card.json", lambda spec: inputs
        )
    )
    assert words in said or "onnx.checker" in said  # which looks first where it is installed
    assert not settings.models_dir.exists()
    with reading(sqlite_engine) as connection:
        assert list_models(connection) == []


@pytest.mark.parametrize("make", [make_loop, make_functions])
def test_no_session_opens_what_has_no_limit(make):
    with pytest.raises(CardMismatch):
        open_session(make(), Device.CPU, 1)


def test_a_trial_bounds_time_and_memory(tmp_path, monkeypatch):
    tiny = write_tiny_bundle(tmp_path)
    assert try_model(tiny.model, tiny.card) == []
    (fault,) = try_model(make_memory_bomb(), tiny.card)
    assert "memory" in fault
    monkeypatch.setattr(trial, "_LIMIT_S", 4.0)
    assert try_model(make_slow(), tiny.card) == ["it does not load and score within 4 s"]


def test_an_interrupted_trial_leaves_neither_child_nor_timer(tmp_path, monkeypatch):
    children = []

    class Child(subprocess.Popen):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options)
            children.append(self)

    def interrupt(*_):
        raise KeyboardInterrupt

    tiny = write_tiny_bundle(tmp_path)
    monkeypatch.setattr(trial.subprocess, "Popen", Child)
    monkeypatch.setattr(trial, "_LENGTH", SimpleNamespace(pack=interrupt))
    with pytest.raises(KeyboardInterrupt):
        try_model(tiny.model, tiny.card)
    assert children[0].returncode is not None
    assert not any(timer.is_alive() and not timer.finished.is_set() for timer in list_timers())


def list_timers():
    return [thread for thread in threading.enumerate() if isinstance(thread, threading.Timer)]


def test_a_model_that_ends_its_process_or_lies_is_refused(tmp_path, monkeypatch):
    tiny = write_tiny_bundle(tmp_path / "models")
    program = tmp_path / "python"
    monkeypatch.setattr(trial.sys, "executable", str(program))
    for script, words in {"kill -SEGV $$": "ends the process", "echo '{}'": "takes over", "exit 3": "exit 3"}.items():
        program.write_text(f"#!/bin/bash\n{script}\n")
        program.chmod(0o700)
        (fault,) = try_model(tiny.model, tiny.card)
        assert words in fault


def pack(**members):
    """Return a zip archive, deflated."""
    packed = BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return packed.getvalue()


def encode_header(shape):
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".ljust(117).encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header


def make_npz(inputs, scores):
    packed = BytesIO()
    np.savez(packed, inputs=inputs, scores=scores)
    return packed.getvalue()


def spoil(content):
    """Return a deflated archive with bytes of its stream changed."""
    changed = bytearray(content)
    changed[60:80] = b"\xff" * 20
    return bytes(changed)


INPUTS, SCORED = np.zeros((2, 8, 8, 1), np.float32), np.zeros((2, 1), np.float32)
PARITIES = {
    "text": b"CANARY",
    "one array": BytesIO(b"").getvalue() + encode_header("(1,)") + bytes(4),
    "numbers": make_npz(np.float32(1), np.float32(1)),
    "pickle": make_npz(np.array([{}], object), SCORED),
    "words": make_npz(np.array(["a"]), SCORED),
    "damaged": spoil(pack(inputs=bytes(1000), scores=bytes(1000))),
    "header alone": pack(inputs=encode_header("(2, 8, 8, 1)"), scores=encode_header("(2, 1)")),
    "huge header": pack(inputs=encode_header(f"({10**12}, 8, 8, 1)"), scores=encode_header("(2, 1)")),
    "negative header": pack(inputs=encode_header("(-2, 8, 8, 1)"), scores=encode_header("(2, 1)")),
    "code in header": pack(inputs=encode_header("__import__('os')"), scores=encode_header("(2, 1)")),
    "not finite": make_npz(INPUTS * np.nan, SCORED),
}


def write_spoiled(folder, **files):
    """Write a tiny bundle and replace files of it, without the digests that would tell."""
    write_tiny_bundle(folder)
    for name, content in files.items():
        (folder / "tiny" / "1" / name.replace("_", ".")).write_bytes(content)
    return folder / "tiny" / "1"


@pytest.mark.parametrize("name", PARITIES)
def test_a_malformed_parity_file_is_one_line(tmp_path, name, monkeypatch):
    folder = write_spoiled(tmp_path, parity_npz=PARITIES[name])
    card = json.loads((folder / CARD_FILE).read_bytes())
    monkeypatch.setattr("nightread.model.bundle.hashlib.sha256", lambda data=b"": FakeDigest(card["files"], data))
    monkeypatch.setattr("nightread.model.bundle.compute_digest", lambda *_: card["digest"])
    assert PARITY_FILE in refuse(lambda: load_bundle(folder))


class FakeDigest:
    def __init__(self, files, data):
        self._digest = files[PARITY_FILE if data in PARITIES.values() else MODEL_FILE]

    def hexdigest(self):
        return self._digest


def test_a_parity_file_that_unpacks_to_gigabytes_is_not_unpacked(monkeypatch):
    monkeypatch.setitem(bundle.MOST_BYTES, PARITY_FILE, 10**6)
    with pytest.raises(ValueError, match="bomb"):
        bundle._unpack(pack(inputs=bytes(3 * 10**6), scores=b""))


CARDS = {
    "empty": b"", "text": b"CANARY", "deep": b'{"digest": "' + b"0" * 64 + b'", "x": ' + b"[" * 100_000,
    "no utf-8": b'{"digest": "' + b"0" * 64 + b'"}\xff', "list": b'["digest", "' + b"0" * 64 + b'"]',
}  # fmt: skip


@pytest.mark.parametrize("name", CARDS)
def test_a_malformed_card_is_one_line(tmp_path, name):
    folder = write_spoiled(tmp_path, card_json=CARDS[name])
    assert "the card of the model bundle tiny/1" in refuse(lambda: load_bundle(folder))


@pytest.mark.parametrize("name", [CARD_FILE, MODEL_FILE, PARITY_FILE])
@pytest.mark.parametrize("kind", ["fifo", "device", "folder", "large"])
def test_a_file_of_a_bundle_that_is_no_file_is_one_line(sqlite_engine, settings, tmp_path, name, kind):
    folder = write_spoiled(tmp_path)
    (folder / name).unlink()
    if kind == "fifo":
        os.mkfifo(folder / name)
    elif kind == "device":
        (folder / name).symlink_to("/dev/zero")
    elif kind == "folder":
        (folder / name).mkdir()
    else:
        with (folder / name).open("wb") as file:
            file.truncate(2**40)
    assert name in refuse(lambda: import_bundle(sqlite_engine, settings, folder))
    assert not check_bundle(folder, settings).ok
