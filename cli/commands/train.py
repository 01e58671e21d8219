"""`train`: trains a network on labelled scans."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.options import Labels
from cli.output.bar import Bar
from cli.output.console import hint, lines_above_bars, print_json, progress_bar, waiting
from cli.train_extra import prepare_tensorflow
from nightread.text import show_text
from trainer.data.dataset import Choices, Rare, SplitBy
from trainer.fit.hyperparameters import Augment, MixedPrecision, Monitor, Optimizer, Schedule

#: Panels of the help page.
_NETWORK, _DATA, _FITTING = "Network", "Data", "Fitting"
_OVERFITTING, _CALIBRATION = "Against overfitting", "Calibration"

#: What the stages of a training count, where it is not scans.
_UNITS = {"fit": "steps", "evaluate": "parts"}

if TYPE_CHECKING:
    from nightread.model.training_folder import Record
    from trainer.train import Progress as TrainingProgress


def train(
    out: Annotated[Path, typer.Option(help="Training folder to write.")],
    dataset: Annotated[str, typer.Argument(metavar="[DATASET]", help="pediatric or covid; with --labels none.")] = "",
    data: Annotated[Path | None, typer.Option(help="Folder of the data set.")] = None,
    labels: Labels = None,
    negative: Annotated[
        str, typer.Option(help="Of two own labels the one without finding; default: normal, negative, healthy ...")
    ] = "",
    arch: Annotated[
        str,
        typer.Option(help="cnn75, inceptionresnetv2, lenet, inception or efficientnetlite0.", rich_help_panel=_NETWORK),
    ] = "cnn75",
    recipe: Annotated[str | None, typer.Option(help="Preset: `ship` reproduces the bundled model.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the training in --out.")] = False,
    split: Annotated[
        SplitBy,
        typer.Option(help="Split by patient, or by scan as in the articles (inflates results).", rich_help_panel=_DATA),
    ] = SplitBy.PATIENT,
    shares: Annotated[
        str | None,
        typer.Option(
            help="Percent train/validation/hold-out; default: 70/15/15, or the article's.", rich_help_panel=_DATA
        ),
    ] = None,
    subtypes: Annotated[
        bool, typer.Option("--subtypes", help="pediatric: normal, bacterial and viral.", rich_help_panel=_DATA)
    ] = False,
    healthy: Annotated[
        Path | None,
        typer.Option(help="covid: CSV file of healthy scans; default: searched near --data.", rich_help_panel=_DATA),
    ] = None,
    normals: Annotated[
        int, typer.Option(min=0, max=1300, help="covid: number of healthy scans.", rich_help_panel=_DATA)
    ] = 150,
    min_per_label: Annotated[
        int, typer.Option(min=1, help="covid: labels with fewer scans are rare.", rich_help_panel=_DATA)
    ] = 1,
    rare: Annotated[
        Rare, typer.Option(help="covid: drop rare labels, or merge them into `Other`.", rich_help_panel=_DATA)
    ] = Rare.DROP,
    epochs: Annotated[
        int | None, typer.Option(min=1, help="Epochs; default here and below: the article's.", rich_help_panel=_FITTING)
    ] = None,
    steps_per_epoch: Annotated[
        int | None,
        typer.Option(min=0, help="Batches per epoch; 0: one pass over the training part.", rich_help_panel=_FITTING),
    ] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Scans per step.", rich_help_panel=_FITTING)] = None,
    optimizer: Annotated[Optimizer | None, typer.Option(help="Optimiser.", rich_help_panel=_FITTING)] = None,
    learning_rate: Annotated[
        float | None, typer.Option(min=0.0, help="Learning rate.", rich_help_panel=_FITTING)
    ] = None,
    schedule: Annotated[Schedule | None, typer.Option(help="Learning rate schedule.", rich_help_panel=_FITTING)] = None,
    momentum: Annotated[
        float | None, typer.Option(min=0.0, max=1.0, help="SGD momentum.", rich_help_panel=_FITTING)
    ] = None,
    weight_decay: Annotated[
        float | None, typer.Option(min=0.0, help="Weight decay of adamw.", rich_help_panel=_FITTING)
    ] = None,
    monitor: Annotated[
        Monitor | None, typer.Option(help="Metric that selects the best epoch, or `last`.", rich_help_panel=_FITTING)
    ] = None,
    patience: Annotated[
        int | None,
        typer.Option(
            min=0, help="Early stopping: epochs without improvement; 0 disables it.", rich_help_panel=_FITTING
        ),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(min=0, help="Random seed of first weights, batches and augmentation.", rich_help_panel=_FITTING),
    ] = None,
    split_seed: Annotated[
        int | None, typer.Option(min=0, help="Random seed of the split.", rich_help_panel=_DATA)
    ] = None,
    teacher: Annotated[
        list[Path] | None,
        typer.Option(
            help="Folder of a finished training whose opinion is learnt instead of the labels; may be repeated.",
            metavar="FOLDER",
            rich_help_panel=_OVERFITTING,
        ),
    ] = None,
    augment: Annotated[
        Augment | None,
        typer.Option(help="Augmentation; `article` also blackens dark pixels.", rich_help_panel=_OVERFITTING),
    ] = None,
    balanced: Annotated[
        bool | None,
        typer.Option(
            "--balanced/--as-they-are",
            help="Batches with equally many scans of each label.",
            rich_help_panel=_OVERFITTING,
        ),
    ] = None,
    mixup: Annotated[
        float | None, typer.Option(min=0.0, help="Mixup alpha; 0 disables it.", rich_help_panel=_OVERFITTING)
    ] = None,
    label_smoothing: Annotated[
        float | None, typer.Option(min=0.0, max=0.5, help="Label smoothing.", rich_help_panel=_OVERFITTING)
    ] = None,
    class_weights: Annotated[
        bool | None,
        typer.Option(
            "--class-weights",
            help="Class weights: every label counts equally in the loss.",
            rich_help_panel=_OVERFITTING,
        ),
    ] = None,
    average: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            max=0.9999,
            help="Decay of the weights' moving average; 0 disables it.",
            rich_help_panel=_OVERFITTING,
        ),
    ] = None,
    calibrate: Annotated[
        bool | None,
        typer.Option(
            "--calibrate/--no-calibrate",
            help="One label: calibrate scores and choose an abstain band.",
            rich_help_panel=_CALIBRATION,
        ),
    ] = None,
    calibration_set: Annotated[
        Path | None,
        typer.Option(
            help="Another site's labelled scans, to choose thresholds and calibration on too.",
            rich_help_panel=_CALIBRATION,
        ),
    ] = None,
    precision: Annotated[
        MixedPrecision | None,
        typer.Option(help="Precision of layers; 16 bits pay off on a GPU.", rich_help_panel=_FITTING),
    ] = None,
    backbone_weights: Annotated[
        str | None,
        typer.Option(
            metavar="imagenet|PATH|none",
            help="First weights of inceptionresnetv2 and efficientnetlite0.",
            rich_help_panel=_NETWORK,
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print training.json and the card as JSON.")] = False,
) -> None:
    """Train a network on labelled scans.

    The training folder holds checkpoint.keras (the best epoch), history.csv, training.json, the draft of a card and a
    report. Repeat an interrupted training with --resume to continue it. Augmentation: `article` doubles the scans;
    `modern` and `strong` shift them and vary their exposure.

    Example: nightread train pediatric --data chest_xray --out trainings/cnn75
    """
    if labels is not None and (dataset or data):
        raise typer.BadParameter("own labels take no data set and no --data", param_hint="--labels")
    source = labels or data
    if source is None or not (labels or dataset):
        raise typer.BadParameter("name a data set and its folder with --data, or own labels with --labels")
    with lines_above_bars():
        with waiting("starting TensorFlow"):
            prepare_tensorflow()
            from trainer import train as training  # Keras
        request = training.make_request(
            dataset or "own", source, arch, out, recipe=recipe, shares=shares, resume=resume,
            calibration_set=calibration_set, teachers=teacher or (),
            choices=Choices(split, subtypes, healthy, normals, min_per_label, rare, negative), epochs=epochs,
            steps_per_epoch=steps_per_epoch, batch_size=batch_size, optimizer=optimizer, learning_rate=learning_rate,
            momentum=momentum, weight_decay=weight_decay, schedule=schedule,
            monitor=monitor, patience=patience, seed=seed, split_seed=split_seed, augment=augment, balanced=balanced,
            mixup=mixup, label_smoothing=label_smoothing, class_weights=class_weights, average=average,
            calibrate=calibrate, precision=precision, backbone_weights=backbone_weights,
        )  # fmt: skip
        with _show_training() as report:
            record, card = training.train(request, report=report)
    if as_json:
        print_json({**record.model_dump(mode="json"), "card": card})
    else:
        _print(record, card, out)


@contextmanager
def _show_training() -> Iterator[Any]:
    """Show a bar for each stage on stderr, one after the other; yield the function that reports progress."""
    with ExitStack() as shown:
        bars: dict[str, Bar] = {}

        def report(progress: "TrainingProgress") -> None:
            if progress.stage not in bars:
                shown.close()  # the stage before has ended
                bars[progress.stage] = shown.enter_context(
                    progress_bar(
                        progress.stage, progress.total, _UNITS.get(progress.stage.rpartition(", ")[2], "scans")
                    )
                )
            row = progress.last_epoch
            note = f"epoch {row.epoch}: loss {row.loss:.3f}, accuracy {row.val_accuracy:.3f}" if row else None
            bars[progress.stage].set(progress.done, progress.total, note)

        yield report


def _print(record: "Record", card: dict[str, Any], out: Path) -> None:
    from cli.output import tables

    table = tables.make_table("part", "figure", "value", "95 % interval")
    for part, metrics in card["metrics"].items():
        for name, metric in metrics.items():
            interval = f"{metric['low']:.4f} to {metric['high']:.4f}"
            table.add_row(part, name.replace("_", " "), f"{metric['value']:.4f}", interval)
    tables.out.print(table)
    counts = ", ".join(f"{part} {count} ({record.patients[part]})" for part, count in record.scans.items())
    typer.echo(f"scans (patients): {counts}")
    typer.echo(
        f"epochs: {record.epochs_done}, best {record.best_epoch}, {record.seconds:.0f} s, "
        f"{100 * record.input_wait_share:.1f} % of them waiting for input"
    )
    for reason, count in record.left_alone.items():
        typer.echo(f"not used: {count} {reason}")
    for label, patients in record.too_few_patients.items():
        typer.echo(f"left out: {label}, which has {patients} patients; a split by patient needs three")
    if record.missing:
        typer.echo(f"missing: {len(record.missing)} scans that the tables name")
    if record.without_patient:
        typer.echo(f"no patient in the name: {record.without_patient} scans, each split as a patient of its own")
    if record.unreadable:
        shown = ", ".join(f"{show_text(name)} ({reason})" for name, reason in list(record.unreadable.items())[:10])
        typer.echo(f"unreadable: {len(record.unreadable)}: {shown}{' ...' if len(record.unreadable) > 10 else ''}")
    typer.echo(f"training folder: {out}")
    typer.echo(f"report: {out / 'report.html'}")
    hint(f"Next: nightread export {out} --name {out.resolve().name} --version 1")
