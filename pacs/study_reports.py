"""The objects that go back to a PACS: for each study of a run its report, and on request a picture of each instance."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from io import BytesIO
from pathlib import Path
from typing import Any

import pydicom
from pydicom import Dataset

from db.engine import reading
from db.registry import read_card
from db.runs import RunInfo
from db.study_results import ScoredInstance, stream_studies
from nightread.errors import NightreadError
from nightread.inference.scored_file import ScoredFileGone, read_scored_file
from nightread.model.card import Card
from pacs.quiet_logs import silence_libraries
from pacs.secondary_capture import identify_capture, make_capture
from pacs.structured_report import complete, encode, identify_report, make_report
from worker.process import WorkerProcess


class Kind(StrEnum):
    """What is made of a study."""

    REPORT = "report"  # a Structured Report
    CAPTURE = "capture"  # a picture of one instance


@dataclass(frozen=True, slots=True)
class Planned:
    """An object that can be made.

    Attributes:
        uid: its SOP Instance UID.
        instances: what it describes: a study's instances, or one of them.
    """

    kind: Kind
    uid: str
    study_uid: str
    instances: tuple[ScoredInstance, ...]


class StudyReports:
    """Plans and makes the objects of one run."""

    def __init__(self, process: WorkerProcess, run: RunInfo) -> None:
        """Prepare a run's objects.

        Args:
            process: settings, database and models.
            run: the run.
        """
        silence_libraries()
        self._process, self._run = process, run
        with reading(process.engine) as connection:
            self._card = Card.model_validate(read_card(connection, run.model_digest))

    def plan(self, kinds: Sequence[Kind], only: Sequence[str] = ()) -> Iterator[Planned]:
        """Yield what can be made; reads the database alone.

        Args:
            kinds: reports, captures, or both.
            only: decisions; studies without any of them are left out. Empty: all studies.
        """
        with reading(self._process.engine) as connection:
            for study in stream_studies(connection, self._run.id):
                if only and not any(score.decision in only for one in study for score in one.scores):
                    continue
                if Kind.REPORT in kinds:
                    uid = identify_report(self._card, study)
                    yield Planned(Kind.REPORT, uid, study[0].study_uid, tuple(study))
                if Kind.CAPTURE in kinds:
                    for one in study:
                        uid = identify_capture(self._card.digest, one)
                        yield Planned(Kind.CAPTURE, uid, one.study_uid, (one,))

    def make(self, planned: Planned) -> Dataset:
        """Make an object from the files of its instances.

        Raises:
            ScoredFileGone: a file is gone, or changed; names no path.
            ModelError: a capture needs the model, which is not on this machine.
        """
        contents = [self._read(one) for one in planned.instances]
        images = [complete(pydicom.dcmread(BytesIO(data), stop_before_pixels=True, force=True)) for data in contents]
        if planned.kind is Kind.REPORT:
            return make_report(self._card, planned.instances, images)
        settings = self._process.settings
        limits: dict[str, Any] = {"max_pixels": settings.max_pixels, "accepted": settings.accepted}
        scorer = self._process.find_scorer(self._run)
        return make_capture(scorer, planned.instances[0], images[0], contents[0], **limits)

    def _read(self, one: ScoredInstance) -> bytes:
        run = self._run
        archives = bool(run.settings.get("archives"))
        return read_scored_file(self._process.settings, one.path, one.sha256, run.sources, archives=archives)


@dataclass(frozen=True, slots=True)
class Written:
    """What `write_objects` wrote: objects, and why others are missing, counted by cause."""

    written: int
    missing: dict[str, int]


def write_objects(process: WorkerProcess, run: RunInfo, folder: Path, kinds: Sequence[Kind]) -> Written:
    """Write the objects of a run into a folder, for their owner alone: they hold names of patients.

    Raises:
        NightreadError: the folder cannot be written.
    """
    reports = StudyReports(process, run)
    written, missing = 0, dict[str, int]()
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for planned in reports.plan(kinds):
            try:
                data = encode(reports.make(planned))
            except ScoredFileGone as gone:
                missing[str(gone)] = missing.get(str(gone), 0) + 1
                continue
            file = folder / f"{planned.uid}.dcm"
            draft = file.with_suffix(".part")
            draft.touch(mode=0o600)
            draft.write_bytes(data)
            draft.replace(file)
            written += 1
    except OSError as error:
        raise NightreadError(f"{folder} cannot be written: {error.strerror}") from None
    return Written(written, missing)
