"""Worker processes and the supervisor that keeps them alive, as systemd or Docker would."""

import contextlib
import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Mapping
from pathlib import Path

import psutil

from tests.faults.checker import WorkerSeen
from tests.program import PROGRAM, wait_until

_RESTART_S = 0.2
_READY_S = 240.0


class Worker:
    """One place of the fleet: a real `nightread worker`, and whichever process fills it now.

    Attributes:
        name: for people.
        log: of every process that has filled this place.
        env: of the next process.
        restarts: how often the supervisor had to start another.
    """

    def __init__(self, name: str, log: Path, env: Mapping[str, str], options: tuple[str, ...]) -> None:
        self.name = name
        self.log = log
        self.env = dict(env)
        self.restarts = -1
        self._options = options
        self._read_from = 0
        self.start()

    def start(self) -> None:
        self.restarts += 1
        self._read_from = self.log.stat().st_size if self.log.exists() else 0
        # Goes over into the very process of the program.
        inside = ["ip", "netns", "exec", self.env["FAULTS_NETWORK"]] if "FAULTS_NETWORK" in self.env else []
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [*inside, PROGRAM, "worker", *self._options], env=self.env, cwd=self.log.parent, stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip

    @property
    def pid(self) -> int:
        """Of the main process."""
        return self._process.pid

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    @property
    def is_ready(self) -> bool:
        return self.is_alive and b" ready." in self.log.read_bytes()[self._read_from :]

    def has(self, pid: int) -> bool:
        """Whether a process is one of its own."""
        with contextlib.suppress(ProcessLookupError):
            return os.getpgid(pid) == self.pid
        return False

    def children(self) -> list[psutil.Process]:
        """Return the pool's processes."""
        with contextlib.suppress(psutil.NoSuchProcess):
            return psutil.Process(self.pid).children()
        return []

    def kill_children(self) -> int:
        """Kill the pool's processes, and return how many; one that has ended by itself meanwhile is none."""
        killed = 0
        for child in self.children():
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()
                killed += 1
        return killed

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the main process alone."""
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(number)

    def send_all(self, number: signal.Signals) -> None:
        """Send a signal to every process of it."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, number)

    def kill(self) -> None:
        self.send_all(signal.SIGKILL)
        self._process.wait()

    def wait(self, timeout_s: float) -> int:
        return self._process.wait(timeout_s)

    def find_progress(self) -> float:
        """Return when it last claimed or committed anything, by the monotonic clock of this machine; 0: never."""
        folder = Path(self.env["TMPDIR"]) / f"nightread-{os.getuid()}"
        steps = [0.0]
        for file in folder.glob(f"{self.pid}.*.progress"):
            with contextlib.suppress(OSError, ValueError):
                noted = json.loads(file.read_text())
                steps += [at for step, at in noted.items() if step in {"claimed", "committed"}]
        return max(steps)

    def see(self, since: float) -> WorkerSeen:
        """Return what there is to judge of it, its progress counted from a time of the monotonic clock."""
        rss = 0
        if self.is_alive:
            for one in (psutil.Process(self.pid), *psutil.Process(self.pid).children(recursive=True)):
                with contextlib.suppress(psutil.NoSuchProcess):
                    rss += one.memory_info().rss
        return WorkerSeen(self.name, self.is_alive, self.find_progress() >= since, rss)


class Fleet:
    """Workers that are started again when they end, until told otherwise.

    Attributes:
        workers: in the order of their places.
    """

    def __init__(
        self, folder: Path, envs: list[Mapping[str, str]], options: tuple[str, ...] = (), *, is_supervised: bool = True
    ) -> None:
        self.workers = [
            Worker(str(number), folder / f"worker-{number}.log", env, options) for number, env in enumerate(envs)
        ]
        self._stopping = threading.Event()
        self._paused = not is_supervised
        self._supervisor = threading.Thread(target=self._supervise, daemon=True)
        self._supervisor.start()

    def wait_ready(self) -> None:
        wait_until(lambda: all(worker.is_ready for worker in self.workers), "the workers to be ready", _READY_S)

    @contextlib.contextmanager
    def unsupervised(self):
        """Start nothing again meanwhile."""
        self._paused = True
        try:
            yield
        finally:
            self._paused = False

    @property
    def restarts(self) -> int:
        return sum(worker.restarts for worker in self.workers)

    def read_logs(self) -> dict[str, str]:
        return {worker.log.name: worker.log.read_text(errors="replace") for worker in self.workers}

    def stop(self) -> None:
        self._stopping.set()
        self._supervisor.join()
        for worker in self.workers:
            worker.send_all(signal.SIGCONT)
            worker.kill()

    def _supervise(self) -> None:
        while not self._stopping.wait(_RESTART_S):
            for worker in self.workers:
                if not self._paused and not self._stopping.is_set() and not worker.is_alive:
                    worker.start()


def now() -> float:
    """Return the clock that workers note their progress by."""
    return time.monotonic()
