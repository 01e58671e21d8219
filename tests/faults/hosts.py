"""Hosts on one machine: each with its own network, process ids, host name, clock, folder and links to the servers."""

import contextlib
import importlib.util
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.faults.cable import Cable, lay_cable
from tests.faults.case import Case
from tests.faults.fleet import Worker
from tests.faults.proxy import Proxy, run_proxy
from tests.faults.rig import DATABASE


@dataclass
class Host:
    """A host with one worker, which is started again when it ends.

    Attributes:
        name: its host name.
        cable: leads to the servers.
        links: proxies at the servers' end of the cable: to Redis, and to the database or its pooler.
        env: environment of its worker.
        worker: its worker, once the fleet has started.
    """

    name: str
    cable: Cable
    links: tuple[Proxy, Proxy]
    env: dict[str, str]
    worker: Worker | None = None


@contextlib.contextmanager
def run_hosts(case: Case, clocks_h: list[float], database_port: int) -> Iterator[list[Host]]:
    """Yield hosts whose workers are ready; skips the test where this process may not lay a cable.

    Args:
        case: enqueues the night, and checks it.
        clocks_h: how far the clock of each is wrong, in hours.
        database_port: port of the database, or of a pooler in front of it.
    """
    with contextlib.ExitStack() as held:
        hosts = []
        for number, hours in enumerate(clocks_h):
            cable = held.enter_context(lay_cable())
            to_redis = held.enter_context(run_proxy(case.rig.redis.port, cable.here))
            to_database = held.enter_context(run_proxy(database_port, cable.here))
            name = f"ward-host-{number}"
            folder = case.rig.folder / name  # the folder /tmp of that host
            folder.mkdir()
            url = case.rig.postgres.url(DATABASE, to_database.port).replace("127.0.0.1", cable.here)
            env = case.env(
                broker_url=f"redis://{cable.here}:{to_redis.port}/0", database_url=url, NETWORK=cable.network,
                HOST=name, READ_S=0.2, **clock_options(hours),
            )  # fmt: skip
            env |= {"TMPDIR": str(folder)} | clock_variables(hours)
            hosts.append(Host(name, cable, (to_redis, to_database), env))
        fleet = case.start_workers(len(hosts), *[host.env for host in hosts])
        for host, worker in zip(hosts, fleet.workers, strict=True):
            host.worker = worker
        try:
            yield hosts
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
