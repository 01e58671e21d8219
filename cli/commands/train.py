"""`nightread train` and `nightread export`: from a folder of labelled scans to a model bundle."""

import importlib.util
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from nightread.errors import NightreadError

if TYPE_CHECKING:
    from exporter.export import Exported
    from nightread.model.training_folder import Record
    from trainer.train import Progress as TrainingProgress

_TRAIN_PACKAGES = ("tensorflow", "keras", "tf2onnx", "onnx")


def train(
    dataset: Annotated[str, typer.Argument(metavar="DATASET", help="The data set: pediatric or covid.")],
    data: Annotated[Path, typer.Option(help="Folder of the data set.")],
    out: Annotated[Path, typer.Option(help="Training folder to write.")],
    arch: Annotated[
        str, typer.Option(help="The network: cnn75, inceptionresnetv2, lenet, inception or efficientnetlite0.")
    ] = "cnn75",
    recipe: Annotated[
        str | None, typer.Option(help="Settings that go together: ship, as the bundle that ships was trained.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the training that --out holds.")] = False,
    split: Annotated[
        Literal["patient", "article"],
        typer.Option(help="By patient; or scan by scan as the articles did, which flatters."),
    ] = "patient",
    shares: Annotated[
        str | None,
        typer.Option(help="Percent of scans for train/validation/hold-out; default: 70/15/15, or the article's."),
    ] = None,
    subtypes: Annotated[
        bool, typer.Option("--subtypes", help="pediatric: tell normal, bacterial and viral apart.")
    ] = False,
    healthy: Annotated[
        Path | None,
        typer.Option(help="covid: the CSV file that lists healthy scans; else it is looked for near --data."),
    ] = None,
    normals: Annotated[int, typer.Option(min=0, max=1300, help="covid: how many healthy scans to take.")] = 150,
    min_per_label: Annotated[int, typer.Option(min=1, help="covid: a label with fewer scans is rare.")] = 1,
    rare: Annotated[
        Literal["drop", "merge"], typer.Option(help="covid: leave rare labels out, or make them one, Other.")
    ] = "drop",
    epochs: Annotated[int | None, typer.Option(min=1, help="Default: the article's, as for all that follows.")] = None,
    steps_per_epoch: Annotated[
        int | None, typer.Option(min=0, help="Batches in one epoch; 0: one pass over the training part.")
    ] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Scans in one step.")] = None,
    optimizer: Annotated[Literal["sgd", "adam"] | None, typer.Option(help="How weights follow gradients.")] = None,
    learning_rate: Annotated[float | None, typer.Option(min=0.0, help="Of the optimizer.")] = None,
    schedule: Annotated[
        Literal["constant", "cosine"] | None, typer.Option(help="How the learning rate changes over the steps.")
    ] = None,
    momentum: Annotated[float | None, typer.Option(min=0.0, max=1.0, help="Of sgd.")] = None,
    monitor: Annotated[
        Literal["val_accuracy", "val_loss", "last"] | None,
        typer.Option(help="The figure that makes an epoch the best, or the last one."),
    ] = None,
    patience: Annotated[
        int | None, typer.Option(min=0, help="Stop after so many epochs without a better one; 0: never.")
    ] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Of the split, the first weights, the batches and augmentation.")
    ] = None,
    augment: Annotated[
        Literal["none", "article", "modern", "strong"] | None,
        typer.Option(help="article: doubled, dark pixels black; modern, strong: moved, and changed in exposure."),
    ] = None,
    balanced: Annotated[
        bool | None, typer.Option("--balanced/--as-they-are", help="Draw as many scans of each label into a batch.")
    ] = None,
    mixup: Annotated[
        float | None, typer.Option(min=0.0, help="Mix scans with others of their batch: alpha; 0: not at all.")
    ] = None,
    label_smoothing: Annotated[
        float | None, typer.Option(min=0.0, max=0.5, help="How much of a target is spread over all classes.")
    ] = None,
    class_weights: Annotated[
        bool | None, typer.Option("--class-weights", help="Let every label weigh the same in the loss.")
    ] = None,
    calibrate: Annotated[
        bool | None,
        typer.Option(
            "--calibrate/--no-calibrate",
            help="One label: make scores probabilities on the validation part, and choose an abstain band there.",
        ),
    ] = None,
    precision: Annotated[
        Literal["float32", "mixed_float16", "mixed_bfloat16"] | None,
        typer.Option(help="What layers compute in; 16 bits pay on a GPU, bfloat16 also on CPUs that have it."),
    ] = None,
    backbone_weights: Annotated[
        str | None,
        typer.Option(metavar="imagenet|PATH|none", help="inceptionresnetv2, efficientnetlite0: what they start from."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print what training.json holds as one JSON object.")] = False,
) -> None:
    """Train a network on labelled scans.

    The training folder holds checkpoint.keras (the best epoch), history.csv, training.json, the draft of a card and a
    report. A training that was killed goes on where it was when the same command is repeated with --resume.

    Example: nightread train pediatric --data chest_xray --arch cnn75 --out trainings/cnn75
    """
    prepare_tensorflow()
    from trainer.architectures.catalog import find_architecture
    from trainer.data.catalog import find_dataset
    from trainer.data.dataset import Choices, Rare, SplitBy
    from trainer.data.split import parse_shares
    from trainer.fit.hyperparameters import Augment, MixedPrecision, Monitor, Optimizer, Schedule
    from trainer.fit.recipes import find_recipe
    from trainer.train import Request
    from trainer.train import train as train_network

    asked: dict[str, Any] = {
        "epochs": epochs,
        "steps_per_epoch": steps_per_epoch,
        "batch_size": batch_size,
        "optimizer": Optimizer(optimizer) if optimizer else None,
        "learning_rate": learning_rate,
        "momentum": momentum,
        "schedule": Schedule(schedule) if schedule else None,
        "monitor": Monitor(monitor) if monitor else None,
        "patience": patience,
        "seed": seed,
        "augment": Augment(augment) if augment else None,
        "balanced": balanced,
        "mixup": mixup,
        "label_smoothing": label_smoothing,
        "class_weights": class_weights,
        "calibrate": calibrate,
        "precision": MixedPrecision(precision) if precision else None,
        "backbone_weights": backbone_weights,
    }
    chosen = find_recipe(recipe, dataset, arch) if recipe else None
    settings = replace(
        chosen.settings if chosen else find_architecture(arch).published,
        **{name: value for name, value in asked.items() if value is not None},
    )
    usual = find_dataset(dataset).article_shares if split == "article" else "70/15/15"
    usual = chosen.shares if chosen else usual
    choices = Choices(SplitBy(split), subtypes, healthy, normals, min_per_label, Rare(rare))
    request = Request(dataset, data, arch, out, parse_shares(shares or usual), settings, choices, resume)
    with _show_training() as report:
        record, card = train_network(request, report=report)
    if as_json:
        typer.echo(json.dumps({**record.model_dump(mode="json"), "card": card}))
    else:
        _print_training(record, card, out)


def export(
    checkpoint_folder: Annotated[
        Path, typer.Argument(metavar="CHECKPOINT_FOLDER", help="The folder that `nightread train --out` wrote.")
    ],
    name: Annotated[str, typer.Option(help="Name of the bundle.")],
    version: Annotated[str, typer.Option(help="Version of the bundle; a bundle never changes.")],
    precision: Annotated[
        Literal["float32", "float16", "int8"],
        typer.Option(help="What the network computes in; other than float32 is added to the name."),
    ] = "float32",
    data: Annotated[
        Path | None, typer.Option(help="Folder of the data set: hold-out scans are read from their files again.")
    ] = None,
    full_resolution: Annotated[
        Path | None,
        typer.Option(
            help="Folder of scans that are scored as they are, decoded in full, as PNG and DICOM copies, and from the "
            "files of the same names in --data: the card tells the differences."
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of bundles; default: NIGHTREAD_MODELS_DIR.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the outcome as one JSON object.")] = False,
) -> None:
    """Turn a trained network into a model bundle that workers serve.

    The network is converted to ONNX and refused where its scores are not those of the checkpoint. float16 and int8
    are refused where they cost more than 0.002 of the hold-out's AUC or change more than 0.5 % of its decisions.

    Example: nightread export trainings/cnn75 --name pneumonia-cnn75 --version 2 --precision int8
    """
    prepare_tensorflow()
    from rich.console import Console

    from exporter.export import export as export_bundle
    from nightread.model.card import Precision
    from nightread.settings import read_settings

    models_dir = out or read_settings().models_dir
    console = Console(stderr=True)
    with console.status("open the checkpoint") as status:
        exported = export_bundle(
            checkpoint_folder,
            models_dir,
            name,
            version,
            precision=Precision(precision),
            data=data,
            full_resolution=full_resolution,
            report=status.update,
        )
    if as_json:
        typer.echo(json.dumps(_describe_export(exported)))
    else:
        _print_export(exported)


def prepare_tensorflow() -> None:
    """Check that the extra is installed, and keep TensorFlow's start-up talk off the terminal.

    Raises:
        NightreadError: it is not; the message names the remedy.
    """
    missing = [package for package in _TRAIN_PACKAGES if importlib.util.find_spec(package) is None]
    if missing:
        raise NightreadError(
            f"training and export need {', '.join(missing)}, which the extra `train` brings: "
            "uv sync --extra train, or uv run --extra train nightread ..."
        )
    os.environ["KERAS_BACKEND"] = "tensorflow"
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


@contextmanager
def _show_training() -> Iterator[Any]:
    """Show a bar for the scans and one for the steps, on stderr; yield what is told of progress."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, TextColumn("{task.fields[note]}"), console=Console(stderr=True)) as bars:
        tasks: dict[str, Any] = {}

        def report(progress: "TrainingProgress") -> None:
            if progress.stage not in tasks:
                tasks[progress.stage] = bars.add_task(progress.stage, note="")
            row = progress.last_epoch
            note = f"epoch {row.epoch}: loss {row.loss:.4f}, validation accuracy {row.val_accuracy:.4f}" if row else ""
            bars.update(tasks[progress.stage], completed=progress.done, total=progress.total, note=note)

        yield report


def _print_training(record: "Record", card: dict[str, Any], out: Path) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("part", "figure", "value", "95 % interval")
    for part, metrics in card["metrics"].items():
        for name, metric in metrics.items():
            interval = f"{metric['low']:.4f} to {metric['high']:.4f}"
            table.add_row(part, name.replace("_", " "), f"{metric['value']:.4f}", interval)
    console = Console()
    console.print(table)
    counts = ", ".join(f"{part} {count} ({record.patients[part]})" for part, count in record.scans.items())
    typer.echo(f"scans (patients): {counts}")
    typer.echo(
        f"epochs: {record.epochs_done}, best {record.best_epoch}, {record.seconds:.0f} s, "
        f"{100 * record.input_wait_share:.1f} % of them waiting for input"
    )
    for reason, count in record.left_alone.items():
        typer.echo(f"left alone: {count} {reason}")
    for label, patients in record.too_few_patients.items():
        typer.echo(f"left out: {label}, which has {patients} patients; a split by patient needs three")
    if record.missing:
        typer.echo(f"missing: {len(record.missing)} scans that the tables name")
    if record.without_patient:
        typer.echo(f"names without a patient: {record.without_patient} scans, each split as a patient of its own")
    if record.unreadable:
        shown = ", ".join(f"{name} ({reason})" for name, reason in list(record.unreadable.items())[:10])
        typer.echo(f"unreadable: {len(record.unreadable)}: {shown}{' ...' if len(record.unreadable) > 10 else ''}")
    typer.echo(f"training folder: {out}")


def _print_export(exported: "Exported") -> None:
    card, conversion, accuracy = exported.bundle.card, exported.conversion, exported.accuracy
    typer.echo(f"{card.reference} in {exported.folder}")
    typer.echo(f"digest     {exported.bundle.digest}")
    sizes = ", ".join(map(str, exported.parity.batch_sizes))
    typer.echo(f"parity     {conversion.parity:.2g} at batch sizes {sizes}, on {conversion.scans} scans")
    files = f"{conversion.files} read from their files again" if conversion.files else "not checked: --data"
    typer.echo(f"end to end {files}")
    typer.echo(f"decisions  {accuracy.decisions_changed} of {accuracy.scans} changed")
    for label, auc in conversion.auc.items():
        typer.echo(f"AUC        {auc:.4f} for {label} on the hold-out, {conversion.source_auc[label]:.4f} before")
    for way, found in card.same_pixels.items():
        typer.echo(
            f"{way}: scores of {found.scans} scans differ by {found.median_difference:.2g} in the median, "
            f"{found.largest_difference:.2g} at most; {found.decisions_changed} decisions changed"
        )
    typer.echo(f"outputs    {', '.join(output.name for output in card.outputs)}")
    typer.echo(f"left       {conversion.transposes} Transpose nodes")


def _describe_export(exported: "Exported") -> dict[str, Any]:
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
        "same_pixels": {way: found.model_dump() for way, found in exported.bundle.card.same_pixels.items()},
    }
