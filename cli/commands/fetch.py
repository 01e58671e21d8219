"""`fetch`: a night's radiographs from an archive."""

from contextlib import ExitStack
from datetime import date, datetime, timedelta
from typing import Annotated, Any, Final

import typer

from cli.commands.receive import MaxSpool, MinFree, SpoolFolder, Title
from cli.database import open_database
from cli.dicom_extra import import_dicom
from cli.options import Json
from cli.output.console import print_json, say, waiting
from cli.request import AsPriority, make_request
from db.types import Priority
from nightread.logs import configure_logging
from nightread.settings import check_shared_broker, read_settings

_GIB: Final = 2**30


def fetch(  # one argument for each option
    source: Annotated[
        str, typer.Option("--from", metavar="PLACE", help="TITLE@HOST:PORT, or the URL of a DICOMweb server.")
    ],
    spool: SpoolFolder,
    day: Annotated[
        str | None, typer.Option("--date", metavar="DATE", help="Date of the studies; default: yesterday.")
    ] = None,
    modality: Annotated[
        list[str] | None, typer.Option("--modality", help="DICOM modality; repeatable; default: CR and DX.")
    ] = None,
    rate: Annotated[
        float, typer.Option("--rate", metavar="N", min=0, help="Most instances in a minute; 0: no limit.")
    ] = 0.0,
    aet: Title = "NIGHTREAD",
    listen: Annotated[
        str, typer.Option("--listen", metavar="HOST:PORT", help="Where TITLE@HOST:PORT sends to by C-MOVE.")
    ] = "127.0.0.1:11112",
    min_free: MinFree = 5.0,
    max_spool: MaxSpool = 0.0,
    priority: AsPriority = Priority.NORMAL,
    as_json: Json = False,
) -> None:
    """Fetch a day's chest radiographs from an archive, and enqueue them as one run.

    Needs the extra `dicom`. Repeat a command that was interrupted: what is in the spool is not fetched again, and
    what has a run gets no other.

    Example: nightread fetch --from https://pacs.example/dicom-web --spool /srv/spool --date 2026-11-29
    """
    archives, fetcher, intakes, spools = (import_dicom(name) for name in ("archive", "fetcher", "intake", "spool"))
    wanted = _read_day(day)
    settings = read_settings()
    check_shared_broker(settings, "fetch")
    configure_logging(settings, default="WARNING")
    request = make_request(name=f"fetched {wanted}", priority=priority, max_rejected="100%")
    engine = open_database(settings)
    opened = spools.Spool(spool, max_bytes=int(max_spool * _GIB), min_free_bytes=int(min_free * _GIB))
    with ExitStack() as ends:
        ends.callback(opened.close)
        intake = intakes.Intake(opened, intakes.RunMaker(engine, settings, opened, request), quiet_s=0.0)
        if source.startswith(("http://", "https://")):
            archive = archives.WebArchive(source, opened, intake.note)
        else:
            archive = _open_peer(source, aet, listen, opened, intake, settings.max_file_bytes, ends)
        ends.callback(archive.close)
        with waiting("fetching"):
            done = fetcher.fetch_night(archive, opened, intake, wanted, modality or ["CR", "DX"], most_per_minute=rate)
    if as_json:
        print_json({"found": done.found, "present": done.present, "fetched": done.fetched, "refused": done.refused})
    else:
        say(
            f"{done.found:,} instances of {wanted}: {done.fetched:,} fetched, {done.present:,} in the spool before, "
            f"{done.refused:,} refused"
        )


def _open_peer(
    source: str, title: str, listen: str, spool: Any, intake: Any, max_file_bytes: int, ends: ExitStack
) -> Any:
    archives, titles, listeners = (import_dicom(name) for name in ("archive", "ae_title", "listener"))
    peer = titles.Peer.read(source)
    host, port = titles.read_address(listen)
    if not host:
        raise typer.BadParameter(f"{listen!r} is no address; write HOST:PORT", param_hint="--listen")
    options = listeners.ListenerOptions(
        title=titles.check_title(title), host=host, port=port, allowed=[peer.title], max_file_bytes=max_file_bytes
    )
    ends.callback(listeners.Listener(spool, options, intake.note).close)
    return archives.PeerArchive(peer, title)


def _read_day(text: str | None) -> date:
    if text is None:
        return (datetime.now().astimezone() - timedelta(days=1)).date()
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is no date; write 2026-11-29", param_hint="--date") from None
