"""What a data set is to the trainer: its scans with their labels and patients, and the facts that a card must tell."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class LabelledScan:
    """One scan of a data set, not yet read.

    Attributes:
        path: absolute, not resolved.
        is_positive: whether the data set's label is present.
        patient: the patient as the file's name tells it.
        kin: shared by patients that may be one person; such patients never stand on two sides of a split.
    """

    path: str
    is_positive: bool
    patient: str
    kin: str


@dataclass(frozen=True, slots=True)
class Listing:
    """What a reader found in a folder.

    Attributes:
        scans: sorted by path.
        left_alone: how many files were passed over, by reason.
        without_patient: scans whose names tell no patient; each counts as a patient of its own.
    """

    scans: tuple[LabelledScan, ...]
    left_alone: Mapping[str, int]
    without_patient: int


@dataclass(frozen=True, slots=True)
class Dataset:
    """A data set that can be trained on.

    Attributes:
        name: as on the command line.
        label: the finding that is present in positive scans.
        negative_decision: what a scan without it is called.
        data_source: title, edition and identifier.
        license: of the data; a bundle that carries some of them carries this too.
        attribution: whom the licence asks to name.
        intended_use: what a network trained on these data may be used for.
        limitations: what a user of such a network must know, whatever its architecture.
        list_scans: lists a folder; raises `DatasetError` where nothing can be trained on it.
    """

    name: str
    label: str
    negative_decision: str
    data_source: str
    license: str
    attribution: str
    intended_use: str
    limitations: tuple[str, ...]
    list_scans: Callable[[Path], Listing]
