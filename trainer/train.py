"""Training: the steps from a data set to a training folder: list, prepare, split, fit, evaluate, record."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from nightread.model.training_folder import Record
from trainer.architectures.architecture import check_backbone_weights
from trainer.architectures.catalog import find_architecture
from trainer.data.catalog import find_dataset
from trainer.data.dataset import Choices, SplitBy
from trainer.data.load import PreparedScans, prepare_scans
from trainer.data.split import Indices, Part, Shares, divide, parse_shares
from trainer.errors import TrainingError
from trainer.evaluation import metrics
from trainer.evaluation.gate import fit_gate
from trainer.evaluation.mistakes import find_mistakes
from trainer.evaluation.operating_points import choose_operating_points
from trainer.evaluation.part_scores import calibrate, find_majority, load_checkpoint, score_parts
from trainer.evaluation.report import ReportFacts, ReportPart, write_report
from trainer.fit.batches import FitData
from trainer.fit.fit import fit
from trainer.fit.history import EpochRow
from trainer.fit.hyperparameters import FitSettings
from trainer.fit.recipes import find_recipe
from trainer.record import Outcome, write_record

#: Percent for training, validation and hold-out.
_SHARES: Final = "70/15/15"


@dataclass(frozen=True, slots=True)
class Progress:
    """Progress of a training.

    Attributes:
        stage: `prepare`, `fit` or `evaluate`.
        done: scans, steps or parts.
        total: scans, steps or parts in all.
        last_epoch: last finished epoch of a fit.
    """

    stage: str
    done: int
    total: int
    last_epoch: EpochRow | None = None


@dataclass(frozen=True, slots=True)
class Request:
    """Request for a training.

    Attributes:
        dataset: name of a data set.
        data: its folder.
        architecture: name of a network.
        out: the training folder.
        shares: of the split.
        settings: hyperparameters.
        choices: options of reading and splitting the data set.
        resume: whether to resume a training in `out`.
    """

    dataset: str
    data: Path
    architecture: str
    out: Path
    shares: Shares
    settings: FitSettings
    choices: Choices = Choices()  # noqa: RUF009 - frozen
    resume: bool = False


def make_request(
    dataset: str,
    data: Path,
    architecture: str,
    out: Path,
    *,
    choices: Choices,
    recipe: str | None = None,
    shares: str | None = None,
    resume: bool = False,
    **settings: Any,
) -> Request:
    """Return a request for a training; what is not given comes from the recipe, else from the article.

    Args:
        dataset: name of a data set.
        data: its folder.
        architecture: name of a network.
        out: the training folder.
        choices: options of reading and splitting the data set.
        recipe: name of a recipe.
        shares: percent for training, validation and hold-out, such as 70/15/15.
        resume: whether to resume a training in `out`.
        **settings: fields of `FitSettings`; None: not given.

    Raises:
        TrainingError: there is no such data set, network or recipe, or the shares are wrong.
    """
    chosen = find_recipe(recipe, dataset, architecture) if recipe else None
    usual = find_dataset(dataset).article_shares if choices.split_by is SplitBy.ARTICLE else _SHARES
    given = {name: value for name, value in settings.items() if value is not None}
    return Request(
        dataset, data, architecture, out, parse_shares(shares or (chosen.shares if chosen else usual)),
        replace(chosen.settings if chosen else find_architecture(architecture).published, **given), choices, resume,
    )  # fmt: skip


def train(request: Request, *, report: Callable[[Progress], None]) -> tuple[Record, dict[str, Any]]:
    """Train a network and write its training folder.

    Returns:
        The content of `training.json` and `card.json` in the folder.

    Raises:
        DatasetError: the data cannot be trained on.
        TrainingError: an unknown name, a folder with other content, or a loss that is not finite.
    """
    dataset, architecture = find_dataset(request.dataset), find_architecture(request.architecture)
    check_backbone_weights(architecture, request.settings.backbone_weights)
    listing = dataset.list_scans(request.data, request.choices)
    if request.settings.calibrate and listing.task.activation != "sigmoid":
        raise TrainingError("--calibrate works with one label and this task has several: leave it out")
    scans = prepare_scans(
        listing, architecture.input, report=lambda done, total: report(Progress("prepare", done, total))
    )
    divided = divide(listing.task, scans, request.choices.split_by, request.shares, seed=request.settings.seed)
    history = fit(
        architecture,
        divided.task,
        FitData(
            divided.scans.inputs,
            divided.scans.targets,
            divided.split[Part.TRAIN],
            divided.split[Part.VALIDATION],
            architecture.input,
            len(divided.task.labels),
            _compute_digest(divided.scans, divided.split),
        ),
        request.settings,
        request.out,
        resume=request.resume,
        report=lambda done, total, row: report(Progress("fit", done, total, row)),
    )
    report(Progress("evaluate", 0, len(Part)))
    at_once, seed = architecture.input.scored_at_once, request.settings.seed
    scaling = calibrate(request.out, divided, at_once, seed) if request.settings.calibrate else None
    model = load_checkpoint(request.out)
    scores = score_parts(model, divided, at_once)
    gate = fit_gate(request.out, model, divided, architecture.input)
    evaluations = {}
    for done, part in enumerate(Part, start=1):
        evaluations[part] = metrics.evaluate(scores[part], majority=find_majority(divided), seed=request.settings.seed)
        report(Progress("evaluate", done, len(Part)))
    points = choose_operating_points(scores[Part.VALIDATION], scores[Part.HOLD_OUT], seed=seed) if scaling else {}
    outcome = Outcome(
        dataset,
        architecture,
        request.settings,
        request.shares,
        request.choices.split_by,
        scores[Part.HOLD_OUT].threshold,
        {part: evaluations[part].card_figures for part in (Part.VALIDATION, Part.HOLD_OUT)},
        history,
        scaling,
        points,
        gate,
    )
    record, card = write_record(request.out, outcome, listing, divided)
    write_report(
        request.out,
        ReportFacts(
            title=f"{architecture.name} on {dataset.name}",
            card=card,
            record=record,
            history=history,
            best_epoch=record.best_epoch,
            parts={part.value: ReportPart(scores[part], evaluations[part]) for part in Part},
            mistakes=find_mistakes(divided.scans, divided.split[Part.HOLD_OUT], scores[Part.HOLD_OUT]),
        ),
    )
    return record, card


def _compute_digest(scans: PreparedScans, split: Mapping[Part, Indices]) -> str:
    """Return the SHA-256 over the digests and targets of all scans, part by part, in the order of the training."""
    lines = [
        f"{part} {scans.sha256[index]} {scans.targets[index]:g}" for part in Part for index in split[part].tolist()
    ]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
