"""Data of the twelve-class article: COVID-19 and other findings from publications, and healthy scans of children.

`metadata.csv` and `images/` of ieee8023/covid-chestxray-dataset hold the findings. The metadata file of CoronaHack,
`Chest_xray_Corona_Metadata.csv`, lists the healthy scans, which are in some folder beside or below it.
"""

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Final

from nightread.model.card import UNCERTAIN
from trainer.data.dataset import Choices, Dataset, LabelledScan, Listing, Rare, Task
from trainer.data.pediatric import parse_patient
from trainer.data.tables import read_table
from trainer.errors import DatasetError

_TABLE: Final = "metadata.csv"
_IMAGES: Final = "images"
_HEALTHY_TABLE: Final = "Chest_xray_Corona_Metadata.csv"

_NORMAL: Final = "Normal"
_OTHER: Final = "Other"
_X_RAY: Final = "x-ray"

#: Values of the table for an unknown finding.
_NO_LABEL: Final = frozenset({"", "todo", "unknown"})

#: Labels that a card accepts.
_LABEL: Final = re.compile(r"[^\x00-\x1f]{1,64}")

#: Most healthy scans in the article.
MAX_NORMALS: Final = 1300


def list_covid(folder: Path, choices: Choices = Choices()) -> Listing:  # noqa: B008 - frozen
    """List the scans with labels in `metadata.csv`, and healthy scans.

    Lateral views are kept: the article took every X-ray row. A file with two rows counts once, and not at all if their
    findings differ.

    Raises:
        DatasetError: a table is missing or cannot be read, or fewer than two labels have scans.
    """
    table = folder / _TABLE
    if not table.is_file():
        raise DatasetError(f"there is no {table}: name the folder that holds {_TABLE} and {_IMAGES}/ with --data")
    left_alone: Counter[str] = Counter()
    missing: list[str] = []
    scans = list(_list_findings(folder, read_table(table, ("finding", "filename", "modality")), left_alone, missing))
    roots = [folder]
    if choices.normals:
        healthy = _find_healthy_table(folder, choices.healthy)
        scans += _list_healthy(healthy, folder, min(choices.normals, MAX_NORMALS), left_alone, missing)
        roots.append(healthy.parent)
    without_patient = sum(not scan.patient for scan in scans)
    scans = [replace(scan, patient=scan.patient or scan.path, kin=scan.kin or scan.path) for scan in scans]
    scans = _treat_rare(scans, choices, left_alone)
    labels = tuple(sorted({scan.label for scan in scans}))
    if len(labels) < 2:
        raise DatasetError(
            f"{folder} holds scans of {len(labels)} labels ({', '.join(labels) or 'none'}); at least two are needed. "
            f"{len(missing)} scans that the tables name are missing, and {sum(left_alone.values())} rows were left out"
        )
    ordered = tuple(sorted(scans, key=lambda scan: scan.path))
    return Listing(
        Task(labels, "softmax"), ordered, left_alone, without_patient, tuple(roots), missing=tuple(sorted(missing))
    )


def _list_findings(
    folder: Path, rows: Iterable[dict[str, str]], left_alone: Counter[str], missing: list[str]
) -> Iterator[LabelledScan]:
    found: dict[Path, LabelledScan] = {}
    contradicted: set[Path] = set()
    for row in rows:
        inside = PurePosixPath(row.get("folder") or _IMAGES, row["filename"])
        reason = _find_fault(row, inside)
        if reason is not None:
            left_alone[reason] += 1
            continue
        path, label, patient = folder.absolute() / inside, row["finding"], row.get("patientid", "")
        if path in found:
            left_alone["named-twice"] += 1
            if found[path].label != label:
                contradicted.add(path)
            continue
        kin = f"covid {patient}" if patient else ""
        found[path] = LabelledScan(str(path), label, kin, kin, row.get("view", ""))
    for path, scan in found.items():
        if path in contradicted:
            left_alone["contradicting-findings"] += 1
        elif path.is_file():
            yield scan
        else:
            missing.append(path.name)


def _find_fault(row: dict[str, str], inside: PurePosixPath) -> str | None:
    """Return the reason to leave out a row of the table, or None."""
    finding = row["finding"]
    if row["modality"].lower() != _X_RAY:
        return "not-x-ray"
    if finding.lower() in _NO_LABEL:
        return "no-finding-told"
    if not _LABEL.fullmatch(finding) or finding == UNCERTAIN:
        return "finding-is-no-label"  # a card would refuse it
    # The table is untrusted: it must not lead to files outside its folder.
    if not row["filename"] or inside.is_absolute() or ".." in inside.parts or "\x00" in str(inside):
        return "path-outside"
    return None


