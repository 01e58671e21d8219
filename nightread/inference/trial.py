"""Trial of a model from elsewhere: loaded and run once in a child process with limits of time and memory.

A hostile model may load for ever, take all memory or crash ONNX Runtime, and its text may take over the reader of it.
`python -m nightread.inference.trial MEMORY_BYTES` is the child: it takes the model on stdin and answers with faults.
"""

import importlib
import importlib.util
import json
import os
import struct
import subprocess
import sys
import threading
from typing import Any, Final

import numpy as np

from nightread.errors import CardMismatch
from nightread.inference.scorer import find_graph_faults
from nightread.inference.session import ORT_ERRORS, is_out_of_memory, open_session, show_error
from nightread.model.card import Card
from nightread.model.onnx_file import read_onnx
from nightread.process_limits import limit_process, make_child_environment
from nightread.settings import Device

_LIMIT_S: Final = 120.0
#: Address space: what Python and ONNX Runtime reserve, and a graph's weights as bytes, parsed, and packed for the CPU.
_BASE_BYTES: Final = 4 * 2**30
_BYTES_PER_MODEL_BYTE: Final = 8
#: Scans in the first inference: one, and the default batch.
_SCANS: Final = (1, 32)
_LENGTH: Final = struct.Struct("<Q")
_LONGEST_ANSWER: Final = 100_000
_LONGEST_FAULT: Final = 300


def try_model(model: bytes, card: Card | None, *, standard_only: bool = False) -> list[str]:
    """Return the faults of a model: of its file, its graph, and of loading and running it once on the CPU.

    Args:
        model: an ONNX file.
        card: its card; None where the card is at fault itself, and the graph is looked at alone.
        standard_only: whether operators that the ONNX standard does not define are a fault.
    """
    fields = None if card is None else card.model_dump_json()
    header = json.dumps({"size": len(model), "standard_only": standard_only, "card": fields}).encode()
    memory_bytes = _BASE_BYTES + _BYTES_PER_MODEL_BYTE * len(model)
    child = subprocess.Popen(  # noqa: S603  # this very program
        [sys.executable, "-P", "-m", "nightread.inference.trial", str(memory_bytes)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,  # a crash writes what it likes
        env=make_child_environment(),
    )
    assert child.stdin is not None  # noqa: S101  # both are pipes
    assert child.stdout is not None  # noqa: S101
    is_over = threading.Event()

    def end() -> None:
        is_over.set()
        child.kill()

    timer = threading.Timer(_LIMIT_S, end)
    try:
        timer.start()
        try:
            with child.stdin as requests:
                requests.write(_LENGTH.pack(len(header)) + header)
                requests.write(model)
        except OSError:  # it has ended before
            pass
        answer = child.stdout.read(_LONGEST_ANSWER)
    finally:  # at Ctrl-C, too: the program would wait for the timer
        timer.cancel()
        child.stdout.close()
        child.kill()
        code = child.wait()
    if is_over.is_set():
        return [f"it does not load and score within {_LIMIT_S:g} s"]
    try:
        faults = json.loads(answer)
    except ValueError:
        return [f"it ends the process that tries it (exit {code}; memory is limited to {memory_bytes / 2**30:.1f} GiB)"]
    if not isinstance(faults, list) or not all(isinstance(fault, str) for fault in faults):
        return ["it takes over the process that tries it"]
    return [fault[:_LONGEST_FAULT] for fault in faults]


def find_model_faults(model: bytes, card: Card | None, *, standard_only: bool = False) -> list[str]:
    """Return the faults of a model in this process; for the arguments see `try_model`."""
    if faults := _find_file_faults(model, standard_only=standard_only):
        return faults
    try:
        opened = open_session(model, Device.CPU, 1)
    except CardMismatch as error:
        return [str(error)]
    if faults := [f"it {fault}" for fault in find_graph_faults(opened.session, card)]:
        return faults
    if card is None:
        return []
    low, high = card.input.value_range
    names = [output.name for output in opened.session.get_outputs()]
    for count in _SCANS:
        scans = np.full((count, *card.input.shape), (low + high) / 2, np.float32)
        try:
            opened.session.run(names, {opened.session.get_inputs()[0].name: scans})
        except ORT_ERRORS as error:
            if is_out_of_memory(error):
                return [f"it needs more memory than a trial allows for {count} scans at once"]
            return [f"it fails on {count} scans at once: {show_error(error)}"]
    return []


def _find_file_faults(model: bytes, *, standard_only: bool) -> list[str]:
    """Return the faults of an ONNX file that show without opening it."""
    try:
        found = read_onnx(model)
    except CardMismatch as error:
        return [str(error)]
    faults = [f"it {fault}" for fault in found.faults]
    if standard_only and (custom := found.custom_operators):
        named = f"{', '.join(custom[:5])}{' ...' if len(custom) > 5 else ''}"
        faults.append(
            f"it uses {named}, which the ONNX standard does not define: export it again with standard operators"
        )
    return faults or (_run_checker(model) if standard_only else [])


def _run_checker(model: bytes) -> list[str]:
    """Return the fault that the package onnx finds in the graph, if onnx is installed."""
    if importlib.util.find_spec("onnx") is None:
        return []
    onnx: Any = importlib.import_module("onnx")
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError, ValueError, RuntimeError) as error:
        return [f"onnx.checker: {' '.join(str(error).split())}"]
    return []


def main() -> None:
    """Answer one request; only `try_model` calls it."""
    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1):  # ONNX Runtime may print
        os.dup2(nothing, descriptor)
    os.close(nothing)
    limit_process(int(sys.argv[1]))
    header = json.loads(requests.read(*_LENGTH.unpack(requests.read(_LENGTH.size))))
    model = requests.read(header["size"])
    card = None if header["card"] is None else Card.model_validate_json(header["card"])
    try:
        faults = find_model_faults(model, card, standard_only=header["standard_only"])
    except MemoryError:
        faults = ["it needs more memory than a trial allows"]
    except Exception as error:  # noqa: BLE001  # the boundary to untrusted bytes
        faults = [f"trying it fails with {type(error).__name__}"]
    answers.write(json.dumps(faults).encode())
    answers.flush()
    os._exit(0)  # what is left of the model is not worth a crash at the end


if __name__ == "__main__":
    main()
