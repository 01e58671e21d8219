"""The page of workers and queue: who works on what, what waits and for how long, and the disks."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sqlalchemy.engine import make_url
from starlette.requests import Request
from starlette.responses import Response

from db.due_jobs import count_waiting_jobs
from db.leases import list_leases
from db.pace import find_pace
from db.runs import list_runs
from db.tallies import read_tallies
from db.types import Priority
from nightread.settings import Settings
from web.lookup import reading_request
from web.run_actions import OPEN
from web.showing import render

#: Open runs that are listed; each costs a few queries.
_MOST_RUNS: Final = 20


@dataclass(frozen=True, slots=True)
class Disk:
    """Room on the disk of a folder, in bytes."""

    name: str
    free: int
    size: int

    @property
    def used_share(self) -> float:
        """Share of the disk that is used, from 0 to 1."""
        return 1 - self.free / self.size if self.size else 0.0


def show_queue(request: Request) -> Response:
    """Show the open runs with their pace, the workers with their jobs, what waits, and the room on disks."""
    with reading_request(request) as connection:
        open_runs = list_runs(connection, _MOST_RUNS + 1, statuses=OPEN)
        runs = open_runs[:_MOST_RUNS]
        paces = {run.id: find_pace(connection, run) for run in runs}
        tallies = read_tallies(connection, [run.id for run in runs])
        leases = list_leases(connection)
        waiting = {priority: count_waiting_jobs(connection, priority=priority) for priority in Priority}
    return render(
        request,
        "queue.html",
        runs=sorted(runs, key=lambda run: (paces[run.id].place or 0, run.created_at)),
        has_more=len(open_runs) > _MOST_RUNS,
        paces=paces,
        counts={run_id: tally.counts for run_id, tally in tallies.items()},
        leases=leases,
        workers=len({lease.worker for lease in leases}),
        waiting=waiting,
        disks=_list_disks(request.app.state.settings),
    )


def _list_disks(settings: Settings) -> list[Disk]:
    """Return the room where the database lies, if it is a file, where thumbnails lie, and where scans lie."""
    url = make_url(settings.database_url.get_secret_value())
    folders: list[tuple[str, Path]] = []
    if url.drivername == "sqlite" and url.database:
        folders.append(("database", Path(url.database).parent))
    if settings.web_cache_dir:
        folders.append(("thumbnails", Path(settings.web_cache_dir)))
    folders += [(f"scans {place}", root) for place, root in enumerate(settings.scan_roots, 1)]
    disks = []
    for name, folder in folders:
        try:
            usage = shutil.disk_usage(folder)
        except OSError:
            continue
        disks.append(Disk(name, usage.free, usage.total))
    return disks
