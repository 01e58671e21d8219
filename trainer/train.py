"""Training: the steps from a data set to a training folder: list, prepare, split, fit, evaluate, record."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from nightread.model.training_folder import Record
from trainer.architectures.architecture import check_backbone_weights
from trainer.architectures.catalog import find_architecture
from trainer.data.catalog import find_dataset
from trainer.data.dataset import Choices, SplitBy
from trainer.data.load import PreparedScans, prepare_scans
from trainer.data.site import read_site
from trainer.data.split import Indices, Part, Shares, divide, parse_shares
from trainer.errors import TrainingError
from trainer.evaluation.gate import fit_gate
from trainer.evaluation.metrics import PartScores, evaluate
from trainer.evaluation.mistakes import find_mistakes
from trainer.evaluation.operating_points import choose_operating_points, measure_band, span_abstain_band
from trainer.evaluation.part_scores import calibrate, find_majority, load_checkpoint, score_parts
from trainer.evaluation.report import ReportFacts, ReportPart, write_report
from trainer.fit.augmentation import SOURCE_SCALE
from trainer.fit.batches import FitData
from trainer.fit.fit import fit
from trainer.fit.history import EpochRow
from trainer.fit.hyperparameters import Augment, FitSettings
from trainer.fit.recipes import find_recipe
from trainer.record import Outcome, write_record
from trainer.teachers import Teachers, identify

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
        calibration_set: folder of another site's labelled scans, on which thresholds and calibration are chosen too.
        teachers: folders of finished trainings on the same split, whose mean opinion is learnt instead of the labels.
        teacher_seeds: seeds of further teachers; they are trained first, in folders beside `out`.
    """

    dataset: str
    data: Path
    architecture: str
    out: Path
    shares: Shares
    settings: FitSettings
    choices: Choices = Choices()  # noqa: RUF009 - frozen
    resume: bool = False
    calibration_set: Path | None = None
    teachers: tuple[Path, ...] = ()
    teacher_seeds: tuple[int, ...] = ()


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
    calibration_set: Path | None = None,
    teachers: Sequence[Path] = (),
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
        calibration_set: folder of another site's labelled scans.
        teachers: folders of finished trainings.
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
        calibration_set, tuple(teachers), chosen.teacher_seeds if chosen and not teachers else (),
    )  # fmt: skip


def train(request: Request, *, report: Callable[[Progress], None]) -> tuple[Record, dict[str, Any]]:
    """Train a network and write its training folder.

    Returns:
        The content of `training.json` and `card.json` in the folder.

    Raises:
        DatasetError: the data cannot be trained on.
        TrainingError: an unknown name, a folder with other content, or a loss that is not finite.
    """
    taught_by = [*request.teachers, *(_train_teacher(request, seed, report) for seed in request.teacher_seeds)]
    request = replace(request, settings=replace(request.settings, teachers=identify(taught_by)))
    dataset, architecture = find_dataset(request.dataset), find_architecture(request.architecture)
    check_backbone_weights(architecture, request.settings.backbone_weights)
    listing = dataset.list_scans(request.data, request.choices)
    if request.settings.calibrate and listing.task.activation != "sigmoid":
        raise TrainingError("--calibrate works with one label and this task has several: leave it out")
    scans = prepare_scans(
        listing,
        architecture.input,
        source_scale=SOURCE_SCALE if request.settings.augment is Augment.CROP else 0,
        report=lambda done, total: report(Progress("prepare", done, total)),
    )
    divided = divide(listing.task, scans, request.choices.split_by, request.shares, seed=request.settings.split_seed)
    site = None
    if request.calibration_set is not None:
        site = read_site(
            dataset,
            request.calibration_set,
            request.choices,
            divided.task,
            architecture.input,
            trained_on=frozenset(scans.sha256),
            report=lambda done, total: report(Progress("prepare", done, total)),
        )
    digest = _compute_digest(divided.scans, divided.split)
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
            digest,
            divided.scans.sources,
        ),
        request.settings,
        request.out,
        resume=request.resume,
        report=lambda done, total, row: report(Progress("fit", done, total, row)),
        judge=Teachers(taught_by, divided.task.labels, digest).judge if taught_by else None,
    )
    report(Progress("evaluate", 0, len(Part)))
    at_once, seed = architecture.input.scored_at_once, request.settings.seed
    scaling = calibrate(request.out, divided, at_once, seed, site) if request.settings.calibrate else None
    model = load_checkpoint(request.out)
    scored = score_parts(model, divided, at_once, site=site)
    gate = fit_gate(request.out, model, divided, architecture.input)
    points = choose_operating_points(scored.chosen_on, scored.parts[Part.HOLD_OUT], seed=seed) if scaling else {}
    # The hold-out last: a report is about its last part.
    scores: dict[str, PartScores] = {part: scored.parts[part] for part in (Part.TRAIN, Part.VALIDATION)}
    if site is not None and scored.site is not None:
        scores[site.name] = scored.site
    scores[Part.HOLD_OUT] = scored.parts[Part.HOLD_OUT]
    evaluations, metrics = {}, {}
    for done, (name, part) in enumerate(scores.items(), start=1):
        evaluations[name] = evaluate(part, majority=find_majority(divided), seed=seed)
        band = measure_band(part, span_abstain_band(points), seed=seed) if points else {}
        metrics[name] = {**evaluations[name].card_figures, **band}
        report(Progress("evaluate", min(done, len(Part)), len(Part)))
    del metrics[Part.TRAIN]
    outcome = Outcome(
        dataset,
        architecture,
        request.settings,
        request.shares,
        request.choices.split_by,
        scores[Part.HOLD_OUT].threshold,
        metrics,
        history,
        scaling,
        points,
        gate,
        site,
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
            parts={str(name): ReportPart(part, evaluations[name]) for name, part in scores.items()},
            mistakes=find_mistakes(divided.scans, divided.split[Part.HOLD_OUT], scores[Part.HOLD_OUT]),
        ),
    )
    return record, card


def _train_teacher(request: Request, seed: int, report: Callable[[Progress], None]) -> Path:
    """Train a teacher, or go on with it; returns its folder."""
    out = request.out.with_name(f"{request.out.name}-teacher-{seed}")
    settings = replace(request.settings, seed=seed)
    alone = replace(request, out=out, settings=settings, teachers=(), teacher_seeds=())
    train(alone, report=lambda told: report(replace(told, stage=f"teacher {seed}, {told.stage}")))
    return out


def _compute_digest(scans: PreparedScans, split: Mapping[Part, Indices]) -> str:
    """Return the SHA-256 over the digests and targets of all scans, part by part, in the order of the training."""
    lines = [
        f"{part} {scans.sha256[index]} {scans.targets[index]:g}" for part in Part for index in split[part].tolist()
    ]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
