"""Decoding scans that may do harm in processes that may die: each death costs one scan, and nothing else.

What such a process answers is not trusted either, since hostile bytes may have taken it over: sizes are checked,
numbers are read as numbers, and nothing is unpickled.
"""

import contextlib
import json
import logging
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO, Any, TypeVar

import numpy as np

from db.tables import REASON_TEXT_LENGTH
from nightread.inference.content import Content
from nightread.model.card import Gate
from nightread.model.gate import Finding
from nightread.process_limits import hide_memory, make_child_environment
from nightread.reasons import Reason
from nightread.scan.acquisition import RADIOGRAPHS, Accepted, Acquisition, make_acquisition
from nightread.scan.preprocessing import InputSpec
from nightread.scan.scan import BrightnessRule, Contradiction
from worker.decoder.sandbox_child import LENGTH, read_exactly

_log = logging.getLogger(__name__)

_Result = TypeVar("_Result")

_START_LIMIT_S = 60.0
_END_S = 10.0
_LONGEST_HEADER = 10_000

# What one decode may need at most: gray levels in double precision, twice, their mask, and the prepared copy. The base
# is what Python, numpy and the decoders reserve before the first scan.
_BYTES_PER_PIXEL = 40
_BASE_BYTES = 2**29


@dataclass(frozen=True, slots=True)
class IsolationLimits:
    """What one scan may use up in a process of its own.

    Attributes:
        limit_s: time for one scan, in seconds.
        max_pixels: largest width times height.
        max_file_bytes: largest file.
        accepted: which DICOM instances are accepted.
        memory_share: most bytes for one scan, whatever its size; less than a container has, so that the scan ends
            `out-of-memory` before the kernel kills a process of the container.
    """

    limit_s: float
    max_pixels: int
    max_file_bytes: int
    accepted: Accepted = RADIOGRAPHS
    memory_share: int = sys.maxsize

    @property
    def memory_bytes(self) -> int:
        """The address space of the process."""
        return _BASE_BYTES + min(self.memory_share, _BYTES_PER_PIXEL * self.max_pixels + 2 * self.max_file_bytes)


class IsolatedDecoders:
    """Decoder processes, started when they are needed, used again as long as they live."""

    def __init__(self, limits: IsolationLimits) -> None:
        self._limits = limits
        self._idle: list[_DecoderProcess] = []
        self._lock = threading.Lock()

    def decode(self, data: bytes, spec: InputSpec, gate: Gate | None = None) -> Content:
        """Do as `decode_content` does, in a process that may die of it; several threads may call this at once."""
        with self._lock:
            decoder = self._idle.pop() if self._idle else None
        try:
            decoder = decoder or _DecoderProcess(self._limits)
            decoded = decoder.decode(data, spec, gate)
        except _NotStarted as error:
            _log.error("%s", error)
            return Content(reason=Reason.INTERNAL_ERROR, text=str(error))
        except _DecoderEnded as ended:
            _log.error("a decoder process ended: %s", ended.text)
            return Content(reason=ended.reason, text=ended.text)
        with self._lock:
            self._idle.append(decoder)
        return decoded

    def close(self) -> None:
        """End the processes."""
        with self._lock:
            idle, self._idle = self._idle, []
        for decoder in idle:
            decoder.end()


class _NotStarted(Exception):
    """There is no decoder process, which is no scan's fault."""


class _DecoderEnded(Exception):
    def __init__(self, reason: Reason, text: str) -> None:
        super().__init__(text)
        self.reason = reason
        self.text = text


