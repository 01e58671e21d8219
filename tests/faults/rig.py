"""Services that all cases share, behind proxies that inject network faults."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from db.engine import make_engine
from db.schema import upgrade
from tests.faults.fleet import Fleet
from tests.faults.nights import Pool
from tests.faults.proxy import Proxy, run_proxy
from tests.faults.servers import PostgresServer, run_postgres_server
from tests.services import RedisServer, run_redis

DATABASE = "night"


@dataclass
class Rig:
    """Shared services, proxies, pool of contents and workers."""

    folder: Path
    redis: RedisServer
    postgres: PostgresServer
    redis_proxy: Proxy
    postgres_proxy: Proxy
    pool: Pool
    fleet: Fleet | None = None
    fleet_env: Any = None
    fleets: int = 0

    @property
    def broker_url(self) -> str:
        return f"redis://127.0.0.1:{self.redis_proxy.port}/0"

    @property
    def database_url(self) -> str:
        return self.postgres.url(DATABASE, self.postgres_proxy.port)

    def stop_fleet(self) -> None:
        if self.fleet is not None:
            self.fleet.stop()
        self.fleet = self.fleet_env = None

    def make_database(self) -> None:
        """Create the database of all cases, with empty tables."""
        server = sa.create_engine(
            self.postgres.url("postgres").replace("postgresql:", "postgresql+psycopg:"), isolation_level="AUTOCOMMIT"
        )
        with server.connect() as connection:
            connection.exec_driver_sql(f"DROP DATABASE IF EXISTS {DATABASE} WITH (FORCE)")
            connection.exec_driver_sql(f"CREATE DATABASE {DATABASE}")
        server.dispose()
        engine = make_engine(self.postgres.url(DATABASE))
        upgrade(engine)
        engine.dispose()


@contextlib.contextmanager
def run_rig(folder: Path, pool: Pool) -> Iterator[Rig]:
    """Yield a rig with running services and without workers."""
    for name in ("redis", "gates"):
        (folder / name).mkdir(parents=True)
    with (
        run_redis(folder / "redis") as redis,
        run_postgres_server() as postgres,
        run_proxy(redis.port) as redis_proxy,
        run_proxy(postgres.port) as postgres_proxy,
    ):
        rig = Rig(folder, redis, postgres, redis_proxy, postgres_proxy, pool)
        rig.make_database()
        try:
            yield rig
        finally:
            rig.stop_fleet()
