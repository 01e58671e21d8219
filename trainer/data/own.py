"""Own labelled scans as a data set: labels of any name, from a CSV file or from folders."""

import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from nightread.model.card import UNCERTAIN
from trainer.data.dataset import Choices, Dataset, LabelledScan, Listing, Task
from trainer.data.labels import LabelRow, read_labels
from trainer.errors import DatasetError

#: Names of a label that mean the absence of the other one.
_NEGATIVES: Final = ("normal", "negative", "healthy", "no finding", "no-finding", "absent", "none", "no", "0")
#: Characters of a file's name that are shown.
_SHOWN: Final = 60
#: Labels that a card accepts.
_LABEL: Final = re.compile(r"[^\x00-\x1f]{1,64}")


def list_own(source: Path, choices: Choices = Choices()) -> Listing:  # noqa: B008 - frozen
    """List own labelled scans.

    Args:
        source: a CSV file, or a folder with one folder for each label; see `trainer.data.labels.read_labels`.
        choices: `negative`.

    Raises:
        DatasetError: the source cannot be read, a label cannot be one of a network, or fewer than two labels have
            scans.
    """
    left_alone: Counter[str] = Counter()
    rows = _drop_repeated(read_labels(source), left_alone)
    present = [row for row in rows if os.path.lexists(row.path)]
    scans = tuple(
        LabelledScan(row.path, row.label, row.patient or row.path, f"own {row.patient or row.path}", "", row.part)
        for row in sorted(present, key=lambda row: row.path)
    )
    missing = tuple(sorted(Path(row.path).name for row in rows if not os.path.lexists(row.path)))
    notes = ""
    if missing:
        notes += f". {len(missing)} files that it names are missing, the first is {missing[0][:_SHOWN]}"
    if contradicted := left_alone["contradicting-labels"]:
        notes += f". {contradicted} files have two labels and were left out"
    task = _find_task(source, sorted({scan.label for scan in scans}), choices.negative, notes)
    return Listing(
        task, scans, left_alone, sum(not row.patient for row in present), _find_roots(scans), missing=missing
    )


def _drop_repeated(rows: Iterable[LabelRow], left_alone: Counter[str]) -> list[LabelRow]:
    """Return each path once, and none that has two labels."""
    found: dict[str, LabelRow] = {}
    contradicted: set[str] = set()
    for row in rows:
        if row.path in found:
            left_alone["named-twice"] += 1
            if found[row.path].label != row.label:
                contradicted.add(row.path)
        found.setdefault(row.path, row)
    left_alone.update({"contradicting-labels": len(contradicted)} if contradicted else {})
    return [row for path, row in found.items() if path not in contradicted]


def _find_task(source: Path, labels: Sequence[str], negative: str, notes: str) -> Task:
    wrong = [label for label in labels if not _LABEL.fullmatch(label) or label == UNCERTAIN]
    if wrong:
        raise DatasetError(
            f"{source}: {wrong[0]!r} cannot be a label; allowed are 1 to 64 characters, not `{UNCERTAIN}`"
        )
    if len(labels) < 2:
        raise DatasetError(
            f"{source} has scans of {len(labels)} labels ({', '.join(labels) or 'none'}); at least two are needed"
            f"{notes}"
        )
    by_case = {label.lower(): label for label in labels}
    if alike := [label for label in labels if by_case[label.lower()] != label]:
        raise DatasetError(
            f"{source}: the labels {alike[0]!r} and {by_case[alike[0].lower()]!r} differ in small and capital letters "
            "alone: write them alike"
        )
    if negative and negative not in labels:
        raise DatasetError(f"{source} has no label {negative!r} that could be the negative one; it has {labels}")
    absent = [negative] if negative else [label for label in labels if label.lower() in _NEGATIVES]
    if len(labels) == 2 and len(absent) == 1:
        return Task(tuple(label for label in labels if label not in absent), "sigmoid", absent[0])
    return Task(tuple(labels), "softmax")


def _find_roots(scans: Sequence[LabelledScan]) -> tuple[Path, ...]:
    """Return the folder that holds all scans: who names files by path means them, wherever they are."""
    return (Path(os.path.commonpath([Path(scan.path).parent for scan in scans])),) if scans else ()


OWN: Final = Dataset(
    name="own",
    finding="own labels",
    data_source="Own labelled scans, not published",
    license="Not stated: ask whoever gave the scans",
    attribution="Not stated. The parity inputs in this bundle are labelled scans, scaled to the network's input",
    intended_use=(
        "Research on scans like those that it was trained on. It is no diagnosis and no medical device, and a normal "
        "decision must not end anybody's care."
    ),
    limitations=(
        "Trained on own labels: nobody but their owner knows the patients, devices, views and readers behind them.",
        "Labels may differ in more than the disease (device, exposure, text marks), and a network can learn that.",
        "Findings without a label were never seen, and such scans get a score that means nothing.",
        "Where patients were not named, each scan counted as a patient: figures may then be too good.",
    ),
    article_shares="70/15/15",
    list_scans=list_own,
    not_tested=("Scans of any other site.",),
)
