"""Worker processes, and a supervisor that restarts them like systemd or Docker."""

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
    """One place in the fleet, filled by a real `nightread worker` process.

    Attributes:
        name: display name.
        log: log file of all processes in this place.
        env: environment of the next process.
        restarts: number of restarts.
    """

    def __init__(self, name: str, log: Path, env: Mapping[str, str], options: tuple[str, ...]) -> None:
        self.name = name
        self.log = log
        self.env = dict(env)
        self.restarts = -1
        self._options = options
        self._host = env.get("FAULTS_HOST")
        self._read_from = 0
        self.start()

    def start(self) -> None:
        self.restarts += 1
        self._read_from = self.log.stat().st_size if self.log.exists() else 0
        # `ip netns exec` replaces itself with the program, so the process id stays.
        inside = ["ip", "netns", "exec", self.env["FAULTS_NETWORK"]] if "FAULTS_NETWORK" in self.env else []
        if self._host:  # process ids and a host name of its own: the program has id 1 there, as in a container
            inside += ["unshare", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc"]
            inside += ["sh", "-c", 'hostname "$0" && exec "$@"', self._host]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [*inside, PROGRAM, "worker", *self._options], env=self.env, cwd=self.log.parent, stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip

    @property
    def pid(self) -> int:
        """Process id of the main process."""
        return self._process.pid

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    @property
    def is_ready(self) -> bool:
        return self.is_alive and b" ready." in self.log.read_bytes()[self._read_from :]

    def has(self, pid: int) -> bool:
        """Return whether a process belongs to this worker."""
        with contextlib.suppress(ProcessLookupError):
            return os.getpgid(pid) == self.pid
        return False

    def children(self) -> list[psutil.Process]:
        """Return the pool's processes."""
        with contextlib.suppress(psutil.NoSuchProcess):
            return psutil.Process(self.pid).children()
        return []

    def kill_children(self) -> int:
        """Kill the pool's processes; returns the number of those that were still running."""
        killed = 0
        for child in self.children():
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()
                killed += 1
        return killed

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the main process only."""
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(number)

    def send_all(self, number: signal.Signals) -> None:
        """Send a signal to all processes of this worker."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, number)

    def kill(self) -> None:
        self.send_all(signal.SIGKILL)
        self._process.wait()

    def wait(self, timeout_s: float) -> int:
        return self._process.wait(timeout_s)

    def find_progress(self) -> float:
        """Return the monotonic time of its last claim or commit; 0 if there was none."""
        folder = Path(self.env["TMPDIR"]) / f"nightread-{os.getuid()}"
        steps = [0.0]
        for file in folder.glob("*.progress" if self._host else f"{self.pid}.*.progress"):  # a host has its own folder
            with contextlib.suppress(OSError, ValueError):
                noted = json.loads(file.read_text())
                steps += [at for step, at in noted.items() if step in {"claimed", "committed"}]
        return max(steps)

    def see(self, since: float) -> WorkerSeen:
        """Return its state for the checker; progress counts from the monotonic time `since`."""
        rss = 0
        if self.is_alive:
            for one in (psutil.Process(self.pid), *psutil.Process(self.pid).children(recursive=True)):
                with contextlib.suppress(psutil.NoSuchProcess):
                    rss += one.memory_info().rss
        return WorkerSeen(self.name, self.is_alive, self.find_progress() >= since, rss)


class Fleet:
    """Workers that are restarted when they end.

    Attributes:
        workers: workers in the order of their places.
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
        """Suspend restarts."""
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
    """Return the time of the clock by which workers record progress."""
    return time.monotonic()
