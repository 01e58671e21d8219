"""`fetch`: a night's radiographs from an archive."""

from datetime import date, datetime, timedelta
from typing import Annotated

import typer

from cli.database import open_database
from cli.dicom_extra import import_dicom
from cli.options import Json
from cli.output.console import print_json, say, waiting
from cli.pacs_options import (
    ListenFor,
    MaxSpool,
    MinFree,
    Modalities,
    Rate,
    SpoolFolder,
    Title,
    TlsCa,
    TlsCert,
    TlsKey,
    make_fetch_options,
)
from cli.request import AsPriority, make_request
from db.types import Priority
from nightread.logs import configure_logging
from nightread.settings import check_shared_broker, read_settings


def fetch(  # one argument for each option
    source: Annotated[
        str, typer.Option("--from", metavar="PLACE", help="TITLE@HOST:PORT, or the URL of a DICOMweb server.")
    ],
    spool: SpoolFolder,
    day: Annotated[
        str | None, typer.Option("--date", metavar="DATE", help="Date of the studies; default: yesterday.")
    ] = None,
    modality: Modalities = None,
    rate: Rate = 0.0,
    aet: Title = "NIGHTREAD",
    listen: ListenFor = "127.0.0.1:11112",
    tls_cert: TlsCert = None,
    tls_key: TlsKey = None,
    tls_ca: TlsCa = None,
    min_free: MinFree = 5.0,
    max_spool: MaxSpool = 0.0,
    priority: AsPriority = Priority.NORMAL,
    as_json: Json = False,
) -> None:
    """Fetch a day's chest radiographs from an archive, and enqueue them as one run.

    Needs the extra `dicom`. Repeat a command that was interrupted: what is in the spool is not fetched again, and
    what has a run gets no other. A schedule fetches each night: `nightread schedule add --from`.

    Example: nightread fetch --from https://pacs.example/dicom-web --spool /srv/spool --date 2026-11-29
    """
    fetcher = import_dicom("fetcher")
    wanted = _read_day(day)
    options = make_fetch_options(
        source=source, spool=spool, modality=modality, rate=rate, title=aet, listen=listen,
        min_free=min_free, max_spool=max_spool, tls=(tls_cert, tls_key, tls_ca),
    )  # fmt: skip
    settings = read_settings()
    check_shared_broker(settings, "fetch")
    configure_logging(settings, default="WARNING")
    request = make_request(name=f"fetched {wanted}", priority=priority, max_rejected="100%")
    engine = open_database(settings)
    with waiting("fetching"):
        done = fetcher.fetch(engine, settings, options, wanted, request)
    if as_json:
        print_json(
            {
                "found": done.found, "present": done.present, "fetched": done.fetched, "refused": done.refused,
                "runs": done.runs,
            }
        )  # fmt: skip
    else:
        say(
            f"{done.found:,} instances of {wanted}: {done.fetched:,} fetched, {done.present:,} in the spool before, "
            f"{done.refused:,} refused"
        )


def _read_day(text: str | None) -> date:
    if text is None:
        return (datetime.now().astimezone() - timedelta(days=1)).date()
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is no date; write 2026-11-29", param_hint="--date") from None
