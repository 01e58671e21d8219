"""`receive`: takes scans from a PACS or a modality."""

import signal
import threading
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from cli.database import open_database
from cli.dicom_extra import import_dicom
from cli.options import read_duration_option
from cli.request import AsPriority, make_request
from db.types import Priority
from nightread.errors import SettingsError
from nightread.logs import configure_logging
from nightread.settings import Settings, check_shared_broker, read_settings

_GIB: Final = 2**30
_NETWORK, _SPOOL = "Network", "Spool"

Title = Annotated[str, typer.Option("--aet", metavar="TITLE", rich_help_panel=_NETWORK, help="Own AE title.")]
SpoolFolder = Annotated[
    Path, typer.Option("--spool", metavar="FOLDER", rich_help_panel=_SPOOL, help="Folder for received instances.")
]
MinFree = Annotated[
    float,
    typer.Option(
        "--min-free", metavar="GIB", min=0, rich_help_panel=_SPOOL, help="Free space of the disk, in GiB, that is kept."
    ),
]
MaxSpool = Annotated[
    float,
    typer.Option(
        "--max-spool", metavar="GIB", min=0, rich_help_panel=_SPOOL, help="Largest size of the spool; 0: no limit."
    ),
]
_Pem = Path | None


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
    tls_cert: Annotated[
        _Pem, typer.Option("--tls-cert", rich_help_panel=_NETWORK, help="PEM certificate; turns TLS on.")
    ] = None,
    tls_key: Annotated[
        _Pem, typer.Option("--tls-key", rich_help_panel=_NETWORK, help="PEM key; default: in the certificate's file.")
    ] = None,
    tls_ca: Annotated[
        _Pem, typer.Option("--tls-ca", rich_help_panel=_NETWORK, help="PEM authority that signs clients' certificates.")
    ] = None,
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
) -> None:  # fmt: skip
    """Receive scans by DICOM C-STORE, and enqueue each study once it is quiet.

    Needs the extra `dicom`. Instances are whole files in the spool before their sender is told of success; a process
    that is killed loses none. While the spool is full, associations are refused, so that senders come again.

    Example: nightread receive --spool /srv/spool --allow PACS --aet NIGHTREAD --listen 10.0.0.7:11112
    """
    receiver, listener, spools = (import_dicom(name) for name in ("receiver", "listener", "spool"))
    settings = read_settings()
    check_shared_broker(settings, "receive")
    configure_logging(settings)
    request = make_request(priority=priority, max_rejected="100%")  # a study may be one lateral view
    listening = _make_listening(settings, listener, aet, listen, allow, associations, tls_cert, tls_key, tls_ca)
    engine = open_database(settings)
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):  # in a container this is process 1, which no signal ends by itself
        signal.signal(number, lambda *_: stop.set())
    opened = spools.Spool(spool, max_bytes=int(max_spool * _GIB), min_free_bytes=int(min_free * _GIB))
    try:
        make_run = receiver.RunMaker(engine, settings, opened, request)
        receiver.receive(make_run, listening, stop, quiet_s=quiet_for, keep_s=keep)
    finally:
        opened.close()


def _make_listening(
    settings: Settings,
    listener: Any,
    title: str,
    listen: str,
    allowed: list[str],
    associations: int,
    certificate: Path | None,
    key: Path | None,
    authority: Path | None,
) -> Any:
    titles, guard = import_dicom("ae_title"), import_dicom("socket_guard")
    host, port = titles.read_address(listen)
    if not host:
        raise typer.BadParameter(f"{listen!r} is no address; write HOST:PORT", param_hint="--listen")
    if certificate is None and (key or authority):
        raise SettingsError("--tls-key and --tls-ca need --tls-cert")
    try:
        tls = guard.make_tls_context(certificate, key, authority) if certificate else None
    except OSError as error:  # as are errors of TLS
        raise SettingsError(f"the certificate, key or authority cannot be read: {error.strerror or error}") from None
    return listener.ListenerOptions(
        title=titles.check_title(title),
        host=host,
        port=port,
        allowed=[titles.check_title(one) for one in allowed],
        associations=associations,
        max_file_bytes=settings.max_file_bytes,
        tls=tls,
    )
