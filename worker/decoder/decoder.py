"""Decoding of a worker process: on threads, and in a sandbox where a scan may do harm.

Threads are fast and share everything, a crash included. So they decode what nothing is known against. A job that has
crashed a worker is decoded in processes under limits, and so is a scan that a thread does not come back from.
"""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from nightread.errors import DeviceFull
from nightread.inference.content import Content, decode_content
from nightread.model.card import Gate
from nightread.scan.formats import SNIFF_BYTES, Format, sniff
from nightread.scan.preprocessing import InputSpec
from worker.decoder.sandbox import IsolatedDecoders, IsolationLimits
from worker.decoder.thread_pool import Overdue, Task, Threads

_log = logging.getLogger(__name__)

_Result = TypeVar("_Result")

#: Is called with contents that are decoded, on the thread that has decoded them; returns an error of the device.
Finish = Callable[[Sequence[Content]], DeviceFull | None]

#: Time that a decode in the sandbox may take beyond its limit: its process is started, and ended.
_ISOLATION_S = 90.0


@dataclass(slots=True)
class Decoding:
    """A few contents that one thread decodes one after the other; handing over each by itself would cost more.

    Attributes:
        contents: with their bytes; each is filled once it is decoded.
        spec: the network's input.
        gate: of the model, where it has one.
        finish: is called with the contents once all are decoded.
        is_isolated: whether they are decoded in the sandbox.
        task: of the thread.
    """

    contents: Sequence[Content]
    spec: InputSpec
    gate: Gate | None
    finish: Finish
    is_isolated: bool
    task: Task[DeviceFull | None] = field(default_factory=Task)


class Decoder:
    """The threads and the decoder processes of one worker process.

    Attributes:
        threads: how many things it does side by side.
    """

    def __init__(self, threads: int, limits: IsolationLimits, isolate: str = "suspect") -> None:
        """Start nothing yet.

        Args:
            threads: for reading and decoding; each may have a decoder process.
            limits: of one scan.
            isolate: which scans are decoded in the sandbox from the start: `suspect` ones only, all `dicom`, or `all`.
        """
        self._isolate = isolate
        self.threads = threads
        self._threads = Threads(threads, "nightread-decode")
        self._isolated = IsolatedDecoders(limits)
        self._limits = limits

    @property
    def is_stuck(self) -> bool:
        """Whether a thread of this process has not come back from a scan, and burns its core."""
        return self._threads.stuck > 0

    def submit(self, work: Callable[..., _Result], *arguments: Any) -> Task[_Result]:
        """Have a thread do something that comes back, such as reading a file."""
        return self._threads.submit(work, *arguments)

    def start(
        self,
        contents: Sequence[Content],
        spec: InputSpec,
        gate: Gate | None,
        finish: Finish,
        *,
        isolated: bool,
    ) -> Decoding:
        """Begin to decode contents; for the arguments see `Decoding`.

        While a thread is stuck in a scan, everything is decoded in the sandbox.
        """
        decoding = Decoding(contents, spec, gate, finish, isolated or self.is_stuck)
        decoding.task = self._threads.submit(self._decode, decoding)
        return decoding

    def wait(self, decoding: Decoding) -> DeviceFull | None:
        """Wait until contents are decoded, and return what their `finish` returns.

        Where a thread does not come back from a content, that one and those behind it are decoded here, in the sandbox.

        Raises:
            Exception: from their `finish`.
        """
        limit_s = self._limits.limit_s
        is_apart = decoding.is_isolated or self._isolate != "suspect"
        try:
            return self._threads.wait(decoding.task, limit_s + (_ISOLATION_S if is_apart else 0.0))
        except Overdue:
            _log.warning("decoding a scan took over %g s: decoded again in a process of its own", limit_s)
        for content in decoding.contents:
            if content.data:
                content.fill(self._isolated.decode(content.data, decoding.spec, decoding.gate))
        return decoding.finish(decoding.contents)

    def _decode(self, decoding: Decoding) -> DeviceFull | None:
        spec, gate, limits = decoding.spec, decoding.gate, self._limits
        for content in decoding.contents:
            if decoding.is_isolated or self._is_apart(content.data):
                began = time.perf_counter()
                decoded = self._isolated.decode(content.data, spec, gate)
                decoded.stage_s["decode"] = time.perf_counter() - began
            else:
                decoded = decode_content(content.data, spec, limits.max_pixels, gate, limits.accepted)
            self._threads.begin_step()  # raises where this thread was given up: `wait` fills the content then
            content.fill(decoded)
        self._threads.begin_step(limited=False)
        return decoding.finish(decoding.contents)

    def _is_apart(self, data: bytes) -> bool:
        """Whether the operator wants such a file decoded in the sandbox from the start."""
        if self._isolate == "dicom":
            return sniff(data[:SNIFF_BYTES]) is Format.DICOM
        return self._isolate == "all"

    def close(self) -> None:
        """End threads and processes; a thread that is stuck ends with the program."""
        self._threads.close()
        self._isolated.close()
