"""Threads that may be given up: whatever does not return costs a thread, and not the process that waits for it."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextvars import copy_context
from queue import SimpleQueue
from typing import Any, TypeVar

_Result = TypeVar("_Result")


class Overdue(Exception):
    """A task has run for longer than it may, and is still running."""


class GivenUp(Exception):
    """Nobody waits any more for the task that this thread is at; what is left of it is somebody else's to do."""


class Task(Future[_Result]):
    """What a thread was asked to do.

    Attributes:
        started_at: since when its limit runs, by the monotonic clock; None while it waits for a thread, or has none.
    """

    started_at: float | None = None


class Threads:
    """A fixed number of threads, started as they are needed, each of which is replaced where it is given up.

    Unlike those of `ThreadPoolExecutor` they are daemons: a program can end although one of them never will.
    """

    def __init__(self, count: int, name: str) -> None:
        self._count = count
        self._name = name
        self._queue: SimpleQueue[tuple[Task[Any], Callable[..., Any], tuple[Any, ...]] | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._started = 0
        self._given_up: set[Task[Any]] = set()
        self._here = threading.local()

    @property
    def stuck(self) -> int:
        """How many tasks were given up and are running all the same."""
        return len(self._given_up)

    def submit(self, work: Callable[..., _Result], *arguments: Any) -> Task[_Result]:
        """Have a thread call `work(*arguments)`, in the order of submission."""
        task: Task[_Result] = Task()
        # With the context of the caller, so that a line of the log names run and job.
        self._queue.put((task, copy_context().run, (work, *arguments)))
        if self._started < self._count:
            with self._lock:
                if self._started < self._count:
                    self._start_thread()
        return task

    def wait(self, task: Task[_Result], limit_s: float) -> _Result:
        """Return what a task came to, or raise what it raised.

        Args:
            task: of `submit`.
            limit_s: how long it may run, in seconds, or each of its steps; waiting for a thread does not count.

        Raises:
            Overdue: it has run for that long; its thread is replaced by another, and ends should the task ever end.
        """
        while True:
            began = task.started_at
            left_s = limit_s if began is None else began + limit_s - time.monotonic()
            try:
                return task.result(timeout=max(0.0, left_s))
            except TimeoutError:
                if task.done():  # by now, or it was the task that raised this
                    return task.result()
                if began is not None and self._give_up(task, began):
                    raise Overdue from None

    def begin_step(self, *, limited: bool = True) -> None:
        """Let the limit of the task that calls this begin anew: it goes on to the next of several things.

        Args:
            limited: whether that next thing has a limit.

        Raises:
            GivenUp: the task was given up while it was at the last one.
        """
        task: Task[Any] = self._here.task
        with self._lock:
            if task in self._given_up:
                raise GivenUp
            task.started_at = time.monotonic() if limited else None

    def close(self) -> None:
        """Let the threads end after what is submitted; does not wait for them."""
        for _ in range(self._started):
            self._queue.put(None)

    def _start_thread(self) -> None:
        self._started += 1
        threading.Thread(target=self._work, name=f"{self._name}-{self._started}", daemon=True).start()

    def _give_up(self, task: Task[Any], began: float) -> bool:
        with self._lock:
            if task.done() or task.started_at != began:
                return False
            self._given_up.add(task)
            self._start_thread()
            return True

    def _work(self) -> None:
        while (item := self._queue.get()) is not None:
            task, work, arguments = item
            task.started_at = time.monotonic()
            self._here.task = task
            error, result = None, None
            try:
                result = work(*arguments)
            except BaseException as raised:  # noqa: BLE001  # handed to whoever waits for the task
                error = raised
            with self._lock:
                if error is None:
                    task.set_result(result)
                else:
                    task.set_exception(error)
                if task in self._given_up:  # another thread has taken this one's place
                    self._given_up.remove(task)
                    return
            # While waiting, no scan is kept in memory.
            self._here.task = None
            del item, task, work, arguments, error, result
