"""Types of a data set: scans with labels and patients, and the facts that a card must state."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Literal


class SplitBy(StrEnum):
    """How scans are split."""

    PATIENT = "patient"  # no patient and no file on two sides
    ARTICLE = "article"  # scan by scan, as in the articles: a patient may stand on several sides


class Rare(StrEnum):
    """Treatment of labels with too few scans."""

    DROP = "drop"
    MERGE = "merge"  # into one label, `Other`


@dataclass(frozen=True, slots=True)
class Choices:
    """Options of reading a data set.

    Attributes:
        split_by: also decides what is read: the pediatric article joined all parts of its data.
        subtypes: pediatric: the labels are normal, bacterial and viral.
        healthy: covid: CSV file that lists healthy scans; None: search beside the data.
        normals: covid: most healthy scans.
        min_per_label: a label with fewer scans is rare.
        rare: treatment of rare labels.
        negative: own: the label of scans without the finding; "": recognised by its name.
    """

    split_by: SplitBy = SplitBy.PATIENT
    subtypes: bool = False
    healthy: Path | None = None
    normals: int = 150
    min_per_label: int = 1
    rare: Rare = Rare.DROP
    negative: str = ""


@dataclass(frozen=True, slots=True)
class Task:
    """The labels of a network.

    Attributes:
        labels: in the order of the network's outputs.
        activation: `sigmoid`: one label, present or absent; `softmax`: exactly one of the labels.
        negative_decision: with `sigmoid`, the decision for a scan without the label.
    """

    labels: tuple[str, ...]
    activation: Literal["sigmoid", "softmax"]
    negative_decision: str = "normal"

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes of a scan; a target is an index into them."""
        return self.labels if self.activation == "softmax" else (self.negative_decision, *self.labels)


@dataclass(frozen=True, slots=True)
class LabelledScan:
    """One scan of a data set, not yet read.

    Attributes:
        path: absolute, not resolved.
        label: one of the task's classes.
        patient: as the data set names it.
        kin: shared by patients that may be one person; a split keeps them on one side.
        subgroup: finer label with figures of its own, such as `bacterial`; empty for none.
        part: side of a split that the data set gives; empty for none.
    """

    path: str
    label: str
    patient: str
    kin: str
    subgroup: str = ""
    part: str = ""


@dataclass(frozen=True, slots=True)
class Listing:
    """The scans that a reader found in a folder.

    Attributes:
        task: labels of these scans.
        scans: in an order that depends on the data alone.
        left_alone: number of files, or rows of a table, that were left out, by reason.
        without_patient: number of scans without a known patient; each counts as a patient of its own.
        roots: folders that hold the scans; links out of them are not followed.
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
        finding: what networks detect, for the card's description.
        data_source: title, edition and identifier.
        license: of the data, and of bundles that hold some of them.
        attribution: required by the licence.
        intended_use: of a network trained on these data.
        limitations: of such a network, with any architecture.
        population: patients of the scans.
        not_tested: what no figure of such a network covers.
        article_shares: percent of the scans in train, validation and test of the article.
        list_scans: lists a folder; raises `DatasetError` if it cannot be trained on.
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
