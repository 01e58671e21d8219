"""An interrupted run of `score`: the same command goes on with it, instead of making a second one."""

from typing import Any, Final

from sqlalchemy import Engine

from db.engine import reading
from db.runs import NewRun, RunInfo, list_runs
from db.stored_scans import list_listed_files
from db.types import RunStatus
from worker.runs.intake import Intake

_RUNS_LOOKED_AT: Final = 20


def find_interrupted(engine: Engine, wanted: NewRun, intake: Intake) -> RunInfo | None:
    """Return the run that an interrupted command has begun and that the same command asks for again.

    It is the newest run over these sources, by the same model and with the same name, settings and guards, and it was
    cancelled. Its files are those that were listed now: one that came or changed since has no row in it, and so None
    is returned.
    """
    with reading(engine) as connection:
        latest = [run for run in list_runs(connection, _RUNS_LOOKED_AT) if run.sources == wanted.sources]
        if not latest or not _is_same_request(run := latest[0], wanted):
            return None
        listed = {hash((scan.path, scan.size_bytes, scan.modified_ns)) for scan in intake.found}
        known = set()
        for path, size_bytes, modified_ns, was_cancelled in list_listed_files(connection, run.id):
            file = hash((path, size_bytes, modified_ns))
            known.add(file)
            if was_cancelled and file not in listed:
                return None
    return run if listed <= known else None


def _is_same_request(run: RunInfo, wanted: NewRun) -> bool:
    of_run = (run.embedded, run.name, run.model_digest, _find_meaning(run.settings), run.guards)
    of_wanted = (True, wanted.name, wanted.model.digest, _find_meaning(wanted.settings), wanted.guards)
    return run.status is RunStatus.CANCELLED and of_run == of_wanted


def _find_meaning(settings: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of a run that change what becomes of its scans: all but the size of its jobs."""
    return {name: value for name, value in settings.items() if name != "job_size"}
