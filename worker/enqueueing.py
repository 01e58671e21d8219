"""From paths to a run: list, write run, scans and jobs in one transaction, then publish."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Engine

from db.engine import write
from db.registry import NewModel
from db.runs import NewRun, NewScan, create_run
from db.tables import RUN_NAME_LENGTH
from db.types import ScanStatus
from failpoints.points import Point, failpoint
from nightread.bundle import Bundle
from nightread.errors import SettingsError
from nightread.files import encode_path, find_root
from nightread.finding import FoundScan, Walk, find_scans
from nightread.reasons import Reason
from nightread.settings import Settings
from worker.errors import NothingToScore, WrongPaths
from worker.packing import PackedScans

_LISTING_TEXTS = {
    Reason.PERMISSION_DENIED: "no permission to look into it",
    Reason.OUTSIDE_ROOTS: "a link that leads out of the folders that may be read",
    Reason.MISSING_FILE: "gone since the folder was listed, or a link to nothing",
    Reason.NOT_A_FILE: "a link to itself",
    Reason.STORAGE_ERROR: "reading failed while the folder was listed",
}


@dataclass(frozen=True, slots=True)
class Enqueued:
    """A run that has been written down."""

    run_id: str
    found: int
    skipped: dict[str, int]


def enqueue(
    engine: Engine, settings: Settings, bundle: Bundle, paths: Sequence[Path], *, name: str | None, embedded: bool
) -> Enqueued:
    """Write a run over everything below `paths` into the database; publishing is the caller's next step.

    Args:
        engine: the database.
        settings: roots and job size.
        bundle: the run's model.
        paths: files and folders.
        name: for people; the first path's own name where None.
        embedded: whether this process alone will work on it.

    Raises:
        WrongPaths: a path is missing, or outside the roots.
        NothingToScore: there is no scan below the paths.
        DatabaseError: nothing was written.
    """
    sources = [resolve_source(path, settings.scan_roots) for path in paths]
    walk = Walk()
    listed = find_scans(sources, walk, roots=settings.scan_roots or sources)
    found = PackedScans(map(_to_new_scan, listed))
    skipped = {reason.value: count for reason, count in sorted(walk.skipped.items())}
    if not len(found):
        passed_over = ", ".join(f"{count} {reason}" for reason, count in skipped.items())
        raise NothingToScore(
            f"no scans in {', '.join(map(str, paths))}"
            + (f" (skipped: {passed_over})" if passed_over else "")
            + "; name a folder that holds JPEG, PNG, TIFF or DICOM files"
        )
    run = NewRun(
        name=_clean_name(name or sources[0].name or "/"),
        model=describe_model(bundle),
        sources=[encode_path(source) for source in sources],
        settings=describe_settings(settings),
        embedded=embedded,
        skipped=skipped,
        job_size=settings.job_size,
    )
    run_id = write(engine, lambda connection: create_run(connection, run, found))
    failpoint(Point.ENQUEUE_AFTER_COMMIT)
    return Enqueued(run_id, len(found), skipped)


def describe_model(bundle: Bundle) -> NewModel:
    """Return a bundle as the table `models` keeps it."""
    card = bundle.card
    return NewModel(bundle.digest, card.name, card.version, card.preprocessing_version, card.model_dump(mode="json"))


def describe_settings(settings: Settings) -> dict[str, object]:
    """Return what is stored with a run of the settings it was started with, and of the process that started it."""
    return {
        "job_size": settings.job_size,
        "gate": settings.gate,
        "scan_roots": [encode_path(root) for root in settings.scan_roots],
        "host": os.uname().nodename,
        "pid": os.getpid(),
        "process_started": read_start(os.getpid()),
    }


def read_start(pid: int) -> str | None:
    """Return when a process was started, in the kernel's ticks since boot; None where it is gone or cannot be asked.

    A process id is given out again, and the first one in a container is always 1: together with this it tells one
    process from every other (proc(5), field 22 of /proc/PID/stat).
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return fields[19]


def resolve_source(path: Path, roots: Sequence[Path]) -> Path:
    """Return a named path resolved.

    Raises:
        WrongPaths: it is missing or, where there are roots, outside them.
    """
    try:
        resolved = path.expanduser().resolve(strict=True)
    except (OSError, RuntimeError):  # RuntimeError: a loop of links, or an unknown user
        raise WrongPaths(f"there is no {path}: name a file or folder that exists") from None
    if roots and find_root(str(resolved), roots) is None:
        allowed = ", ".join(map(str, roots))
        raise WrongPaths(f"{path} lies outside the folders that may be read, {allowed} (NIGHTREAD_SCAN_ROOTS)")
    return resolved


def check_roots(settings: Settings) -> None:
    """Make sure that the roots which jobs may read below are there.

    Raises:
        SettingsError: naming each that is not a folder.
    """
    missing = [str(root) for root in settings.scan_roots if not root.is_dir()]
    if missing:
        raise SettingsError(
            f"NIGHTREAD_SCAN_ROOTS: no such folder: {', '.join(missing)}; mount it, or mend the setting"
        )


def _clean_name(name: str) -> str:
    """Return a name that every database can hold: bytes that are no UTF-8 become text."""
    return os.fsencode(name).decode("utf-8", errors="backslashreplace")[:RUN_NAME_LENGTH]


def _to_new_scan(scan: FoundScan) -> NewScan:
    path = encode_path(scan.path)
    if scan.reason is None:
        return NewScan(path, scan.size_bytes)
    status = ScanStatus.REJECTED if scan.reason.is_rejection else ScanStatus.FAILED
    return NewScan(path, scan.size_bytes, status, scan.reason.value, _LISTING_TEXTS[scan.reason])
