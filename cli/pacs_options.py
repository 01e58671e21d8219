"""Options shared by the commands that speak with a PACS."""

from pathlib import Path
from typing import Annotated, Any, Final

import typer

from cli.dicom_extra import import_dicom

GIB: Final = 2**30
_NETWORK, _SPOOL, _FETCHING, _SENDING = "Network", "Spool", "Fetching", "Sending"

Title = Annotated[str, typer.Option("--aet", metavar="TITLE", rich_help_panel=_NETWORK, help="Own AE title.")]
ListenFor = Annotated[
    str,
    typer.Option(
        "--listen", metavar="HOST:PORT", rich_help_panel=_NETWORK, help="Where TITLE@HOST:PORT sends to by C-MOVE."
    ),
]
TlsCert = Annotated[
    Path | None,
    typer.Option("--tls-cert", metavar="FILE", rich_help_panel=_NETWORK, help="PEM certificate of its own, for TLS."),
]
TlsKey = Annotated[
    Path | None,
    typer.Option(
        "--tls-key", metavar="FILE", rich_help_panel=_NETWORK, help="PEM key; default: in the certificate's file."
    ),
]
TlsCa = Annotated[
    Path | None,
    typer.Option(
        "--tls-ca", metavar="FILE", rich_help_panel=_NETWORK,
        help="PEM authority that signs the certificates of the other side.",
    ),
]  # fmt: skip
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
Modalities = Annotated[
    list[str] | None,
    typer.Option("--modality", rich_help_panel=_FETCHING, help="DICOM modality; repeatable; default: CR and DX."),
]
Rate = Annotated[
    float,
    typer.Option(
        "--rate", metavar="N", min=0, rich_help_panel=_FETCHING, help="Most instances in a minute; 0: no limit."
    ),
]
Only = Annotated[
    list[str] | None,
    typer.Option(
        "--only", metavar="DECISION", rich_help_panel=_SENDING,
        help="Send studies with this decision alone, such as pneumonia; repeatable.",
    ),
]  # fmt: skip
WithPictures = Annotated[
    bool,
    typer.Option("--sc", rich_help_panel=_SENDING, help="Also send a picture of each scan, with its score burnt in."),
]
DespiteGuard = Annotated[
    bool,
    typer.Option("--despite-guard", rich_help_panel=_SENDING, help="Also send a run that does not look like a night."),
]


_Tls = tuple[Path | None, Path | None, Path | None]


def make_tls(certificate: Path | None, key: Path | None, authority: Path | None) -> Any:
    """Return `pacs.tls.TlsFiles` of the options, with full paths."""
    files = (None if file is None else str(file.expanduser().absolute()) for file in (certificate, key, authority))
    return import_dicom("tls").TlsFiles(*files)


def make_fetch_options(
    *,
    source: str,
    spool: Path,
    modality: list[str] | None,
    rate: float,
    title: str,
    listen: str,
    min_free: float,
    max_spool: float,
    tls: _Tls,
) -> Any:
    """Return `pacs.fetcher.FetchOptions` of the options, checked.

    Raises:
        SettingsError: one of them is wrong.
    """
    options = import_dicom("fetcher").FetchOptions(
        source=source,
        spool=str(spool.expanduser().absolute()),
        modalities=tuple(modality or ("CR", "DX")),
        most_per_minute=rate,
        title=title,
        listen=listen,
        min_free_bytes=int(min_free * GIB),
        max_bytes=int(max_spool * GIB),
        tls=make_tls(*tls),
    )
    options.check()
    return options
