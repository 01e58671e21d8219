"""Owner of an embedded run."""

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Row


@dataclass(frozen=True, slots=True)
class Owner:
    """The process that scores an embedded run.

    Attributes:
        host: name of its machine, then "/" and what tells machines and containers of one name apart.
        pid: process id on that machine.
        started: start time in the kernel's ticks since boot; None if the system does not report it.
    """

    host: str
    pid: int
    started: str | None


def make_owner_columns(owner: Owner | None) -> dict[str, Any]:
    """Return an owner as columns of `runs`."""
    if owner is None:
        return {"host": None, "pid": None, "process_started": None}
    return {"host": owner.host, "pid": owner.pid, "process_started": owner.started}


def read_owner(row: Row[Any]) -> Owner | None:
    """Return the owner of an embedded run, or None; before schema 0005 it was part of the run's settings."""
    if not row.embedded:
        return None
    host, pid, started = row.host, row.pid, row.process_started
    if host is None:
        host, pid, started = (row.settings.get(name) for name in ("host", "pid", "process_started"))
    return Owner(host, pid, started) if host is not None and isinstance(pid, int) else None
