"""How a worker process decodes: on threads, and what may do harm in a process of its own.

Threads are fast and share everything, their death included. So they decode what nothing is known against; a job that
has been the death of a worker before is decoded in processes under limits, and so is whatever a thread does not come
back from.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from nightread.card import Gate
from nightread.preparing import InputSpec
from worker.decoding import Prepared, prepare_bytes
from worker.isolating import IsolatedDecoders, IsolationLimits
from worker.threads import Overdue, Task, Threads

_log = logging.getLogger(__name__)

_Result = TypeVar("_Result")

#: What a decode in a process of its own may take beyond its limit: the process is started, and ended.
_ISOLATION_S = 90.0


@dataclass(frozen=True, slots=True)
class Decoding:
    """The decoding of one content, under way."""

    data: bytes
    spec: InputSpec
    gate: Gate | None
    task: Task[Prepared]
    is_isolated: bool


class Decoder:
    """The threads and the decoder processes of one worker process.

    Attributes:
        threads: how many things it does side by side.
    """

    def __init__(self, threads: int, limits: IsolationLimits) -> None:
        """Start nothing yet.

        Args:
            threads: for reading and decoding; each may have a decoder process.
            limits: of one scan.
        """
        self.threads = threads
        self._threads = Threads(threads, "nightread-decode")
        self._isolated = IsolatedDecoders(limits)
        self._limits = limits

    @property
    def is_stuck(self) -> bool:
        """Whether a thread of this process has not come back from a scan, and burns its core."""
        return self._threads.stuck > 0

    def submit(self, work: Callable[..., _Result], *arguments: Any) -> Task[_Result]:
        """Have a thread do something that comes back, such as reading a file or scoring a batch."""
        return self._threads.submit(work, *arguments)

    def start(self, data: bytes, spec: InputSpec, *, isolated: bool, gate: Gate | None = None) -> Decoding:
        """Begin to decode one content.

        Args:
            data: the whole file.
            spec: what it is prepared for.
            isolated: in a process of its own; so is all that follows a scan which a thread is stuck in.
            gate: of the model, where it has one.
        """
        if isolated or self.is_stuck:
            task = self._threads.submit(self._isolated.prepare, data, spec, gate)
            return Decoding(data, spec, gate, task, is_isolated=True)
        task = self._threads.submit(prepare_bytes, data, spec, self._limits.max_pixels, gate)
        return Decoding(data, spec, gate, task, is_isolated=False)

    def finish(self, decoding: Decoding) -> Prepared:
        """Return what a decoding came to; where its thread does not come back, what a process of its own came to."""
        if decoding.is_isolated:
            return self._threads.wait(decoding.task, self._limits.limit_s + _ISOLATION_S)
        try:
            return self._threads.wait(decoding.task, self._limits.limit_s)
        except Overdue:
            _log.warning("decoding a scan took over %g s: decoded again in a process of its own", self._limits.limit_s)
            return self._isolated.prepare(decoding.data, decoding.spec, decoding.gate)

    def close(self) -> None:
        """End threads and processes; a thread that is stuck ends with the program."""
        self._threads.close()
        self._isolated.close()
