"""Training folders: what a trainer writes and an exporter reads (record, draft card, checkpoint, prepared scans)."""

import hashlib
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from nightread.errors import ExportError
from nightread.field_faults import list_faults
from nightread.model.card import Label, Threshold
from nightread.scan.preprocessing import KNOWN_VERSIONS, SHOWN_VERSIONS, InputSpec, Tensor, complete_input

RECORD_FILE: Final = "training.json"
CARD_FILE: Final = "card.json"
PREPARED_FILE: Final = "prepared.npz"
CHECKPOINT_FILE: Final = "checkpoint.keras"
GATE_FILE: Final = "gate.npz"

#: Number of principal components that are stored with each scan; see the table `measurements`.
COMPONENTS_COUNT: Final = 8

_Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class FittedGate:
    """Content of `gate.npz`, the fitted input gate.

    Attributes:
        layers: names of the layers whose channels, averaged over the picture, are the D features.
        mean: (D,) float32, mean features of the training scans.
        projection: (D, D) float32, whitening matrix of the training scans' features.
        distances: (N,) float32, distances of the hold-out's scans, computed by Keras and numpy.
        misplaced: (D,) float32, weights of the whitened features; their sum rises for inverted and turned scans.
        misplaced_at: added to that sum; above 0 it counts in the distance.
        placement: (D, 5) float32, weights of the whitened features for the logits of an upright scan and of each of
            `nightread.model.gate.VARIANTS`; None in folders of older releases.
        placement_at: (5,) float32, added to those logits.
    """

    layers: tuple[str, ...]
    mean: _Floats
    projection: _Floats
    distances: _Floats
    misplaced: _Floats
    misplaced_at: float
    placement: _Floats | None = None
    placement_at: _Floats | None = None


def read_gate(content: bytes) -> FittedGate:
    """Read `gate.npz`.

    Raises:
        ExportError: its arrays do not fit together.
    """
    with np.load(BytesIO(content), allow_pickle=False) as arrays:
        size = len(arrays["mean"])
        gate = FittedGate(
            tuple(arrays["layers"].tolist()),
            arrays["mean"],
            arrays["projection"],
            arrays["distances"],
            arrays.get("misplaced", np.zeros(size, np.float32)),  # folders of older programs have none
            float(arrays.get("misplaced_at", 0.0)),
            arrays.get("placement"),
            arrays.get("placement_at"),
        )
    if gate.projection.shape != (size, size) or size <= COMPONENTS_COUNT or not gate.layers:
        raise ExportError("gate.npz holds no valid gate; repeat `nightread train --resume` on the training folder")
    return gate


class _CardFields(BaseModel):
    """The card fields that an export uses; the whole card is validated when the bundle is written."""

    model_config = ConfigDict(frozen=True, extra="allow")

    labels: tuple[Label, ...]
    thresholds: dict[str, Threshold]
    input: InputSpec
    preprocessing_version: str

    _complete_input = model_validator(mode="before")(complete_input)


