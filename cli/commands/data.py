"""`nightread data fetch`: a data set from where it is published to a folder."""

from pathlib import Path
from typing import Annotated, Literal

import typer

app = typer.Typer(no_args_is_help=True, help="Data sets to train on.")


@app.callback()
def data() -> None:
    """Data sets to train on."""


@app.command()
def fetch(
    dataset: Annotated[Literal["pediatric", "covid"], typer.Argument(metavar="DATASET", help="pediatric or covid.")],
    out: Annotated[Path, typer.Option(help="Folder to make.")],
    place: Annotated[
        str | None, typer.Option("--from", help="pediatric: mendeley (default) or kaggle; covid: github.")
    ] = None,
    sha256: Annotated[
        str | None, typer.Option(help="Refuse an archive with another SHA-256; it was recorded by an earlier fetch.")
    ] = None,
) -> None:
    """Fetch a data set from where it is published.

    A download that breaks off goes on where it was when the command is repeated. Mind the licences: pediatric is
    CC BY 4.0; covid is licensed scan by scan, and a network trained on it must not be shipped.

    Example: nightread data fetch pediatric --out chest_xray
    """
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    from trainer.data.sources import fetch as fetch_source
    from trainer.data.sources import find_source

    source = find_source(dataset, place)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=Console(stderr=True)) as bars:
        task = bars.add_task(f"{source.dataset} from {source.place}", total=None)
        fetched = fetch_source(
            source, out, sha256=sha256, report=lambda done, total: bars.update(task, completed=done, total=total)
        )
    told = "fetched" if fetched.new else "there already"
    typer.echo(f"{told}: {fetched.scans} scans in {fetched.folder}")
    typer.echo(f"next: {fetched.then}", err=True)
