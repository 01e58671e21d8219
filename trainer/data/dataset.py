"""What a data set is to the trainer: its scans with their labels and patients, and the facts that a card must tell."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Literal


class SplitBy(StrEnum):
    """How scans are divided."""

    PATIENT = "patient"  # no patient, and no file, on two sides
    ARTICLE = "article"  # scan by scan, as the articles did: a patient's scans, and copies of a file, on several sides


class Rare(StrEnum):
    """What becomes of the scans of a label that has too few."""

    DROP = "drop"
    MERGE = "merge"  # into one label, `Other`


@dataclass(frozen=True, slots=True)
class Choices:
    """What a user may choose about the reading of a data set.

    Attributes:
        split_by: the pediatric article joined all parts of its data, so its split reads them all.
        subtypes: pediatric: the labels are normal, bacterial and viral.
        healthy: covid: the CSV file that lists healthy scans; None looks for it beside the data.
        normals: covid: how many healthy scans are taken at most.
        min_per_label: a label with fewer scans is rare.
        rare: what becomes of the scans of rare labels.
    """

    split_by: SplitBy = SplitBy.PATIENT
    subtypes: bool = False
    healthy: Path | None = None
    normals: int = 150
    min_per_label: int = 1
    rare: Rare = Rare.DROP


@dataclass(frozen=True, slots=True)
class Task:
    """What a network is to tell.

    Attributes:
        labels: in the order of the network's outputs.
        activation: `sigmoid`: one label, present or not; `softmax`: exactly one of the labels.
        negative_decision: with `sigmoid`, what a scan without the label is called.
    """

    labels: tuple[str, ...]
    activation: Literal["sigmoid", "softmax"]
    negative_decision: str = "normal"

    @property
    def classes(self) -> tuple[str, ...]:
        """What a scan can be, in the order of its targets: 0 is the first."""
        return self.labels if self.activation == "softmax" else (self.negative_decision, *self.labels)


@dataclass(frozen=True, slots=True)
class LabelledScan:
    """One scan of a data set, not yet read.

    Attributes:
        path: absolute, not resolved.
        label: one of the task's classes.
        patient: the patient as the data set tells it.
        kin: shared by patients that may be one person; such patients never stand on two sides of a split.
        subgroup: a finer label that figures are told for, such as `bacterial`; empty for none.
    """

    path: str
    label: str
    patient: str
    kin: str
    subgroup: str = ""


@dataclass(frozen=True, slots=True)
class Listing:
    """What a reader found in a folder.

    Attributes:
        task: what a network is to tell about these scans.
        scans: in an order that depends on the data alone.
        left_alone: how many files, or rows of a table, were passed over, by reason.
        without_patient: scans of which no patient is told; each counts as a patient of its own.
        roots: the folders below which the scans lie; links that lead out of them are not followed.
        missing: names of scans that a table names and no folder holds.
    """

    task: Task
    scans: tuple[LabelledScan, ...]
    left_alone: Mapping[str, int]
    without_patient: int
    roots: tuple[Path, ...]
    missing: tuple[str, ...] = field(default=())


@dataclass(frozen=True, slots=True)
class Dataset:
    """A data set that can be trained on.

    Attributes:
        name: as on the command line.
        finding: what networks look for, for the card's description.
        data_source: title, edition and identifier.
        license: of the data; a bundle that carries some of them carries this too.
        attribution: whom the licence asks to name.
        intended_use: what a network trained on these data may be used for.
        limitations: what a user of such a network must know, whatever its architecture.
        population: whose scans they are.
        not_tested: what no figure of such a network speaks of.
        article_shares: percent of the scans that the article gave to train, validation and test.
        list_scans: lists a folder; raises `DatasetError` where nothing can be trained on it.
    """

    name: str
    finding: str
    data_source: str
    license: str
    attribution: str
    intended_use: str
    limitations: tuple[str, ...]
    article_shares: str
    list_scans: Callable[[Path, Choices], Listing]
    population: str = ""
    not_tested: tuple[str, ...] = ()
