"""Measure a bundle's inference on a GPU: batch sizes, precisions, and ways to hand scans to the device.

    uv run --extra cuda --extra train python -m studies.gpu
    uv run --extra cuda --extra train python -m studies.gpu --device cuda --seconds 1 --report docs/performance.md

It takes under five minutes with its defaults. Ways: `run` is what the program does, one call that copies in and out;
`bound` keeps input and output on the device, and copies the input; `graph` also replays a recorded CUDA graph. Without
CUDA it measures the CPU, where `graph` does not exist. Parity is the largest difference to the scores that the bundle
was exported with.
"""

import argparse
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnxruntime as ort

from exporter.precision import change_precision
from nightread.inference.session import is_out_of_memory
from nightread.model.bundle import DEFAULT_MODEL, Bundle, find_bundle, load_bundle
from nightread.model.card import Precision
from nightread.scan.preprocessing import Tensor
from nightread.settings import read_settings
from studies.page_part import write_part

_CUDA: Final = "CUDAExecutionProvider"
_CPU: Final = "CPUExecutionProvider"
_SIZES: Final = (1, 4, 16, 32, 64, 128, 256, 512, 1024)

#: Takes a batch and returns its scores, (N, labels).
Infer = Callable[[Tensor], Any]


def main() -> None:
    """Print the table, or write it into a page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    parser.add_argument("--sizes", type=int, nargs="+", default=list(_SIZES))
    parser.add_argument("--seconds", type=float, default=1.0, help="for each cell of the table")
    parser.add_argument("--report", type=Path, help="page that takes the table between its marks")
    options = parser.parse_args()
    lines = list(measure(options.model, options.device, options.sizes, options.seconds))
    print("\n".join(lines))
    if options.report is not None:
        write_part(options.report, "studies/gpu.py", "\n".join(lines))


def measure(model: str, device: str, sizes: list[int], seconds: float) -> Iterator[str]:
    """Yield the lines of a Markdown table.

    Args:
        model: reference of a bundle.
        device: auto, cpu or cuda.
        sizes: of batches.
        seconds: how long each cell is measured.
    """
    bundle = load_bundle(find_bundle(model, read_settings().models_dir))
    provider = _find_provider(bundle.model, device)
    yield f"`{bundle.card.reference}` on {_describe_device(provider)}, onnxruntime {ort.__version__}."
    yield ""
    yield "| precision | way | batch | scans/s | ms a batch | device memory, MiB | parity |"
    yield "|---|---|---|---|---|---|---|"
    ways = ("run", "bound", "graph") if provider == _CUDA else ("run", "bound")
    for precision in (Precision.FLOAT32, Precision.FLOAT16):
        content = change_precision(bundle.model, precision, bundle.parity_inputs, input_name=_find_input(bundle.model))
        for way in ways:
            for size in sizes:
                row = _measure_cell(content, bundle, provider, way, size=size, seconds=seconds)
                yield f"| {precision} | {way} | {size:,} | {row} |"


def _measure_cell(content: bytes, bundle: Bundle, provider: str, way: str, *, size: int, seconds: float) -> str:
    """Return the cells of one row."""
    batch = np.resize(bundle.parity_inputs, (size, *bundle.card.input.shape)).astype(np.float32)
    expected = np.resize(bundle.parity_scores, (size, len(bundle.card.labels)))
    try:
        infer = _open(content, provider, way, batch)
        parity = float(np.abs(infer(batch) - expected).max())
        infer(batch)
        count, started = 0, time.perf_counter()
        while (took_s := time.perf_counter() - started) < seconds or not count:
            infer(batch)
            count += 1
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        return "out of memory | | | "
    memory = _read_memory_mib() if provider == _CUDA else None
    memory_cell = "" if memory is None else f"{memory:,}"
    return f"{count * size / took_s:,.0f} | {1000 * took_s / count:.2f} | {memory_cell} | {parity:.2g}"


def _open(content: bytes, provider: str, way: str, batch: Tensor) -> Infer:
    """Open a session of its own for each cell, so that its memory is its own too."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    given: dict[str, str] = {"enable_cuda_graph": "1"} if way == "graph" else {}
    session = ort.InferenceSession(content, options, providers=[(provider, given)] if given else [provider])
    name, scores = session.get_inputs()[0].name, session.get_outputs()[0].name
    if way == "run":
        return lambda scans: session.run([scores], {name: scans})[0]
    place = "cuda" if provider == _CUDA else "cpu"
    taken = ort.OrtValue.ortvalue_from_numpy(batch, place, 0)
    shape = [len(batch), *session.get_outputs()[0].shape[1:]]
    returned = ort.OrtValue.ortvalue_from_shape_and_type(shape, np.float32, place, 0)
    binding = session.io_binding()
    binding.bind_ortvalue_input(name, taken)
    binding.bind_ortvalue_output(scores, returned)

    def infer(scans: Tensor) -> Any:
        if place == "cuda":
            taken.update_inplace(scans)
        session.run_with_iobinding(binding)
        return returned.numpy()

    return infer


def _find_provider(model: bytes, device: str) -> str:
    """Return the provider that a session really has: CUDA may be listed and not load."""
    if device == "cpu" or _CUDA not in ort.get_available_providers():
        found = _CPU
    else:
        ort.preload_dlls()
        options = ort.SessionOptions()
        options.log_severity_level = 4
        found = ort.InferenceSession(model, options, providers=[_CUDA, _CPU]).get_providers()[0]
    if device == "cuda" and found != _CUDA:
        sys.exit("ONNX Runtime cannot use CUDA here: install a driver and the extra `cuda`, or leave --device out")
    return found


def _find_input(model: bytes) -> str:
    session = ort.InferenceSession(model, providers=[_CPU])
    return str(session.get_inputs()[0].name)


def _describe_device(provider: str) -> str:
    return (_ask_nvidia("name") or "a GPU") if provider == _CUDA else "the CPU (no CUDA here)"


def _read_memory_mib() -> int | None:
    used = _ask_nvidia("memory.used")
    return int(used.split()[0]) if used else None


def _ask_nvidia(field: str) -> str:
    program = shutil.which("nvidia-smi")
    if program is None:
        return ""
    asked = [program, f"--query-gpu={field}", "--format=csv,noheader", "--id=0"]
    done = subprocess.run(asked, capture_output=True, text=True, check=False)  # noqa: S603  # nothing of it is a user's
    return done.stdout.strip().splitlines()[0] if done.returncode == 0 and done.stdout.strip() else ""


if __name__ == "__main__":
    main()
