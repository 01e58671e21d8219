"""`data fetch`: downloads a data set."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from cli.output.console import hint, progress_bar
from trainer.data import sources


def fetch(
    dataset: Annotated[Literal["pediatric", "covid"], typer.Argument(metavar="DATASET", help="pediatric or covid.")],
    out: Annotated[Path, typer.Option(help="Folder to create.")],
    place: Annotated[
        str | None, typer.Option("--from", help="pediatric: mendeley (default) or kaggle; covid: github.")
    ] = None,
    sha256: Annotated[str | None, typer.Option(help="Required SHA-256 of the archive, from an earlier fetch.")] = None,
) -> None:
    """Download a data set from its publisher.

    An interrupted download continues when the command is repeated. Mind the licences: pediatric is CC BY 4.0; covid is
    licensed scan by scan, and a network trained on it must not be shipped.

    Example: nightread data fetch pediatric --out chest_xray
    """
    source = sources.find_source(dataset, place)
    with progress_bar(f"{source.dataset} from {source.place}", None, "bytes") as bar:
        fetched = sources.fetch(source, out, sha256=sha256, report=lambda done, total: bar.set(done, total or 0))
    state = "fetched" if fetched.new else "already present"
    typer.echo(f"{state}: {fetched.scans} scans in {fetched.folder}")
    hint(f"Next: {fetched.then}")
