"""Enqueues the studies of a spool once no instance has come for a while."""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial
from typing import Final

from sqlalchemy import Engine

from db.engine import reading
from db.runs import find_run_of_key
from nightread.errors import NightreadError
from nightread.settings import Settings
from pacs.batches import Batch, Batches
from pacs.spool import Filed, Spool
from worker.runs.enqueue import Enqueued, enqueue_run
from worker.runs.request import Request

_log = logging.getLogger(__name__)

_LONGEST_PAUSE_S: Final = 60.0
_RUNS_KEPT: Final = 16


@dataclass(slots=True)
class _Study:
    """Instances of one study that belong to no batch yet, and when the last one came."""

    names: list[str] = field(default_factory=list)
    last: float = 0.0


class Intake:
    """Turns instances of a spool into runs; what it knows is on disk, so that another process can continue.

    Attributes:
        batches: of the spool.
        runs: ids of the last runs that it has made, oldest first.
    """

    def __init__(
        self,
        spool: Spool,
        make_run: Callable[[Batch, Callable[[Enqueued], object]], object],
        *,
        quiet_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Take up what an earlier process left.

        Args:
            spool: open to this process.
            make_run: writes the run of a batch, calls its argument once that is committed, and publishes it.
            quiet_s: seconds without an instance after which a study is complete.
            clock: seconds of any beginning.
        """
        self._spool, self._make_run, self._quiet_s, self._clock = spool, make_run, quiet_s, clock
        self._studies: dict[str, _Study] = {}
        self._changing = threading.Lock()
        self._pause_s, self._not_before = 0.0, 0.0
        self.batches = Batches(spool.folder)
        self.runs: deque[str] = deque(maxlen=_RUNS_KEPT)
        batches = list(self.batches.list())
        self._open = [batch for batch in batches if not batch.is_done]
        known = {name for batch in batches for name in batch.names}
        for name in spool.list_instances():
            if name not in known:
                self.note(Filed(name, is_new=True))

    def note(self, filed: Filed) -> None:
        """Wait for more instances of the study that has just got one; any thread may call this."""
        study = filed.name.rpartition("/")[0]
        with self._changing:
            if not filed.is_new and study not in self._studies:
                return  # it belongs to a run already
            waiting = self._studies.setdefault(study, _Study())
            waiting.last = self._clock()
            if filed.is_new:
                waiting.names.append(filed.name)

    @property
    def waiting(self) -> int:
        """Instances without a run."""
        with self._changing:
            return sum(len(study.names) for study in self._studies.values()) + sum(len(b.names) for b in self._open)

    def work(self, *, is_ending: bool = False) -> None:
        """Make the runs of open batches, and of the studies that are quiet; logs what fails, and tries it again later.

        Args:
            is_ending: no further instance will come: all studies are complete.
        """
        if quiet := self._take_quiet(is_ending=is_ending):
            self._open.append(self.batches.begin(quiet))
        if not is_ending and self._clock() < self._not_before:
            return
        while self._open:
            batch = self._open[0]
            try:
                self._make_run(batch, partial(self._end, batch))
            except NightreadError as error:
                if batch not in self._open:  # the run is written, and not published; the next sweep does that
                    _log.warning("%s", error)
                    continue
                self._pause_s = min(max(1.0, 2 * self._pause_s), _LONGEST_PAUSE_S)
                self._not_before = self._clock() + self._pause_s
                _log.error("%d instances wait in the spool: %s", self.waiting, error)
                return
            self._pause_s = 0.0

    def _take_quiet(self, *, is_ending: bool) -> list[str]:
        with self._changing:
            latest = self._clock() - self._quiet_s
            quiet = [study for study, waiting in self._studies.items() if is_ending or waiting.last <= latest]
            return [name for study in quiet for name in self._studies.pop(study).names]

    def _end(self, batch: Batch, enqueued: Enqueued) -> None:
        self.batches.end(batch)
        self._open.remove(batch)
        self.runs.append(enqueued.run_id)
        studies = len({name.rpartition("/")[0] for name in batch.names})
        _log.info("run %s: %d instances of %d studies", enqueued.run_id, len(batch.names), studies)


@dataclass(frozen=True, slots=True)
class RunMaker:
    """Makes the runs of batches.

    Attributes:
        engine: the database, its schema checked.
        settings: model, roots and broker of the runs.
        spool: where their instances are.
        request: name, priority and guards of the runs.
    """

    engine: Engine
    settings: Settings
    spool: Spool
    request: Request

    def __call__(self, batch: Batch, on_commit: Callable[[Enqueued], object]) -> None:
        """Make the run of a batch, or find it if an earlier process has made it; see `worker.runs.enqueue`."""
        listed = [self.spool.folder / name for name in batch.names]
        name = self.request.name or f"received {datetime.now().astimezone():%Y-%m-%d %H:%M}"
        asked = replace(self.request, name=name, key=batch.key)
        enqueue_run(self.engine, self.settings, [self.spool.folder], request=asked, listed=listed, on_commit=on_commit)


def clean(engine: Engine, spool: Spool, batches: Batches, keep_s: float) -> int:
    """Delete the instances of runs that ended long ago; returns how many.

    Those of a run that this database does not know stay: it may be another database than before.

    Args:
        engine: the database.
        spool: open to this process.
        batches: of the spool.
        keep_s: seconds after a run's end for which its instances stay.
    """
    removed = 0
    for batch in batches.list():
        if not batch.is_done:
            continue
        with reading(engine) as connection:
            run = find_run_of_key(connection, batch.key)
        ended = None if run is None else run.finished_at
        if ended is None or (datetime.now(ended.tzinfo) - ended).total_seconds() < keep_s:
            continue
        for name in batch.names:
            spool.remove(name)
        batches.forget(batch)
        removed += len(batch.names)
    return removed
