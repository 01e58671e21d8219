"""Reading what a trainer left: `training.json`, the draft of a card, the checkpoint, and the prepared scans."""

import hashlib
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from nightread.errors import ExportError
from nightread.model.card import Label, Threshold
from nightread.scan.preprocessing import PREPROCESSING_VERSION, InputSpec, Tensor

COMPONENTS_COUNT: Final = 8

_Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class FittedGate:
    """What `gate.npz` of a training folder holds.

    Attributes:
        layers: names of the layers whose channels, averaged over the picture, are the D features.
        mean: (D,) of the training scans.
        projection: (D, D), to directions in which the training scans vary independently with a deviation of 1.
        distances: (N,) of the hold-out's scans, as Keras and numpy computed them.
    """

    layers: tuple[str, ...]
    mean: _Floats
    projection: _Floats
    distances: _Floats


def read_gate(content: bytes) -> FittedGate:
    """Read `gate.npz`.

    Raises:
        ExportError: it does not hold together.
    """
    with np.load(BytesIO(content), allow_pickle=False) as arrays:
        gate = FittedGate(tuple(arrays["layers"].tolist()), arrays["mean"], arrays["projection"], arrays["distances"])
    size = len(gate.mean)
    if gate.projection.shape != (size, size) or size <= COMPONENTS_COUNT or not gate.layers:
        raise ExportError("gate.npz holds no gate; repeat `nightread train --resume` on the training folder")
    return gate


RECORD_FILE: Final = "training.json"

CARD_FILE: Final = "card.json"

PREPARED_FILE: Final = "prepared.npz"

CHECKPOINT_FILE: Final = "checkpoint.keras"

GATE_FILE: Final = "gate.npz"


#: Components that are stored with each scan; see the table `measurements`.
COMPONENTS: Final = 8


_RECORD_FILE: Final = "training.json"
_CARD_FILE: Final = "card.json"
_CHECKPOINT_FILE: Final = "checkpoint.keras"
_PREPARED_FILE: Final = "prepared.npz"
_GATE_FILE: Final = "gate.npz"


class _CardFields(BaseModel):
    """The fields of a card that an export itself looks at; the card as a whole is checked when it is written."""

    model_config = ConfigDict(frozen=True, extra="allow")

    labels: tuple[Label, ...]
    thresholds: dict[str, Threshold]
    input: InputSpec
    preprocessing_version: str


class _Record(BaseModel):
    """What is read of `training.json`; the rest is for people."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    schema_version: int = Field(ge=1, le=1)
    sha256: dict[str, str]


@dataclass(frozen=True, slots=True)
class TrainingFolder:
    """A finished training whose files are those that it ended with.

    Attributes:
        checkpoint: the Keras file.
        input: the network's input.
        labels: in output order.
        thresholds: of the labels, in output order; empty where the highest score decides.
        scans: (N, H, W, C) float32, prepared hold-out scans.
        targets: (N, labels), whether each label is present; None in a folder from before they were kept.
        sha256: of each hold-out scan's file; None, the same.
        calibration: (M, H, W, C) float32, prepared training scans; None, the same.
        card: the fields of the card that training knows.
        gate: the input gate as it was fitted; None where the network has none.
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
        """Return the labels that are present in the hold-out scan at this place, or the lack of any."""
        if self.targets is None:
            return ""
        return ", ".join(label for label, target in zip(self.labels, self.targets[place], strict=True) if target)


def read_training_folder(folder: Path) -> TrainingFolder:
    """Read a training folder.

    Raises:
        ExportError: not a finished training, a file has changed since, or another preprocessing version. The draft of
            the card may have been edited: whether its texts and thresholds hold is checked when the card is written.
    """
    reading = folder / _RECORD_FILE
    try:
        record = _Record.model_validate_json(reading.read_bytes())
        reading = folder / _CARD_FILE
        card = _CardFields.model_validate_json(reading.read_bytes())
        names = [_CHECKPOINT_FILE, _PREPARED_FILE, *([_GATE_FILE] if _GATE_FILE in record.sha256 else [])]
        contents = {name: (folder / name).read_bytes() for name in names}
    except OSError as error:
        raise ExportError(
            f"{folder} holds no finished training: {Path(str(error.filename)).name} cannot be read; "
            "name the folder that `nightread train --out` wrote, or end the training with --resume"
        ) from None
    except ValidationError as error:
        fault = error.errors(include_input=False, include_url=False)[0]
        raise ExportError(
            f"{reading} does not hold: {'.'.join(map(str, fault['loc']))}: {fault['msg']}; "
            "repeat `nightread train --resume`"
        ) from None
    for name, content in contents.items():
        if hashlib.sha256(content).hexdigest() != record.sha256.get(name):
            raise ExportError(
                f"{folder / name} has changed since the training ended; repeat `nightread train --resume` on the folder"
            )
    if card.preprocessing_version != PREPROCESSING_VERSION:
        raise ExportError(
            f"{folder} was trained with preprocessing version {card.preprocessing_version}; this program has version "
            f"{PREPROCESSING_VERSION}: train again"
        )
    with np.load(BytesIO(contents[_PREPARED_FILE]), allow_pickle=False) as arrays:
        scans: Tensor = arrays["inputs"]
        targets = arrays["targets"].reshape(len(scans), -1) > 0.5 if "targets" in arrays else None
        sha256 = tuple(digest.decode() for digest in arrays["sha256"].tolist()) if "sha256" in arrays else None
        calibration: Tensor | None = arrays.get("calibration")
    for inputs in (scans, scans if calibration is None else calibration):
        if inputs.shape[1:] != card.input.shape or inputs.dtype != np.float32 or not len(inputs):
            raise ExportError(
                f"{folder / _PREPARED_FILE} holds {inputs.dtype} {inputs.shape}, which is no input of the network"
            )
    if targets is not None and targets.shape != (len(scans), len(card.labels)):
        raise ExportError(f"{folder / _PREPARED_FILE} holds targets {targets.shape} for {len(scans)} scans and "
                          f"{len(card.labels)} labels; repeat `nightread train --resume` on the folder")  # fmt: skip
    thresholds = tuple(card.thresholds[label] for label in card.labels if label in card.thresholds)
    return TrainingFolder(
        folder / _CHECKPOINT_FILE,
        card.input,
        card.labels,
        thresholds,
        scans,
        targets,
        sha256,
        calibration,
        card.model_dump(mode="json"),
        read_gate(contents[_GATE_FILE]) if _GATE_FILE in contents else None,
    )


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
        unreadable: scans that could not be read, by name, with the reason.
        missing: names of scans that a table of the data set names and no folder holds.
        too_few_patients: labels that were left out, with their patients: a split by patient needs three of each.
        labels: scans by part and label.
        input_wait_share: how much of all epochs' time the steps waited for their batches.
        sha256: of the checkpoint, of the prepared scans, and of the input gate where there is one.
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
