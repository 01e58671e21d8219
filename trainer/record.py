"""Record of a training: `training.json`, the draft of a card, and the prepared scans that an export is checked on.

`card.json` holds the fields of a card that the training knows, as `nightread.model.card` names them; its texts may be
edited before the export. Trainer and exporter share these files and the checkpoint, and nothing else.
"""

import hashlib
import json
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from nightread.model.card import Gate, Metric, OperatingPoint, Scaling, Threshold, Training
from nightread.model.training_folder import CARD_FILE, CHECKPOINT_FILE, GATE_FILE, PREPARED_FILE, RECORD_FILE, Record
from nightread.scan.preprocessing import PREPROCESSING_VERSION
from trainer.architectures.architecture import Architecture
from trainer.data.dataset import Dataset, Listing, SplitBy, Task
from trainer.data.site import Site
from trainer.data.split import Divided, Indices, Part, Shares, Targets
from trainer.evaluation.operating_points import span_abstain_band
from trainer.fit.history import EpochRow, find_best
from trainer.fit.hyperparameters import FitSettings

#: Prepared training scans that are kept to calibrate int8: enough for stable ranges, and small.
_CALIBRATION_SCANS = 256

_SPLITS: Final = {
    SplitBy.PATIENT: "by patient, stratified by label; identical files, and patients that may be one person, on one "
    "side",
    SplitBy.ARTICLE: "scan by scan at random, as in the article: a patient's scans, and copies of a file, stand on "
    "several sides, so the figures flatter",
}

_PACKAGES = ("tensorflow", "keras", "numpy", "pillow", "pydicom")

_NOT_CALIBRATED = (
    "Not calibrated: the output of a {activation} after training on these shares of labels: {shares}. It is a score "
    "that orders scans, not a probability."
)


_CALIBRATED = (
    "Calibrated: of scans like those of the data set's own patients, with the share of {labels} that it has "
    "({shares}), about so many in a hundred have the label as the score says (Platt scaling on patients that the "
    "network was not fitted on). Where the label is rarer or more frequent, as in most wards, or where patients, "
    "devices or exposure are others, it is a score that orders scans, and no probability. {chosen_on}"
)


@dataclass(frozen=True, slots=True)
class Outcome:
    """Result of a training."""

    dataset: Dataset
    architecture: Architecture
    settings: FitSettings
    shares: Shares
    split_by: SplitBy
    threshold: float | None
    metrics: Mapping[str, Mapping[str, Metric]]
    history: list[EpochRow]
    scaling: Scaling | None = None
    operating_points: Mapping[str, OperatingPoint] = field(default_factory=dict)
    gate: Gate | None = None
    site: Site | None = None


def write_record(folder: Path, outcome: Outcome, listing: Listing, divided: Divided) -> tuple[Record, dict[str, Any]]:
    """Write `training.json`, `card.json` and `prepared.npz` into a training folder that holds its checkpoint.

    Returns:
        The content of the first two.
    """
    task, scans, split = divided.task, divided.scans, divided.split
    hold_out = split[Part.HOLD_OUT]
    np.savez_compressed(
        folder / PREPARED_FILE,
        inputs=scans.inputs[hold_out],
        targets=_mark_labels(scans.targets[hold_out], task),
        sha256=np.array([scans.sha256[index] for index in hold_out.tolist()], "S64"),
        calibration=scans.inputs[_spread(split[Part.TRAIN], _CALIBRATION_SCANS)],
    )
    scan_counts = {part.value: len(split[part]) for part in Part}
    patient_counts = {part.value: len({scans.scans[index].patient for index in split[part].tolist()}) for part in Part}
    label_counts = {part.value: _count_labels(scans.targets[split[part]], task) for part in Part}
    if (site := outcome.site) is not None:
        scan_counts[site.name] = len(site.scans.scans)
        patient_counts[site.name] = len({scan.patient for scan in site.scans.scans})
        label_counts[site.name] = _count_labels(site.scans.targets, task)
    seconds = sum(row.seconds for row in outcome.history)
    record = Record(
        epochs_done=len(outcome.history),
        best_epoch=find_best(outcome.history, outcome.settings.monitor).epoch,
        seconds=round(seconds, 1),
        scans=scan_counts,
        patients=patient_counts,
        left_alone=dict(listing.left_alone),
        without_patient=listing.without_patient,
        unreadable={Path(scan.path).name: scan.reason.value for scan in scans.unreadable},
        missing=listing.missing,
        too_few_patients=dict(divided.too_few_patients),
        labels=label_counts,
        input_wait_share=round(sum(row.input_wait_s for row in outcome.history) / max(seconds, 1e-9), 4),
        sha256={
            name: hashlib.sha256((folder / name).read_bytes()).hexdigest()
            for name in (CHECKPOINT_FILE, PREPARED_FILE, *([GATE_FILE] if outcome.gate else []))
        },
    )
    card = _describe(outcome, task, scan_counts, patient_counts, label_counts[Part.TRAIN.value])
    for name, content in ((CARD_FILE, card), (RECORD_FILE, record.model_dump(mode="json"))):
        (folder / name).write_text(json.dumps(content, indent=2) + "\n")
    return record, card


