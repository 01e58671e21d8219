"""`models import`: imports a bundle or an ONNX file."""

from pathlib import Path
from typing import Annotated, Any

import typer

from cli.database import open_database
from cli.options import Json
from cli.output.console import print_json, say, waiting
from nightread.settings import read_settings
from worker.registry.import_model import Imported
from worker.registry.import_model import import_model as take_in


def import_model(
    source: Annotated[Path, typer.Argument(metavar="SOURCE", help="Folder of a bundle, or an ONNX file.")],
    card: Annotated[Path | None, typer.Option("--card", help="Card of an ONNX file, as JSON.")] = None,
    inputs: Annotated[
        list[Path] | None,
        typer.Option("--inputs", help="Scans for the parity file of an ONNX file; repeatable; default: drawn."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Import a bundle or an ONNX file as a candidate.

    It is copied to NIGHTREAD_MODELS_DIR and registered in the database. A bundle's folder is checked first. An ONNX
    file needs a card: the fields that `nightread models show --json` prints, without digest and files. Bundles never
    change: another digest needs another version.

    Example: nightread models import model.onnx --card card.json
    """
    settings = read_settings()
    engine = open_database(settings)
    with waiting("checking the model"):
        imported = take_in(engine, settings, source, card=card, inputs=inputs or ())
    if as_json:
        print_json(_describe(imported))
        return
    reference = imported.bundle.card.reference
    if not imported.is_new:
        say(f"{reference} was imported before: nothing changed")
        return
    say(f"{reference} is a candidate, in {imported.folder}; digest {imported.bundle.digest}")
    say(f"next: nightread models check {reference}; nightread shadow RUN --model {reference}; "
        f"nightread models promote {reference}", style="dim")  # fmt: skip


def _describe(imported: Imported) -> dict[str, Any]:
    card = imported.bundle.card
    return {
        "model": card.reference, "digest": card.digest, "folder": str(imported.folder), "new": imported.is_new,
        "parity_scans": len(imported.bundle.parity_inputs),
    }  # fmt: skip
