"""The record of a training: `training.json` and the prepared scans that an export is checked and calibrated on.

`training.json` holds, under `card`, the fields of a bundle's card that training knows, as `nightread.card` names them.
That file and the checkpoint are all that trainer and exporter share.
"""

import hashlib
import json
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import numpy as np
from pydantic import BaseModel, ConfigDict

from nightread.card import Metric, Threshold, Training
from nightread.preparing import PREPROCESSING_VERSION
from trainer import fitting
from trainer.architectures import Architecture
from trainer.datasets import Dataset, Listing
from trainer.preparation import PreparedScans
from trainer.splitting import Indices, Part, Shares

RECORD_FILE: Final = "training.json"
PREPARED_FILE: Final = "prepared.npz"

#: Prepared training scans that are kept for the exporter to calibrate int8 on: enough for stable ranges, and small.
_CALIBRATION_SCANS = 256

_PACKAGES = ("tensorflow", "keras", "numpy", "pillow", "pydicom")

_NOT_CALIBRATED = (
    "Not calibrated: the output of a sigmoid after training on about three pneumonia scans to one normal. It is a "
    "score that orders scans, not a probability of pneumonia."
)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a training ended with."""

    dataset: Dataset
    architecture: Architecture
    settings: fitting.FitSettings
    shares: Shares
    threshold: float
    metrics: Mapping[Part, Mapping[str, Metric]]
    history: list[fitting.EpochRow]


class Record(BaseModel):
    """The content of `training.json`.

    Attributes:
        epochs_done: how many epochs were run.
        best_epoch: whose weights the checkpoint holds.
        seconds: of all epochs.
        scans: scans by part.
        patients: patients by part.
        left_alone: files that were passed over, by reason.
        without_patient: scans whose names tell no patient; each counts as a patient of its own.
        unreadable: scans that could not be read, by path, with the reason.
        sha256: of the checkpoint and of the prepared scans.
        card: fields of the card.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: int = 1
    epochs_done: int
    best_epoch: int
    seconds: float
    scans: dict[str, int]
    patients: dict[str, int]
    left_alone: dict[str, int]
    without_patient: int
    unreadable: dict[str, str]
    sha256: dict[str, str]
    card: dict[str, Any]


def write_record(
    folder: Path, outcome: Outcome, listing: Listing, scans: PreparedScans, split: Mapping[Part, Indices]
) -> Record:
    """Write `training.json` and `prepared.npz` into a training folder that holds its checkpoint."""
    hold_out = split[Part.HOLD_OUT]
    np.savez_compressed(
        folder / PREPARED_FILE,
        inputs=scans.inputs[hold_out],
        targets=scans.targets[hold_out],
        sha256=np.array([scans.sha256[index] for index in hold_out.tolist()], "S64"),
        calibration=scans.inputs[_spread(split[Part.TRAIN], _CALIBRATION_SCANS)],
    )
    scan_counts = {part.value: len(split[part]) for part in Part}
    patient_counts = {part.value: len({scans.scans[index].patient for index in split[part].tolist()}) for part in Part}
    record = Record(
        epochs_done=len(outcome.history),
        best_epoch=fitting.find_best(outcome.history).epoch,
        seconds=round(sum(row.seconds for row in outcome.history), 1),
        scans=scan_counts,
        patients=patient_counts,
        left_alone=dict(listing.left_alone),
        without_patient=listing.without_patient,
        unreadable={Path(scan.path).name: scan.reason.value for scan in scans.unreadable},
        sha256={
            name: hashlib.sha256((folder / name).read_bytes()).hexdigest()
            for name in (fitting.CHECKPOINT_FILE, PREPARED_FILE)
        },
        card=_describe(outcome, scan_counts, patient_counts),
    )
    (folder / RECORD_FILE).write_text(json.dumps(record.model_dump(mode="json"), indent=2) + "\n")
    return record


def _describe(outcome: Outcome, scan_counts: dict[str, int], patient_counts: dict[str, int]) -> dict[str, Any]:
    """Return the fields of `nightread.card.Card` that training knows."""
    dataset, architecture = outcome.dataset, outcome.architecture
    training = Training(
        data_source=dataset.data_source,
        license=dataset.license,
        attribution=dataset.attribution,
        split=f"by patient, stratified by label, {outcome.shares} percent of the scans for train, validation and "
        "hold-out; identical files, and patients that may be one person, on one side",
        scans=scan_counts,
        patients=patient_counts,
        seed=outcome.settings.seed,
        hyperparameters={
            **asdict(outcome.settings),
            "epochs": len(outcome.history),
            "best_epoch": fitting.find_best(outcome.history).epoch,
            "optimizer": "SGD",
            "loss": "binary cross-entropy",
            "checkpoint": "best validation accuracy",
            "threshold": "best balanced accuracy on validation",
        },
        packages={"python": platform.python_version(), **{name: version(name) for name in _PACKAGES}},
    )
    return {
        "description": f"{dataset.label.capitalize()} on chest X-rays. {architecture.description}.",
        "architecture": architecture.name,
        "labels": [dataset.label],
        "activation": "sigmoid",
        "negative_decision": dataset.negative_decision,
        "thresholds": {dataset.label: Threshold(low=outcome.threshold, high=outcome.threshold).model_dump(mode="json")},
        "calibration": _NOT_CALIBRATED,
        "input": architecture.input.model_dump(mode="json"),
        "preprocessing_version": PREPROCESSING_VERSION,
        "training": training.model_dump(mode="json"),
        "metrics": {
            part.value: {name: metric.model_dump(mode="json") for name, metric in metrics.items()}
            for part, metrics in outcome.metrics.items()
        },
        "intended_use": dataset.intended_use,
        "limitations": list(dataset.limitations),
    }


def _spread(indices: Indices, count: int) -> Indices:
    """Return at most `count` of the indices, evenly spread: scans are listed label by label, and both are wanted."""
    return indices[np.linspace(0, len(indices) - 1, min(count, len(indices))).astype(np.int64)]