def _count_labels(targets: Targets, task: Task) -> dict[str, int]:
    counts = np.bincount(targets, minlength=len(task.classes))
    return dict(zip(task.classes, counts.tolist(), strict=True))


def _mark_labels(targets: Targets, task: Task) -> npt.NDArray[np.float32]:
    """Return (N, L) float32: 1 if a label is present, else 0."""
    present: npt.NDArray[np.float32] = np.eye(len(task.classes), dtype=np.float32)[targets]
    return present[:, -len(task.labels) :]


def _describe(
    outcome: Outcome,
    task: Task,
    scan_counts: dict[str, int],
    patient_counts: dict[str, int],
    trained_on: dict[str, int],
) -> dict[str, Any]:
    """Return the fields of `nightread.model.card.Card` that the training knows."""
    dataset, architecture, settings = outcome.dataset, outcome.architecture, outcome.settings
    training = Training(
        data_source=dataset.data_source,
        license=dataset.license,
        attribution=dataset.attribution,
        split=f"{_SPLITS[outcome.split_by]}; {outcome.shares} percent of the scans for train, validation and hold-out",
        scans=scan_counts,
        patients=patient_counts,
        seed=settings.seed,
        hyperparameters={
            **asdict(settings),
            # Only the name of a file of weights: its folder is private.
            "backbone_weights": Path(settings.backbone_weights).name,
            "epochs": len(outcome.history),
            "best_epoch": find_best(outcome.history, settings.monitor).epoch,
            "loss": "binary cross-entropy" if task.activation == "sigmoid" else "categorical cross-entropy",
            "checkpoint": f"best {settings.monitor}",
            "threshold": f"best balanced accuracy on {_name_chosen_on(outcome)}"
            if task.activation == "sigmoid"
            else "highest score",
        },
        packages={"python": platform.python_version(), **{name: version(name) for name in _PACKAGES}},
    )
    total = sum(trained_on.values())
    shares = ", ".join(f"{label} {100 * count / total:.1f} %" for label, count in trained_on.items())
    thresholds = _choose_thresholds(outcome, task)
    calibration = _NOT_CALIBRATED if outcome.scaling is None else _CALIBRATED
    return {
        "description": f"{dataset.finding.capitalize()} on chest X-rays. {architecture.description}.",
        "architecture": architecture.name,
        "labels": list(task.labels),
        "activation": task.activation,
        "negative_decision": task.negative_decision,
        "thresholds": {label: threshold.model_dump(mode="json") for label, threshold in thresholds.items()},
        "calibration": calibration.format(
            activation=task.activation,
            shares=shares,
            labels=", ".join(task.labels),
            chosen_on=_tell_chosen_on(outcome, scan_counts),
        ),
        "scaling": None if outcome.scaling is None else outcome.scaling.model_dump(mode="json"),
        "gate": None if outcome.gate is None else outcome.gate.model_dump(mode="json"),
        "operating_points": {
            task.labels[0]: {name: point.model_dump(mode="json") for name, point in outcome.operating_points.items()}
        }
        if outcome.operating_points
        else {},
        "input": architecture.input.model_dump(mode="json"),
        "preprocessing_version": PREPROCESSING_VERSION,
        "training": training.model_dump(mode="json"),
        "metrics": {
            str(part): {name: metric.model_dump(mode="json") for name, metric in metrics.items()}
            for part, metrics in outcome.metrics.items()
        },
        "intended_use": dataset.intended_use,
        "limitations": list(dataset.limitations),
        "population": dataset.population,
        "not_tested": list(dataset.not_tested),
    }


def _name_chosen_on(outcome: Outcome) -> str:
    """Name the scans on which thresholds and calibration were chosen."""
    return "validation" if outcome.site is None else f"validation and {outcome.site.name}"


def _tell_chosen_on(outcome: Outcome, scans: Mapping[str, int]) -> str:
    """Say on which scans thresholds and calibration were chosen, and the share of each."""
    if outcome.site is None:
        return (
            "Thresholds, abstain band and scaling were chosen on the validation part alone: no other site was at hand."
        )
    names = (Part.VALIDATION.value, outcome.site.name)
    weights = (1, max(1, scans[names[0]] // scans[names[1]]))
    total = sum(weight * scans[name] for name, weight in zip(names, weights, strict=True))
    shares = " and ".join(
        f"{scans[name]} scans of {name} ({weight * scans[name] / total:.0%} of the weight)"
        for name, weight in zip(names, weights, strict=True)
    )
    return (
        f"Thresholds, abstain band and scaling were chosen on {shares}; no weight was fitted on them. Figures of "
        f"{outcome.site.name} are therefore not figures of an unseen site."
    )


def _choose_thresholds(outcome: Outcome, task: Task) -> dict[str, Threshold]:
    """Return the thresholds of the decisions: an abstain band with operating points, else low equal to high."""
    if outcome.operating_points:
        return {task.labels[0]: span_abstain_band(outcome.operating_points)}
    return (
        {} if outcome.threshold is None else {task.labels[0]: Threshold(low=outcome.threshold, high=outcome.threshold)}
    )


def _spread(indices: Indices, count: int) -> Indices:
    """Return at most `count` of the indices, evenly spread: scans are listed label by label."""
    return indices[np.linspace(0, len(indices) - 1, min(count, len(indices))).astype(np.int64)]
