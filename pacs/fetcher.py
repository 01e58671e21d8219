"""What `nightread fetch` does: a night's radiographs come from an archive into the spool, and become one run."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date

from nightread.errors import NightreadError
from pacs.archive import Archive
from pacs.intake import Intake
from pacs.spool import Spool, WrongInstance


@dataclass(slots=True)
class Fetched:
    """Counts of one command.

    Attributes:
        found: instances in the archive.
        present: of these, in the spool before.
        fetched: of these, brought into the spool.
        refused: of these, without valid UIDs.
    """

    found: int = 0
    present: int = 0
    fetched: int = 0
    refused: int = 0


def fetch_night(
    archive: Archive, spool: Spool, intake: Intake, day: date, modalities: Sequence[str], *, most_per_minute: float
) -> Fetched:
    """Fetch what the spool has not got of a day's radiographs, and enqueue all that has no run.

    A command that is interrupted or fails is repeated: instances in the spool are not fetched again.

    Args:
        archive: where from.
        spool: open to this process.
        intake: of the spool.
        day: date of the studies.
        modalities: such as CR and DX.
        most_per_minute: instances; 0: no limit.

    Raises:
        ArchiveFailed: it does not answer, or refuses.
        NightreadError: the spool is full, or no run can be made; instances stay in the spool.
    """
    counts = Fetched()
    pause_s = 60 / most_per_minute if most_per_minute else 0.0
    for found in archive.find(day, modalities):
        counts.found += 1
        if spool.has(found.study_date, found.study, found.instance):
            counts.present += 1
            continue
        if spool.is_full:
            raise NightreadError(
                f"the spool is full after {counts.fetched:,} instances: make room and repeat the command"
            )
        began = time.monotonic()
        try:
            archive.bring(found)
        except WrongInstance:
            counts.refused += 1
            continue
        counts.fetched += 1
        time.sleep(max(0.0, pause_s - (time.monotonic() - began)))
    intake.work(is_ending=True)
    if intake.waiting:
        raise NightreadError(
            f"{intake.waiting:,} instances wait in the spool for a run: the log has the cause; repeat it"
        )
    return counts
