"""`evaluate`: computes a network's metrics on labelled scans."""

import json
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import typer

from cli.database import open_database
from cli.options import Device, Json, Labels
from cli.output.console import lines_above_bars, print_json, progress_bar, waiting
from cli.train_extra import prepare_tensorflow
from db.engine import reading
from db.runs import RunInfo, find_run
from nightread.errors import CardMismatch, NightreadError, UnknownRun
from nightread.inference.scorer import Scorer
from nightread.machine import count_cores
from nightread.model.bundle import CARD_FILE, find_bundle, load_bundle
from nightread.scan.preprocessing import InputSpec
from nightread.settings import Settings, read_settings
from trainer.data.catalog import find_dataset
from trainer.data.dataset import Choices
from trainer.evaluation.external import Assessment, assess, read_network
from trainer.evaluation.run_scores import assess_run


def evaluate(
    network: Annotated[
        str,
        typer.Argument(
            metavar="NETWORK_OR_RUN", help="NAME[@VERSION], a bundle's or training folder; with --labels also a run."
        ),
    ],
    data: Annotated[Path | None, typer.Option(help="Folder of labelled scans; all of them are scored.")] = None,
    labels: Labels = None,
    dataset: Annotated[Literal["pediatric", "covid"], typer.Option(help="Layout of the folder.")] = "pediatric",
    healthy: Annotated[
        Path | None, typer.Option(help="covid: CSV file of healthy scans; default: searched near --data.")
    ] = None,
    normals: Annotated[int, typer.Option(min=0, max=1300, help="covid: number of healthy scans.")] = 150,
    out: Annotated[Path | None, typer.Option(help="Folder for a report; needs the extra `train`.")] = None,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Compute a network's metrics on labelled scans, or those of a past run.

    A bundle runs in ONNX Runtime, a training folder in Keras (extra `train`). The scores of a run come from the
    database, and labels are found by its paths. The metrics say nothing about new patients if the network was trained
    on these scans.

    Example: nightread evaluate pneumonia-cnn75 --data chest_xray/test
    """
    if (data is None) is (labels is None):
        raise typer.BadParameter(
            "name labelled scans with --labels or --data, and not with both", param_hint="--labels"
        )
    source = labels or data or Path()
    settings = read_settings(device=device)
    run = _find_run(network, settings) if labels is not None and not _is_network(network, settings) else None
    if run is not None:
        with waiting("read the run"):
            card, assessment = assess_run(open_database(settings), run, source)
    else:
        with lines_above_bars():
            with waiting("open the network"):
                card, score = _open_network(network, settings)
            choices = Choices(healthy=healthy, normals=normals)
            with progress_bar("prepare", None) as bar:
                found = find_dataset(dataset if labels is None else "own")
                assessment = assess(read_network(card, score), found, source, choices, report=bar.set)
    if out is not None:
        name = Path(network).name if run is None else f"{run.model} in run {run.name}"
        _write_report(out, name, card, assessment, source)
    if as_json:
        print_json(_describe(network, assessment))
    else:
        _print(assessment)


def _is_network(named: str, settings: Settings) -> bool:
    if Path(named).is_dir():
        return True
    try:
        find_bundle(named, settings.models_dir)
    except CardMismatch:
        return False
    return True


def _find_run(named: str, settings: Settings) -> RunInfo:
    engine = open_database(settings)
    with reading(engine) as connection:
        try:
            return find_run(connection, named)
        except UnknownRun as error:
            raise UnknownRun(f"{error}; nor is there a model bundle or a folder {named}") from None


def _open_network(named: str, settings: Settings) -> tuple[dict[str, Any], Callable[[Any], Any]]:
    """Return card and scoring function of a training folder, a bundle's folder, or a bundle's name."""
    folder = Path(named)
    if (folder / "checkpoint.keras").is_file():
        return _open_checkpoint(folder)
    is_folder = (folder / CARD_FILE).is_file()
    if folder.is_dir() and not is_folder and os.sep in named:
        raise NightreadError(f"{folder} holds neither a checkpoint nor a bundle")
    bundle = load_bundle(folder if is_folder else find_bundle(named, settings.models_dir))
    scorer = Scorer(bundle, settings.device, settings.threads or count_cores())

    def score(inputs: Any) -> Any:
        # A copy of each batch: three channels may be the same memory, which ONNX Runtime does not take.
        at_once = settings.batch_size
        batches = (np.ascontiguousarray(inputs[start : start + at_once]) for start in range(0, len(inputs), at_once))
        return np.concatenate([scorer.score_batch(batch) for batch in batches])

    return bundle.card.model_dump(mode="json"), score


def _open_checkpoint(folder: Path) -> tuple[dict[str, Any], Callable[[Any], Any]]:
    prepare_tensorflow()
    from trainer.evaluation.part_scores import load_checkpoint, score  # after the extra was checked

    try:
        card = json.loads((folder / "card.json").read_text())
    except (OSError, ValueError):
        raise NightreadError(
            f"{folder} has no card.json, so its training has not ended: continue it with `nightread train --resume`"
        ) from None
    at_once = InputSpec.model_validate(card["input"]).scored_at_once
    return card, partial(score, load_checkpoint(folder), at_once=at_once)


def _write_report(folder: Path, name: str, card: dict[str, Any], assessment: Assessment, data: Path) -> None:
    from trainer.evaluation.report import ReportFacts, ReportPart, write_report  # the extra `train`

    folder.mkdir(parents=True, exist_ok=True)
    notes = [
        f"{name}, judged by the labelled scans of {data.name}.",
        "Where it was trained on some of them, the figures say nothing about new patients.",
        *[f"Not used: {count} {reason}." for reason, count in assessment.left_alone.items()],
        *([f"Unreadable: {len(assessment.unreadable)} scans."] if assessment.unreadable else []),
        *([f"Missing: {len(assessment.missing)} scans that the tables name."] if assessment.missing else []),
    ]
    part = {"evaluation": ReportPart(assessment.scores, assessment.evaluation)}
    facts = ReportFacts(f"{name} on {data.name}", card, part, mistakes=assessment.mistakes, notes=notes)
    typer.echo(f"report: {write_report(folder, facts)}", err=True)


def _print(assessment: Assessment) -> None:
    from cli.output.tables import make_table, out  # Rich, which --json does not need

    evaluation = assessment.evaluation
    table = make_table("figure", "value", "95 % interval")
    for name, metric in evaluation.figures.items():
        table.add_row(name.replace("_", " "), f"{metric.value:.4f}", f"{metric.low:.4f} to {metric.high:.4f}")
    for subgroup, (count, metric) in evaluation.subgroups.items():
        interval = f"{metric.low:.4f} to {metric.high:.4f}"
        table.add_row(f"right among {subgroup} ({count})", f"{metric.value:.4f}", interval)
    out.print(table)
    table = make_table("label", "scans", "precision", "recall", "F1", "AUC")
    for label, figures in evaluation.labels.items():
        cells = (figures.precision, figures.recall, figures.f1, figures.auc)
        table.add_row(label, str(figures.support), *("-" if cell is None else f"{cell.value:.4f}" for cell in cells))
    out.print(table)
    typer.echo(f"{evaluation.scans} scans of {evaluation.patients} patients")
    for reason, count in assessment.left_alone.items():
        typer.echo(f"not used: {count} {reason}")
    if assessment.unreadable:
        typer.echo(
            f"unreadable: {len(assessment.unreadable)} scans, the first is {assessment.unreadable[0].reason.value}"
        )
    if assessment.missing:
        typer.echo(f"missing: {len(assessment.missing)} scans that the tables name")


def _describe(network: str, assessment: Assessment) -> dict[str, Any]:
    evaluation = assessment.evaluation

    def show(metric: Any) -> Any:
        return None if metric is None else metric.model_dump()

    return {
        "network": network,
        "scans": evaluation.scans,
        "patients": evaluation.patients,
        "threshold": assessment.scores.threshold,
        "figures": {name: show(metric) for name, metric in evaluation.figures.items()},
        "labels": {
            label: {
                "support": figures.support,
                **{name: show(getattr(figures, name)) for name in ("precision", "recall", "specificity", "f1", "auc")},
            }
            for label, figures in evaluation.labels.items()
        },
        "subgroups": {
            name: {"scans": count, "right": show(metric)} for name, (count, metric) in evaluation.subgroups.items()
        },
        "confusion": evaluation.confusion.tolist(),
        "left_alone": dict(assessment.left_alone),
        "unreadable": len(assessment.unreadable),
        "missing": len(assessment.missing),
    }
