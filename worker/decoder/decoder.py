"""How a worker process decodes: on threads, and what may do harm in a process of its own.

Threads are fast and share everything, their death included. So they decode what nothing is known against; a job that
has been the death of a worker before is decoded in processes under limits, and so is whatever a thread does not come
back from.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from nightread.model.card import Gate
from nightread.scan.preprocessing import InputSpec
from worker.decoder.prepared import Prepared, prepare_bytes
from worker.decoder.sandbox import IsolatedDecoders, IsolationLimits
from worker.decoder.thread_pool import Overdue, Task, Threads

_log = logging.getLogger(__name__)

_Result = TypeVar("_Result")

#: What a decode in a process of its own may take beyond its limit: the process is started, and ended.
_ISOLATION_S = 90.0


@dataclass(frozen=True, slots=True)
class Contents(Generic[_Result]):
    """A few contents that one thread decodes, one after the other.

    Handing each of them to a thread and back by itself would cost as much as hashing it.

    Attributes:
        files: the bytes of whole files.
        spec: what they are prepared for.
        gate: of the model, where it has one.
        finish: is given all of them, prepared, on the thread that has decoded them.
    """

    files: Sequence[bytes]
    spec: InputSpec
    gate: Gate | None
    finish: Callable[[Sequence[Prepared]], _Result]


@dataclass(slots=True)
class Decoding(Generic[_Result]):
    """The decoding of some contents, under way; `prepared` are those that are decoded so far."""

    contents: Contents[_Result]
    is_isolated: bool
    prepared: list[Prepared] = field(default_factory=list)
    task: Task[_Result] = field(default_factory=Task)


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

    def start(self, contents: Contents[_Result], *, isolated: bool) -> Decoding[_Result]:
        """Begin to decode contents.

        Args:
            contents: see there.
            isolated: in a process of its own; so is all that follows a scan which a thread is stuck in.
        """
        decoding = Decoding(contents, isolated or self.is_stuck)
        decoding.task = self._threads.submit(self._decode, decoding)
        return decoding

    def finish(self, decoding: Decoding[_Result]) -> tuple[Sequence[Prepared], _Result]:
        """Return what contents were prepared to, and what their `finish` has returned.

        Where a thread does not come back from one, that one and those behind it are decoded here, in a process of
        their own.

        Raises:
            Exception: from their `finish`.
        """
        limit_s = self._limits.limit_s
        try:
            result = self._threads.wait(decoding.task, limit_s + (_ISOLATION_S if decoding.is_isolated else 0.0))
        except Overdue:
            _log.warning("decoding a scan took over %g s: decoded again in a process of its own", limit_s)
        else:
            return decoding.prepared, result
        contents, prepared = decoding.contents, list(decoding.prepared)
        left = contents.files[len(prepared) :]
        prepared += [self._isolated.prepare(data, contents.spec, contents.gate) for data in left]
        return prepared, contents.finish(prepared)

    def _decode(self, decoding: Decoding[_Result]) -> _Result:
        contents, max_pixels = decoding.contents, self._limits.max_pixels
        for data in contents.files:
            self._threads.begin_step()
            if decoding.is_isolated:
                decoding.prepared.append(self._isolated.prepare(data, contents.spec, contents.gate))
            else:
                decoding.prepared.append(prepare_bytes(data, contents.spec, max_pixels, contents.gate))
        self._threads.begin_step(limited=False)
        return contents.finish(decoding.prepared)

    def close(self) -> None:
        """End threads and processes; a thread that is stuck ends with the program."""
        self._threads.close()
        self._isolated.close()
