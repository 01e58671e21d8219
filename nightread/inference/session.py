"""The one place that opens ONNX Runtime sessions: worker, import, check and export all run a model through it.

It keeps one rule: the device that was asked for is the device that is used.
"""

import contextlib
import io
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from nightread.errors import CardMismatch, DeviceError
from nightread.model.onnx_file import check_onnx
from nightread.scan.preprocessing import Tensor
from nightread.settings import Device

_log = logging.getLogger(__name__)

_CUDA: Final = "CUDAExecutionProvider"
_CPU: Final = "CPUExecutionProvider"
#: A driver that has found a GPU creates one of these; the second is that of Windows' Linux subsystem.
_GPU_NODES = (Path("/dev/nvidiactl"), Path("/dev/dxg"))
_ERRORS_ONLY, _FATAL_ONLY = 3, 4
_LONGEST_ERROR = 200
#: Code, source line and C++ function in a text of ONNX Runtime.
_ITS_OWN = re.compile(r"\[ONNXRuntimeError\] : \d+ : |/\S+\.\w+:\d+ [^()]*\([^()]*\) ")
#: Texts of ONNX Runtime, CUDA, cuDNN and cuBLAS for a failed allocation, which has no error class of its own.
_OUT_OF_MEMORY = ("failed to allocate memory", "out of memory", "alloc_failed", "bad_alloc", "bad allocation")
_state = ort.capi.onnxruntime_pybind11_state
#: Errors that loading or running a graph may raise.
ORT_ERRORS: tuple[type[Exception], ...] = (
    ValueError,
    TypeError,
    RuntimeError,
    MemoryError,
    *{error for error in vars(_state).values() if isinstance(error, type) and issubclass(error, Exception)},
)


def is_out_of_memory(error: Exception) -> bool:
    """Return whether an error of `InferenceSession.run` means that the device is out of memory."""
    return isinstance(error, MemoryError) or any(text in str(error).lower() for text in _OUT_OF_MEMORY)


def show_error(error: Exception) -> str:
    """Return the beginning of an error's text as one line; ONNX Runtime writes pages, and its own source lines."""
    return _ITS_OWN.sub("", " ".join(str(error).split()))[:_LONGEST_ERROR]


@dataclass(frozen=True, slots=True)
class OpenSession:
    """A session, and the device and provider that it runs on.

    Attributes:
        session: `onnxruntime.InferenceSession`.
        provider: execution provider in use, as ONNX Runtime names it.
        device: cpu or cuda.
        runtime: name and version of the inference runtime.
    """

    session: Any
    provider: str
    device: str
    runtime: str

    def compute(self, outputs: Sequence[str], scans: Tensor, at_once: int | None = None) -> list[npt.NDArray[Any]]:
        """Return outputs of the graph for prepared scans.

        Args:
            outputs: names.
            scans: (N, H, W, C) float32, N > 0.
            at_once: scans in a batch; None: all of them.

        Returns:
            (N, ...) of each output, in the order of the names.
        """
        size, name = at_once or len(scans), self.session.get_inputs()[0].name
        starts = range(0, len(scans), size)
        batches = [self.session.run(list(outputs), {name: scans[start : start + size]}) for start in starts]
        return [np.concatenate(parts) for parts in zip(*batches, strict=True)]

    def score(self, scans: Tensor) -> npt.NDArray[Any]:
        """Return (N, labels) scores, the first output, of (N, H, W, C) prepared scans in one batch."""
        return self.compute([self.session.get_outputs()[0].name], scans)[0]


def open_session(model: bytes, device: Device, threads: int) -> OpenSession:
    """Open a session on the device that was asked for.

    `onnxruntime-gpu` lists the CUDA provider as available wherever it is installed, and falls back to the CPU silently
    if CUDA does not load. So the provider is read from the finished session.

    Args:
        model: an ONNX file.
        device: `auto` takes CUDA if it works, and logs a warning if there is a GPU that does not.
        threads: threads of one operator on the CPU.

    Raises:
        DeviceError: `cuda` was asked for and is not active.
        CardMismatch: ONNX Runtime cannot load the bytes as a model, or the model needs tensors from other files.
    """
    check_onnx(model)
    wanted = device is Device.CUDA or (device is Device.AUTO and _may_have_gpu())
    if wanted and _CUDA in ort.get_available_providers():
        session = _load_on_cuda(model, threads)
    else:
        session = _load(model, [_CPU], threads)
    provider = session.get_providers()[0]
    if device is Device.CUDA and provider != _CUDA:
        raise DeviceError(
            "the device is set to cuda, but ONNX Runtime cannot use CUDA here: install a driver and the libraries "
            "(`uv sync --extra cuda`), or set NIGHTREAD_DEVICE=cpu"
        )
    if wanted and provider != _CUDA:
        _log.warning("a GPU is there but ONNX Runtime cannot use it: running on the CPU (`uv sync --extra cuda`)")
    return OpenSession(session, provider, "cuda" if provider == _CUDA else "cpu", f"onnxruntime {ort.__version__}")


def explain_missing_gpu() -> str:
    """Return why CUDA cannot be used on this machine; "" if nothing is known to speak against it."""
    if not _may_have_gpu():
        return f"no GPU: no NVIDIA driver has created {_GPU_NODES[0]}"
    if _CUDA not in ort.get_available_providers():
        return "a GPU is there, but this build of ONNX Runtime is for the CPU"
    return ""


def _may_have_gpu() -> bool:
    return any(node.exists() for node in _GPU_NODES)


def _load_on_cuda(model: bytes, threads: int) -> Any:
    """Try CUDA and suppress ONNX Runtime's own pages of errors: the session's provider says whether it worked."""
    with contextlib.redirect_stdout(io.StringIO()):  # it prints each library that it does not find
        ort.preload_dlls()  # those of the extra `cuda`
    ort.set_default_logger_severity(_FATAL_ONLY)
    try:
        return _load(model, [_CUDA, _CPU], threads)
    finally:
        ort.set_default_logger_severity(_ERRORS_ONLY)


def _load(model: bytes, providers: list[str], threads: int) -> Any:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = _FATAL_ONLY if _CUDA in providers else _ERRORS_ONLY
    # What was checked is what is run: ONNX Runtime would take some bytes for its own format, which nothing here reads.
    options.add_session_config_entry("session.load_model_format", "ONNX")
    options.use_deterministic_compute = True  # a scan gets the same score each time
    # Idle inference threads sleep and do not spin: the cores have the next scans to decode.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return ort.InferenceSession(model, options, providers=providers)
    except ORT_ERRORS as error:
        raise CardMismatch(
            f"the model cannot be loaded by ONNX Runtime {ort.__version__}: {show_error(error)}"
        ) from None
