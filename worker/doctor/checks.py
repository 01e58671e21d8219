"""The list of all checks, and their run."""

import logging
from collections.abc import Callable, Iterator
from typing import Final

from nightread.errors import NightreadError
from nightread.settings import Settings
from worker.doctor.broker import check_broker
from worker.doctor.database import check_clock, check_database, check_database_rights, check_server
from worker.doctor.decoders import check_decoders
from worker.doctor.finding import Finding, Level
from worker.doctor.host import check_cores, check_disk, check_encoding, check_files, check_memory, check_versions
from worker.doctor.machine import Machine
from worker.doctor.model import check_gpu, check_model, check_scan_roots, describe_worker

_log = logging.getLogger(__name__)

#: All checks by name, in the order of the table. A check that raises a NightreadError fails with its message.
CHECKS: Final[dict[str, Callable[[Machine], Finding]]] = {
    "versions": check_versions,
    "cores": check_cores,
    "memory": check_memory,
    "encoding": check_encoding,
    "decoders": check_decoders,
    "database": check_database,
    "server": check_server,
    "disk": check_disk,
    "files": check_files,
    "rights": check_database_rights,
    "clock": check_clock,
    "broker": check_broker,
    "model": check_model,
    "gpu": check_gpu,
    "roots": check_scan_roots,
    "worker": describe_worker,
}


def run_checks(settings: Settings) -> Iterator[tuple[str, Finding]]:
    """Yield the name of each check and what it found; a check that needs a failed one is left out."""
    machine = Machine(settings)
    told: set[str] = set()
    for name, check in CHECKS.items():
        try:
            finding = check(machine)
        except NightreadError as error:
            message = " ".join(str(error).split())
            if message in told:
                continue
            told.add(message)
            finding = Finding(message, Level.FAIL)
        except Exception as error:  # noqa: BLE001  # the other checks are still worth their answer
            _log.debug("the check %s has a fault of its own", name, exc_info=True)
            finding = Finding(f"the check itself failed: {type(error).__name__}", Level.FAIL)
        yield name, finding
