"""`receive`: takes scans from a PACS or a modality."""

import threading
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from cli.database import open_database
from cli.dicom_extra import import_dicom
from cli.exits import Exit
from cli.options import Json, read_duration_option, read_listen
from cli.output.console import print_json, say
from cli.pacs_options import GIB, MaxSpool, MinFree, SpoolFolder, Title, TlsCa, TlsCert, TlsKey, make_tls
from cli.request import AsPriority, make_request
from db.engine import make_engine
from db.schema import check_schema
from db.types import Priority
from nightread.logs import configure_logging
from nightread.machine import stop_at_signals
from nightread.settings import check_shared_broker, read_settings

_NETWORK, _SPOOL = "Network", "Spool"


def receive(  # one argument for each option
    spool: SpoolFolder,
    allow: Annotated[
        list[str],
        typer.Option("--allow", metavar="TITLE", rich_help_panel=_NETWORK, help="AE title that may send; repeatable."),
    ],
    aet: Title = "NIGHTREAD",
    listen: Annotated[
        str, typer.Option("--listen", metavar="HOST:PORT", rich_help_panel=_NETWORK, help="Address to listen on.")
    ] = "127.0.0.1:11112",
    associations: Annotated[
        int, typer.Option("--associations", min=1, max=200, rich_help_panel=_NETWORK, help="Most at the same time.")
    ] = 8,
    tls_cert: TlsCert = None,
    tls_key: TlsKey = None,
    tls_ca: TlsCa = None,
    quiet_for: Annotated[
        float,
        typer.Option(
            "--quiet-for", metavar="DURATION", parser=read_duration_option, rich_help_panel=_SPOOL,
            help="A study without a new instance for this long is complete.",
        ),
    ] = "60s",  # type: ignore[assignment]  # as typed: the parser makes seconds of it
    keep: Annotated[
        float,
        typer.Option(
            "--keep", metavar="DURATION", parser=read_duration_option, rich_help_panel=_SPOOL,
            help="Delete instances so long after the end of their run; 0s: never.",
        ),
    ] = "0s",  # type: ignore[assignment]  # as typed: the parser makes seconds of it
    min_free: MinFree = 5.0,
    max_spool: MaxSpool = 0.0,
    priority: AsPriority = Priority.NORMAL,
    metrics: Annotated[
        str | None,
        typer.Option("--metrics", metavar="HOST:PORT", help="Serve metrics of this receiver to Prometheus."),
    ] = None,
    health: Annotated[
        bool, typer.Option("--health", help="Health check of the receiver with these options: does it work?")
    ] = False,
    as_json: Json = False,
) -> None:  # fmt: skip
    """Receive scans by DICOM C-STORE, and enqueue each study once it is quiet.

    Needs the extra `dicom`. Instances are whole files in the spool before their sender is told of success; a process
    that is killed loses none. While the spool is full, associations are refused, so that senders come again. With
    --health: exit code 1 if nothing listens or instances have no run for long, 5 if the database does not answer.

    Example: nightread receive --spool /srv/spool --allow PACS --aet NIGHTREAD --listen 10.0.0.7:11112
    """
    receiver, listener, spools, titles = (import_dicom(name) for name in ("receiver", "listener", "spool", "ae_title"))
    host, port = titles.read_address(listen)
    if not host:
        raise typer.BadParameter(f"{listen!r} is no address; write HOST:PORT", param_hint="--listen")
    settings = read_settings()
    if health:
        check_schema(make_engine(settings.database_url.get_secret_value()))  # away: a restart would mend nothing
        _report_health(spool, host, port, quiet_for, as_json=as_json)
    check_shared_broker(settings, "receive")
    configure_logging(settings)
    request = make_request(priority=priority, max_rejected="100%")  # a study may be one lateral view
    listening = listener.ListenerOptions(
        title=titles.check_title(aet),
        host=host,
        port=port,
        allowed=[titles.check_title(one) for one in allow],
        associations=associations,
        max_file_bytes=settings.max_file_bytes,
        tls=make_tls(tls_cert, tls_key, tls_ca).listen(),
    )
    at = None if metrics is None else read_listen(metrics)
    engine = open_database(settings)
    stop = threading.Event()
    stop_at_signals(stop.set)
    opened = spools.Spool(spool, max_bytes=int(max_spool * GIB), min_free_bytes=int(min_free * GIB))
    try:
        make_run = receiver.RunMaker(engine, settings, opened, request)
        receiver.receive(make_run, listening, stop, quiet_s=quiet_for, keep_s=keep, metrics=at)
    finally:
        opened.close()


def _report_health(spool: Path, host: str, port: int, quiet_s: float, *, as_json: bool) -> NoReturn:
    found = import_dicom("receiver_health").check_receiver(spool.expanduser(), host, port, quiet_s)
    if as_json:
        print_json(found.describe())
    else:
        say("; ".join(found.faults or [f"{found.waiting:,} instances wait for their run"]))
    raise typer.Exit(Exit.ERROR if found.faults else Exit.OK)
