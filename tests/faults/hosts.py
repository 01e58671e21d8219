"""Hosts on one machine: each with its own network, process ids, host name, clock, folder and links to the servers."""

import contextlib
import importlib.util
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.faults.cable import Cable, lay_cable
from tests.faults.case import Case
from tests.faults.fleet import Worker
from tests.faults.proxy import Proxy, run_proxy
from tests.faults.rig import DATABASE


@dataclass(frozen=True)
class Host:
    """A host with one worker, which is started again when it ends.

    Attributes:
        name: its host name.
        cable: leads to the servers.
        links: proxies at the servers' end of the cable: to Redis, and to the database or its pooler.
        worker: its worker.
    """

    name: str
    cable: Cable
    links: tuple[Proxy, Proxy]
    worker: Worker


@contextlib.contextmanager
def lay_links(case: Case, database_port: int) -> Iterator[tuple[Cable, tuple[Proxy, Proxy], dict[str, Any]]]:
    """Yield a cable, proxies at this end of it, and the options of `Case.env` for a worker at the other end.

    The proxies lead to Redis, and to the database or its pooler. Skips the test where no cable can be laid.
    """
    with (
        lay_cable() as cable,
        run_proxy(case.rig.redis.port, cable.here) as to_redis,
        run_proxy(database_port, cable.here) as to_database,
    ):
        yield cable, (to_redis, to_database), {
            "NETWORK": cable.network, "broker_url": f"redis://{cable.here}:{to_redis.port}/0",
            "database_url": case.rig.postgres.url(DATABASE, to_database.port).replace("127.0.0.1", cable.here),
        }  # fmt: skip


@contextlib.contextmanager
def run_hosts(case: Case, clocks_h: list[float], database_port: int) -> Iterator[list[Host]]:
    """Yield hosts whose workers are ready; skips the test where no cable can be laid.

    Args:
        case: enqueues the night, and checks it.
        clocks_h: how far the clock of each is wrong, in hours.
        database_port: port of the database, or of a pooler in front of it.
    """
    with contextlib.ExitStack() as held:
        laid, envs = [], []
        for number, hours in enumerate(clocks_h):
            cable, links, options = held.enter_context(lay_links(case, database_port))
            name = f"ward-host-{number}"
            folder = case.rig.folder / name  # the folder /tmp of that host
            folder.mkdir()
            env = case.env(**options, HOST=name, READ_S=0.2, **clock_options(hours))
            envs.append(env | {"TMPDIR": str(folder)} | clock_variables(hours))
            laid.append((name, cable, links))
        fleet = case.start_workers(len(envs), *envs)
        try:
            yield [Host(*one, worker) for one, worker in zip(laid, fleet.workers, strict=True)]
        finally:
            case.rig.stop_fleet()


def clock_options(hours: float) -> dict[str, float | None]:
    """Return the options of `Case.env` for a worker whose clock is wrong, where there is no libfaketime."""
    return {"CLOCK_S": None if find_libfaketime() or not hours else hours * 3600}


def clock_variables(hours: float) -> dict[str, str]:
    """Return the environment of a process whose clock is wrong, where there is libfaketime."""
    library = find_libfaketime()
    if library is None or not hours:
        return {}
    return {"LD_PRELOAD": library, "FAKETIME": f"{hours:+}h", "FAKETIME_DONT_FAKE_MONOTONIC": "1"}


def find_libfaketime() -> str | None:
    """Return the library that FAULTS_LIBFAKETIME names, or that of the package `libfaketime`; None without either."""
    if named := os.environ.get("FAULTS_LIBFAKETIME"):
        return named
    found = importlib.util.find_spec("libfaketime")
    folders = found.submodule_search_locations if found else None
    return str(Path(folders[0], "vendor/libfaketime/src/libfaketime.so.1")) if folders else None