class _Record(BaseModel):
    """The fields of `training.json` that an export uses; the others are for people."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    schema_version: int = Field(ge=1, le=1)
    sha256: dict[str, str]


@dataclass(frozen=True, slots=True)
class TrainingFolder:
    """A finished training with unchanged files.

    Attributes:
        checkpoint: path of the Keras file.
        input: the network's input.
        labels: labels in output order.
        thresholds: thresholds in output order; empty if the highest score decides (softmax).
        scans: (N, H, W, C) float32, prepared hold-out scans.
        targets: (N, labels) bool, whether each label is present; None in folders of older releases.
        sha256: (N,) digests of the hold-out scans' files; None in folders of older releases.
        calibration: (M, H, W, C) float32, prepared training scans; None in folders of older releases.
        card: draft card: the fields that training knows.
        gate: the fitted input gate; None if the network has none.
    """

    checkpoint: Path
    input: InputSpec
    labels: tuple[str, ...]
    thresholds: tuple[Threshold, ...]
    scans: Tensor
    targets: npt.NDArray[np.bool_] | None
    sha256: tuple[str, ...] | None
    calibration: Tensor | None
    card: dict[str, Any]
    gate: FittedGate | None = None

    def name_group(self, place: int) -> str:
        """Return the labels that are present in the hold-out scan at index `place`, comma-separated."""
        if self.targets is None:
            return ""
        return ", ".join(label for label, target in zip(self.labels, self.targets[place], strict=True) if target)


def read_training_folder(folder: Path) -> TrainingFolder:
    """Read a training folder.

    Raises:
        ExportError: the training is not finished, a file has changed since, or the preprocessing version differs. The
            draft card may be edited by hand: its texts and thresholds are validated when the bundle is written.
    """
    reading = folder / RECORD_FILE
    try:
        record = _Record.model_validate_json(reading.read_bytes())
        reading = folder / CARD_FILE
        card = _CardFields.model_validate_json(reading.read_bytes())
        names = [CHECKPOINT_FILE, PREPARED_FILE, *([GATE_FILE] if GATE_FILE in record.sha256 else [])]
        contents = {name: (folder / name).read_bytes() for name in names}
    except OSError as error:
        raise ExportError(
            f"{folder} holds no finished training: {Path(str(error.filename)).name} cannot be read; "
            "name the folder that `nightread train --out` wrote, or end the training with --resume"
        ) from None
    except ValidationError as error:
        raise ExportError(
            f"{reading} is not valid: {'; '.join(list_faults(error, 'it'))}; repeat `nightread train --resume`"
        ) from None
    for name, content in contents.items():
        if hashlib.sha256(content).hexdigest() != record.sha256.get(name):
            raise ExportError(
                f"{folder / name} has changed since the training ended; repeat `nightread train --resume` on the folder"
            )
    if card.preprocessing_version not in KNOWN_VERSIONS:
        raise ExportError(
            f"{folder} was trained with preprocessing version {card.preprocessing_version}; this program has "
            f"{SHOWN_VERSIONS}: train again"
        )
    with np.load(BytesIO(contents[PREPARED_FILE]), allow_pickle=False) as arrays:
        scans: Tensor = arrays["inputs"]
        targets = arrays["targets"].reshape(len(scans), -1) > 0.5 if "targets" in arrays else None
        sha256 = tuple(digest.decode() for digest in arrays["sha256"].tolist()) if "sha256" in arrays else None
        calibration: Tensor | None = arrays.get("calibration")
    for inputs in (scans, scans if calibration is None else calibration):
        if inputs.shape[1:] != card.input.shape or inputs.dtype != np.float32 or not len(inputs):
            raise ExportError(
                f"{folder / PREPARED_FILE} holds {inputs.dtype} {inputs.shape}; the network takes float32 "
                f"(N, {', '.join(map(str, card.input.shape))})"
            )
    if targets is not None and targets.shape != (len(scans), len(card.labels)):
        raise ExportError(
            f"{folder / PREPARED_FILE} holds targets {targets.shape} for {len(scans)} scans and {len(card.labels)} "
            "labels; repeat `nightread train --resume` on the folder"
        )
    thresholds = tuple(card.thresholds[label] for label in card.labels if label in card.thresholds)
    gate = read_gate(contents[GATE_FILE]) if GATE_FILE in contents else None
    draft = card.model_dump(mode="json")
    checkpoint = folder / CHECKPOINT_FILE
    return TrainingFolder(
        checkpoint, card.input, card.labels, thresholds, scans, targets, sha256, calibration, draft, gate
    )


class Record(BaseModel):
    """The content of `training.json`.

    Attributes:
        epochs_done: number of epochs that were run.
        best_epoch: epoch whose weights the checkpoint holds.
        seconds: duration of all epochs.
        scans: number of scans by part.
        patients: number of patients by part.
        left_alone: number of skipped files by reason.
        without_patient: number of scans whose names identify no patient; each counts as a patient of its own.
        unreadable: reasons of unreadable scans by name.
        missing: names of scans that are listed in a table of the data set but missing in its folders.
        too_few_patients: patients by excluded label: a split by patient needs three per label.
        labels: number of scans by part and label.
        input_wait_share: share of the epochs' time that steps waited for their batches.
        sha256: digests of the checkpoint, the prepared scans and the input gate, by file name.
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
    missing: tuple[str, ...] = ()
    too_few_patients: dict[str, int] = {}
    labels: dict[str, dict[str, int]]
    input_wait_share: float
    sha256: dict[str, str]