def _find_healthy_table(folder: Path, named: Path | None) -> Path:
    if named is not None:
        return named
    for place in (folder, folder.absolute().parent):
        if (place / _HEALTHY_TABLE).is_file():
            return place / _HEALTHY_TABLE
    raise DatasetError(
        f"{_HEALTHY_TABLE}, which lists the healthy scans, is neither in {folder} nor beside it: name it with "
        "--healthy, or train without healthy scans: --normals 0"
    )


def _list_healthy(
    table: Path, findings: Path, count: int, left_alone: Counter[str], missing: list[str]
) -> Iterator[LabelledScan]:
    """Yield the first `count` healthy scans of the table, from any folder below its own."""
    rows = read_table(table, ("X_ray_image_name", "Label"))
    names = [row["X_ray_image_name"] for row in rows if row["Label"].lower() == _NORMAL.lower()]
    names = list(dict.fromkeys(names))[:count]
    places = _find_files(table.parent, set(names), apart_from=findings)
    for name in names:
        found = places.get(name, [])
        if not found:
            missing.append(name)
            continue
        if len(found) > 1:
            left_alone["same-name-elsewhere"] += len(found) - 1
        patient, kin = parse_patient(Path(name).stem) or ("", "")
        yield LabelledScan(str(min(found)), _NORMAL, patient, kin)


def _find_files(folder: Path, names: set[str], *, apart_from: Path) -> dict[str, list[Path]]:
    """Return the paths of files with these names below a folder; links are not followed."""
    skipped = apart_from.resolve()
    places: dict[str, list[Path]] = {}
    for parent, folders, files in os.walk(folder.absolute()):
        # In place: os.walk descends into the folders that are left.
        folders[:] = [name for name in folders if Path(parent, name).resolve() != skipped]
        for name in names.intersection(files):
            places.setdefault(name, []).append(Path(parent, name))
    return places


def _treat_rare(scans: list[LabelledScan], choices: Choices, left_alone: Counter[str]) -> list[LabelledScan]:
    counts = Counter(scan.label for scan in scans)
    rare = {label for label, count in counts.items() if count < choices.min_per_label}
    if choices.rare is Rare.MERGE:
        return [replace(scan, label=_OTHER) if scan.label in rare else scan for scan in scans]
    left_alone.update({f"rare-label {label}": counts[label] for label in sorted(rare)})
    return [scan for scan in scans if scan.label not in rare]


COVID: Final = Dataset(
    name="covid",
    finding="COVID-19 and other findings",
    data_source=(
        "Cohen, Morrison, Dao: COVID-19 Image Data Collection (ieee8023/covid-chestxray-dataset), arXiv:2003.11597; "
        "healthy scans as listed by the CoronaHack metadata, from Kermany, Zhang, Goldbaum, "
        "doi:10.17632/rscbjbr9sj"
    ),
    license="per scan, many CC BY-NC-SA or unknown: a network trained on them may be studied, not shipped",
    attribution=(
        "Joseph Paul Cohen, Paul Morrison, Lan Dao (2020), COVID-19 Image Data Collection, arXiv:2003.11597, and the "
        "publications that its table names; Daniel Kermany, Kang Zhang, Michael Goldbaum (2018), "
        "doi:10.17632/rscbjbr9sj, CC BY 4.0"
    ),
    intended_use="Research on how such data mislead. Not for any patient, and not to be handed on: see the licence.",
    limitations=(
        (
            "The healthy scans are children's, from one hospital; all others are mostly adults', from publications. "
            "A network can tell the two collections apart by age, size, text marks and compression, without any "
            "disease."
        ),
        "Most labels have fewer than twenty scans: their figures are hardly more than anecdotes.",
        (
            "Scans of one patient on several days resemble each other; a split that puts them on several sides "
            "measures memory."
        ),
        "Findings were taken from captions and case reports, not read again by radiologists.",
        "Frontal and lateral views, and views from the back and the front, are mixed.",
    ),
    article_shares="60/20/20",  # 3:1:1
    list_scans=list_covid,
    population=(
        "Patients, mostly adults, whose scans were published with case reports in many countries, and healthy children "
        "of one hospital."
    ),
    not_tested=("Scans that nobody chose for a publication.",),
)
