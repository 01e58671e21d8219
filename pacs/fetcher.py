"""What `nightread fetch` does: a night's radiographs come from an archive into the spool, and become one run."""

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from datetime import date
from pathlib import Path
from typing import Any, Self

from sqlalchemy import Engine

from nightread.errors import NightreadError, WrongValue
from nightread.settings import Settings
from pacs.ae_title import Peer, check_title, read_address
from pacs.archive import Archive, PeerArchive, WebArchive
from pacs.destination import check_url, is_url, refuse_tls_files
from pacs.intake import Intake, RunMaker
from pacs.listener import Listener, ListenerOptions
from pacs.spool import Spool, WrongInstance, is_uid
from pacs.tls import NO_TLS, TlsFiles
from worker.runs.request import Request


@dataclass(frozen=True, slots=True)
class FetchOptions:
    """Where radiographs are fetched from, and which; a schedule holds it as JSON.

    Attributes:
        source: `TITLE@HOST:PORT`, or the URL of a DICOMweb server.
        spool: folder for the instances.
        modalities: such as CR and DX.
        most_per_minute: instances; 0: no limit.
        title: own AE title.
        listen: HOST:PORT that an AE title sends to by C-MOVE.
        min_free_bytes: bytes of the disk that stay free.
        max_bytes: largest size of the spool; 0: no limit.
        tls: of associations, both ways.
    """

    source: str
    spool: str
    modalities: tuple[str, ...] = ("CR", "DX")
    most_per_minute: float = 0.0
    title: str = "NIGHTREAD"
    listen: str = "127.0.0.1:11112"
    min_free_bytes: int = 0
    max_bytes: int = 0
    tls: TlsFiles = NO_TLS

    def check(self) -> None:
        """Check what can be checked without the archive.

        Raises:
            SettingsError: source, title, address or a file of TLS cannot be used.
        """
        if is_url(self.source):
            check_url(self.source, "DICOMweb")
            refuse_tls_files(self.tls)
            return
        Peer.read(self.source)
        check_title(self.title)
        if not read_address(self.listen)[0]:
            raise WrongValue(f"--listen {self.listen[:80]!r} is no address; write HOST:PORT")
        if (self.tls.certificate is None) != (self.tls.authority is None):
            raise WrongValue("--tls-cert and --tls-ca go together: the archive asks, and is asked")
        self.tls.ask()

    def to_json(self) -> dict[str, Any]:
        """Return what a schedule stores."""
        return asdict(self)

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> Self:
        """Return what a schedule has stored."""
        given = {"modalities": tuple(stored["modalities"]), "tls": TlsFiles(**stored["tls"])}
        return cls(**stored | given)


@dataclass(slots=True)
class Fetched:
    """Counts of one command.

    Attributes:
        found: instances in the archive.
        present: of these, in the spool before.
        fetched: of these, brought into the spool.
        refused: of these, without valid UIDs.
        runs: ids of the runs that were made, usually one.
    """

    found: int = 0
    present: int = 0
    fetched: int = 0
    refused: int = 0
    runs: list[str] = field(default_factory=list)


def fetch(
    engine: Engine,
    settings: Settings,
    options: FetchOptions,
    day: date,
    request: Request,
    *,
    on_instance: Callable[[], object] = lambda: None,
) -> Fetched:
    """Fetch a day's radiographs into a spool, and enqueue all that has no run; see `fetch_night`.

    Args:
        engine: the database, its schema checked.
        settings: model, roots and broker of the run.
        options: where from, and which.
        day: date of the studies.
        request: name, priority and guards of the run.
        on_instance: called for each instance that the archive has.

    Raises:
        SettingsError: the options or the spool cannot be used, or another process has the spool open.
        ArchiveFailed: the archive does not answer, or refuses.
        NightreadError: the spool is full, or no run can be made; instances stay in the spool.
    """
    options.check()
    spool = Spool(Path(options.spool), max_bytes=options.max_bytes, min_free_bytes=options.min_free_bytes)
    with ExitStack() as ends:
        ends.callback(spool.close)
        intake = Intake(spool, RunMaker(engine, settings, spool, request), quiet_s=0.0)
        archive = _open_archive(options, spool, intake, settings.max_file_bytes, ends)
        ends.callback(archive.close)
        return fetch_night(
            archive,
            spool,
            intake,
            day,
            options.modalities,
            most_per_minute=options.most_per_minute,
            on_instance=on_instance,
        )


def _open_archive(
    options: FetchOptions, spool: Spool, intake: Intake, max_file_bytes: int, ends: ExitStack
) -> WebArchive | PeerArchive:
    if is_url(options.source):
        return WebArchive(options.source, spool, intake.note)
    peer = Peer.read(options.source)
    host, port = read_address(options.listen)
    accepted = ListenerOptions(
        title=options.title,
        host=host,
        port=port,
        allowed=[peer.title],
        max_file_bytes=max_file_bytes,
        tls=options.tls.listen(),
    )
    ends.callback(Listener(spool, accepted, intake.note).close)
    return PeerArchive(peer, options.title, options.tls.ask())


def fetch_night(
    archive: Archive,
    spool: Spool,
    intake: Intake,
    day: date,
    modalities: Sequence[str],
    *,
    most_per_minute: float,
    on_instance: Callable[[], object] = lambda: None,
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
        on_instance: called for each instance that the archive has.

    Raises:
        ArchiveFailed: it does not answer, or refuses.
        NightreadError: the spool is full, or no run can be made; instances stay in the spool.
    """
    counts = Fetched()
    pause_s = 60 / most_per_minute if most_per_minute else 0.0
    for found in archive.find(day, modalities):
        counts.found += 1
        on_instance()
        if not all(map(is_uid, (found.study, found.series, found.instance))):
            counts.refused += 1
            continue
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
    counts.runs = list(intake.runs)
    return counts
