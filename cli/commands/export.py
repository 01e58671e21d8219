"""`export`: converts a trained network into a model bundle."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from cli.output.console import lines_above_bars, print_json, say, waiting
from cli.train_extra import prepare_tensorflow
from nightread.settings import read_settings

if TYPE_CHECKING:
    from exporter.export import Exported


def export(
    checkpoint_folder: Annotated[
        Path, typer.Argument(metavar="CHECKPOINT_FOLDER", help="Folder written by `nightread train --out`.")
    ],
    name: Annotated[str, typer.Option(help="Name of the bundle.")],
    version: Annotated[str, typer.Option(help="Version of the bundle; a bundle never changes.")],
    precision: Annotated[
        Literal["float32", "float16", "int8"],
        typer.Option(help="Precision of the graph; float16 and int8 are appended to the name."),
    ] = "float32",
    data: Annotated[Path | None, typer.Option(help="Data set folder; checks the export end to end.")] = None,
    full_resolution: Annotated[
        Path | None, typer.Option(help="Folder of full-size scans; compares PNG and DICOM copies and --data files.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of bundles; default: NIGHTREAD_MODELS_DIR.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")] = False,
) -> None:
    """Convert a trained network into a model bundle that workers serve.

    The export fails if the ONNX scores differ from those of the checkpoint. float16 and int8 fail if they cost more
    than 0.002 of the hold-out's AUC or change more than 0.5 % of its decisions. With --data, hold-out scans are also
    read again from their files. With --full-resolution, the card gets the differences between kinds of files.

    Example: nightread export trainings/cnn75 --name cnn75 --version 2
    """
    with lines_above_bars(), waiting("starting TensorFlow") as show:
        prepare_tensorflow()
        from exporter.export import export as export_bundle
        from nightread.model.card import Precision

        show("open the checkpoint")
        exported = export_bundle(
            checkpoint_folder,
            out or read_settings().models_dir,
            name,
            version,
            precision=Precision(precision),
            data=data,
            full_resolution=full_resolution,
            report=show,
        )
    if as_json:
        print_json(_describe(exported))
    else:
        _print(exported)


def _print(exported: "Exported") -> None:
    card, conversion, accuracy = exported.bundle.card, exported.conversion, exported.accuracy
    typer.echo(f"{card.reference} in {exported.folder}")
    typer.echo(f"digest     {exported.bundle.digest}")
    sizes = ", ".join(map(str, exported.parity.batch_sizes))
    typer.echo(f"parity     {conversion.parity:.2g} at batch sizes {sizes}, on {conversion.scans} scans")
    files = f"{conversion.files} scans read from their files" if conversion.files else "check skipped (pass --data)"
    typer.echo(f"end to end {files}")
    typer.echo(f"decisions  {accuracy.decisions_changed} of {accuracy.scans} changed")
    for label, auc in conversion.auc.items():
        typer.echo(f"AUC        {auc:.4f} for {label} on the hold-out, {conversion.source_auc[label]:.4f} before")
    for way, found in card.same_pixels.items():
        typer.echo(
            f"{way}: scores of {found.scans} scans differ by {found.median_difference:.2g} (median), "
            f"{found.largest_difference:.2g} (largest); {found.decisions_changed} decisions changed"
        )
    typer.echo(f"outputs    {', '.join(output.name for output in card.outputs)}")
    typer.echo(f"transposes {conversion.transposes} Transpose nodes remain")
    if card.is_by_chance:
        say(card.limitations[0], style="bold red")


def _describe(exported: "Exported") -> dict[str, Any]:
    return {
        "model": exported.bundle.card.reference,
        "digest": exported.bundle.digest,
        "folder": str(exported.folder),
        "parity": exported.parity.largest_difference,
        "batch_sizes": list(exported.parity.batch_sizes),
        "transposes": exported.conversion.transposes,
        "precision": exported.bundle.card.precision,
        "outputs": [output.name for output in exported.bundle.card.outputs],
        "scans": exported.conversion.scans,
        "files": exported.conversion.files,
        "decisions_changed": exported.conversion.decisions_changed,
        "auc": exported.conversion.auc,
        "source_auc": exported.conversion.source_auc,
        "by_chance": exported.bundle.card.is_by_chance,
        "same_pixels": {way: found.model_dump() for way, found in exported.bundle.card.same_pixels.items()},
    }