class _DecoderProcess:
    def __init__(self, limits: IsolationLimits) -> None:
        self._limits = limits
        self._is_overdue = False
        cpu_s = max(1, round(limits.limit_s))
        hide_memory()
        try:
            # -P: the current folder may be the scan folder, and nothing in it is imported.
            self._process = subprocess.Popen(  # noqa: S603  # this very program
                [sys.executable, "-P", "-m", "worker.decoder.sandbox_child", str(limits.memory_bytes), str(cpu_s)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,  # a decoder's words may quote the file, and so a patient
                env=make_child_environment(),
            )
        except (OSError, MemoryError) as error:
            raise _NotStarted(f"no decoder process could be started: {type(error).__name__}") from None
        self._requests, self._answers = _streams(self._process)
        try:
            self._within(_START_LIMIT_S, lambda: _read_header(self._answers))
        except (OSError, EOFError, ValueError):
            code = self.end()
            raise _NotStarted(f"a decoder process did not start (exit {code}): is there memory for it?") from None

    def decode(self, data: bytes, spec: InputSpec, gate: Gate | None) -> Content:
        request = {
            "size": len(data), "spec": spec.model_dump(mode="json"), "max_pixels": self._limits.max_pixels,
            "gate": None if gate is None else gate.model_dump(mode="json"),
            "modalities": sorted(self._limits.accepted.modalities),
            "for_processing": self._limits.accepted.for_processing,
        }  # fmt: skip
        try:
            return self._within(self._limits.limit_s, lambda: self._exchange(request, data, spec))
        except (OSError, EOFError):  # its pipes are closed a moment before it has ended
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_END_S)
            raise self._explain_end(self.end()) from None
        except (ValueError, KeyError, TypeError, MemoryError):
            self.end()
            raise _DecoderEnded(Reason.DECODER_CRASH, "its decoder gave an answer that is none") from None

    def end(self) -> int:
        """Kill the process and return its exit status."""
        self._process.kill()
        for stream in (self._requests, self._answers):
            try:
                stream.close()
            except OSError:  # what was not written can no longer be
                continue
        return self._process.wait()

    def _within(self, limit_s: float, exchange: Callable[[], _Result]) -> _Result:
        """Return what `exchange` returns; the process is killed where it takes longer, which ends the exchange too."""
        timer = threading.Timer(limit_s, self._kill_overdue)
        timer.daemon = True
        timer.start()
        try:
            return exchange()
        finally:
            timer.cancel()

    def _kill_overdue(self) -> None:
        self._is_overdue = True
        self._process.kill()

    def _exchange(self, request: dict[str, Any], data: bytes, spec: InputSpec) -> Content:
        header = json.dumps(request).encode()
        self._requests.write(LENGTH.pack(len(header)) + header)
        self._requests.write(data)
        self._requests.flush()
        answer = _read_header(self._answers)
        return _to_content(answer, read_exactly(self._answers, _check_size(answer, spec)), spec)

    def _explain_end(self, code: int) -> _DecoderEnded:
        limit = f"{self._limits.limit_s:g} s (NIGHTREAD_DECODE_LIMIT_S)"
        if self._is_overdue:
            return _DecoderEnded(Reason.DECODER_TIMEOUT, f"decoding did not end within {limit}")
        if code == -signal.SIGXCPU:
            return _DecoderEnded(Reason.DECODER_TIMEOUT, f"decoding took more processor time than {limit}")
        if code == -signal.SIGKILL:
            return _DecoderEnded(Reason.OUT_OF_MEMORY, "its decoder was killed: the machine has run out of memory")
        cause = name_end(code)
        return _DecoderEnded(Reason.DECODER_CRASH, f"its decoder died of it ({cause}); keep the file and report it")


def name_end(code: int) -> str:
    """Return what a process has ended with, from its exit code: the name of a signal where that is negative."""
    return signal.Signals(-code).name if -code in set(signal.Signals) else f"exit {code}"


def _streams(process: "subprocess.Popen[bytes]") -> tuple[IO[bytes], IO[bytes]]:
    if process.stdin is None or process.stdout is None:
        raise AssertionError("both are pipes")
    return process.stdin, process.stdout


def _read_header(answers: IO[bytes]) -> dict[str, Any]:
    (length,) = LENGTH.unpack(read_exactly(answers, LENGTH.size))
    if length > _LONGEST_HEADER:
        raise ValueError("a header of no length that ours have")
    header = json.loads(read_exactly(answers, length))
    if not isinstance(header, dict):
        raise TypeError("a header that is no object")
    return header


def _check_size(answer: dict[str, Any], spec: InputSpec) -> int:
    """Return how many bytes follow the header: one tensor, or none where there is a reason."""
    size = int(np.prod(spec.shape)) * np.dtype(np.float32).itemsize if answer["reason"] is None else 0
    if answer["size"] != size:
        raise ValueError("an answer of another size")
    return size


def _to_content(answer: dict[str, Any], body: bytes, spec: InputSpec) -> Content:
    if answer["reason"] is not None:
        return Content(
            reason=Reason(answer["reason"]),
            text=str(answer["text"])[:REASON_TEXT_LENGTH],
            acquisition=_to_acquisition(answer["acquisition"]),
        )
    tensor, (low, high) = np.frombuffer(body, np.float32).reshape(spec.shape), spec.value_range
    if not (low <= tensor.min() and tensor.max() <= high):  # also where one is not a number
        raise ValueError("a tensor beyond the network's range")
    return Content(
        tensor=tensor,
        acquisition=_to_acquisition(answer["acquisition"]),
        rule=None if answer["rule"] is None else BrightnessRule(answer["rule"]),
        contradictions=frozenset(map(Contradiction, answer["contradictions"])),
        finding=_to_finding(answer["finding"]),
    )


def _to_acquisition(values: Any) -> Acquisition | None:
    return None if values is None else make_acquisition(dict(values))


def _to_finding(finding: Any) -> Finding | None:
    if finding is None:
        return None
    code, text = finding
    reason = Reason(code)
    if not reason.is_rejection:
        raise ValueError("a finding of the gate that rejects nothing")
    return Finding(reason, str(text)[:REASON_TEXT_LENGTH])
