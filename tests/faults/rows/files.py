"""Rows 22 to 25: hostile files, and failing storage."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator

import sqlalchemy as sa

from db.engine import write
from db.types import ScanStatus
from nightread.scan.files import encode_path
from tests.faults.case import LEASE_S, Case
from tests.faults.checker import Expected, Outcome, Violation
from tests.faults.hostile import NEVER, SCORED, make_dicoms, make_images, make_paths
from tests.faults.nights import PATH_CANARY, Night, score_undisturbed
from tests.faults.rows.table import row

#: Memory limit of a worker with hostile files: Python, the model, and two decodes of the largest allowed scan.
_MOST_RSS_BYTES = 1200 * 2**20


def _play_hostile(
    case: Case, night: Night, may: dict[str, str], change: Callable[[], dict[str, str]] | None = None
) -> list[Violation]:
    """Score a hostile folder, and compare the results with an undisturbed run.

    `change` is called after the folder was listed and before a worker reads it; it returns the paths that it replaced
    in the table, by the old path.
    """
    fleet = case.start_workers()
    mains = [worker.pid for worker in fleet.workers]
    case.inject("hostile file", len(may))
    if change is None:
        night.outcomes, night.scores = score_undisturbed(night.folder, case.folder / "undisturbed")
    peaks, forged = [0], dict[str, str]()
    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(0.2):
            peaks.append(max(worker.see(0).rss_bytes for worker in fleet.workers))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        if change is None:
            case.enqueue(night)
        else:
            with _stopped(case):
                run_id = case.enqueue(night)
                forged = change()
            # An undisturbed run over the changed folder, plus the entries that were listed before.
            night.outcomes, night.scores = score_undisturbed(night.folder, case.folder / "undisturbed")
            _expect_listed(case, run_id, night, may, forged)
        violations = case.finish()
    finally:
        stop.set()
        watcher.join()
    assert [worker.pid for worker in fleet.workers] == mains
    assert max(peaks) < _MOST_RSS_BYTES
    assert case.query("SELECT max(crashes) FROM jobs") == 0
    for name, allowed in may.items():
        path = encode_path(night.folder / name)
        if path in forged:  # no row has its path, unless a worker needed another run
            continue
        status = case.query("SELECT min(status) FROM scans WHERE path = :path", path=path)
        assert (status == "scored") == (allowed == SCORED) or allowed not in {SCORED, NEVER}, (name, status)
    return violations


@contextlib.contextmanager
def _stopped(case: Case) -> Iterator[None]:
    """Stop all workers (SIGSTOP)."""
    for worker in case.fleet.workers:
        worker.send_all(signal.SIGSTOP)
    try:
        yield
    finally:
        for worker in case.fleet.workers:
            worker.send_all(signal.SIGCONT)


def _expect_listed(case: Case, run_id: str, night: Night, may: dict[str, str], forged: dict[str, str]) -> None:
    """Expect no score of paths that were swapped after listing, or changed in the table."""
    swapped = [
        Outcome(ScanStatus.REJECTED, "outside-roots"),
        Outcome(ScanStatus.REJECTED, "not-a-file"),
        Outcome(ScanStatus.FAILED, "storage-error"),  # a folder
    ]
    listed = {encode_path(night.folder / name): swapped for name in may if name.startswith("becomes-")}
    listed |= dict.fromkeys(forged.values(), Outcome(ScanStatus.REJECTED, "outside-roots"))
    outcomes = {path: outcome for path, outcome in night.outcomes.items() if path not in forged} | listed
    case.accepted[run_id] = Expected(outcomes, night.scores)
    case.counts.scans += len(outcomes)


@row(
    "22",
    "bad images",
    injection="some 60 files: empty, text, PostScript, Photoshop, wrong names, cut at every tenth, flipped bits, CMYK, "
    "palettes, APNG, a header of 60000 x 60000, bombs of 13000 x 13000 and 6000 x 6000",
    outcome="each has its reason, or the score of the undisturbed run; never a score from a truncated "
    "file; memory is capped",
)
def bad_images(case: Case) -> list[Violation]:
    night = Night(case.folder / f"{PATH_CANARY}-images")
    return _play_hostile(case, night, make_images(night.folder, case.choose))


@row(
    "23",
    "bad DICOM instances",
    injection="some 30 files: cut at every tenth, no meta header, a deflated bomb, RLE and native 20000 x 20000, 3,000 "
    "nested sequences, two thousand million frames, MONOCHROME1, missing decoders, DICOMDIR, flipped bits",
    outcome="each has its reason, or the score of the undisturbed run; memory is capped",
)
def bad_dicoms(case: Case) -> list[Violation]:
    night = Night(case.folder / f"{PATH_CANARY}-dicoms")
    return _play_hostile(case, night, make_dicoms(night.folder, case.choose))


@row(
    "24",
    "paths that lead elsewhere",
    injection="links out of the folder, to /dev/zero and to themselves, FIFO, folder, hard link, names of 255 bytes, "
    "with a newline, without UTF-8; files that become a link, a FIFO, a folder and a device after they were listed; "
    "paths of the table that lead out by `..` and from the root",
    outcome="nothing outside is read, nothing hangs; a hard link is a file",
)
def hostile_paths(case: Case) -> list[Violation]:
    night = Night(case.folder / f"{PATH_CANARY}-paths")
    outside = case.folder / "outside"
    may, swap = make_paths(night.folder, outside)
    secret = next(outside.iterdir()).name
    targets = {"dotted.jpg": f"{night.folder}/../{outside.name}/{secret}", "rooted.jpg": str(outside / secret)}
    forged = {encode_path(night.folder / name): encode_path(to) for name, to in targets.items()}

    def change() -> dict[str, str]:
        swap()
        statement = sa.text("UPDATE scans SET path = :new WHERE path = :old")
        for old, new in forged.items():
            write(
                case.engine,
                lambda connection, old=old, new=new: connection.execute(statement, {"old": old, "new": new}),
            )
        return forged

    return _play_hostile(case, night, may, change)


@row(
    "25",
    "the share vanishes, fails, hangs and is slow",
    injection="the folder of a night away for up to two seconds, every read failing with EIO for another, "
    "every read hanging for longer than a lease, in random order, and 0.05 s for each read",
    outcome="retried; no scan fails because of it",
)
def share_vanishes(case: Case) -> list[Violation]:
    case.start_workers()
    case.work_s += 30
    night = case.make_night(40)
    away = night.folder.with_name("away")
    case.enqueue_here(night)
    case.wait_share(case.choose.uniform(0.1, 0.4))
    for cause in case.choose.sample(["gone", "failing", "hanging"], 3):
        if cause == "hanging":
            with case.closed("read"):
                case.inject("share hangs")
                case.nap(LEASE_S, LEASE_S + 1)
        elif cause == "gone":
            night.folder.rename(away)
            case.inject("share gone")
            case.nap(1, 2)
            away.rename(night.folder)
        else:
            (case.gates / "eio").touch()
            case.inject("EIO")
            case.nap(0.5, 1.5)
            (case.gates / "eio").unlink()
    return case.finish()
