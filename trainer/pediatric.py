"""The pediatric chest X-rays of Kermany et al. 2018, in the folders of their Mendeley and Kaggle editions.

`{train,val,test}/{NORMAL,PNEUMONIA}/*.jpeg`. The file names hold the patient: `person17_bacteria_54.jpeg`,
`IM-0115-0001.jpeg`, `NORMAL2-IM-0501-0001.jpeg`, and in the last Mendeley edition `BACTERIA-1008087-0001.jpeg`.
"""

import re
from collections import Counter
from pathlib import Path
from typing import Final

from nightread.finding import FoundScan, Walk, find_scans
from trainer.datasets import Dataset, LabelledScan, Listing
from trainer.errors import DatasetError

#: Folder names and whether the finding is present in their scans.
_LABEL_FOLDERS: Final = {"NORMAL": False, "PNEUMONIA": True}

#: `test` is the set on which published figures stand, so nothing is trained or tuned on it: it is counted and left
#: alone. `val` is 16 scans that the Kaggle edition took out of `train`; too few to validate on, so both are pooled.
_POOLED_PARTS: Final = ("train", "val")
_OFFICIAL_TEST: Final = "test"

_PATIENT_NAMES: Final = (
    re.compile(r"(?P<patient>(?P<kin>person\d+))_(?:bacteria|virus)_"),
    re.compile(r"(?P<patient>(?:NORMAL2-)?(?P<kin>IM-\d+))-"),
    re.compile(r"(?P<patient>(?:BACTERIA|VIRUS|NORMAL)-(?P<kin>\d+))-"),
)


def parse_patient(stem: str) -> tuple[str, str] | None:
    """Return (patient, kin) of a file name without its suffix; None for a name of another form.

    `person17_bacteria_54` and `person17_virus_30` are both `person17`. They may well be two children whose numbers
    happen to agree, as may be `IM-0501` and `NORMAL2-IM-0501`, but nothing in the data says so. Kept together they
    cost nothing; kept apart they could put one child on both sides of a split. So the first pair is one patient, and
    the second are two patients of one kin.
    """
    matches = (pattern.match(stem) for pattern in _PATIENT_NAMES)
    return next(((match["patient"], match["kin"]) for match in matches if match), None)


def list_pediatric(folder: Path) -> Listing:
    """List the scans below `folder`: one that holds train, val or test, or one that holds NORMAL and PNEUMONIA.

    Raises:
        DatasetError: the folder is missing, has another layout, or a label has no scans.
    """
    if not folder.is_dir():
        raise DatasetError(
            f"there is no folder {folder}; --data names the folder that holds train/ or NORMAL/ and PNEUMONIA/"
        )
    left_alone: Counter[str] = Counter()
    if _is_part(folder):
        parts = [folder]
    else:
        parts = [folder / name for name in _POOLED_PARTS if _is_part(folder / name)]
        if _is_part(folder / _OFFICIAL_TEST):
            walk = Walk()
            left_alone["official-test"] = sum(
                1 for _ in find_scans([folder / _OFFICIAL_TEST], walk, roots=[folder.resolve()])
            )
    if not parts:
        raise DatasetError(
            f"{folder} holds neither NORMAL/ and PNEUMONIA/ nor a train/ folder with them; "
            "--data names the folder that holds them"
        )
    scans = [scan for part in parts for scan in _list_part(part, folder, left_alone)]
    for name, is_positive in _LABEL_FOLDERS.items():
        if not any(scan.is_positive is is_positive for scan in scans):
            raise DatasetError(f"{folder} holds no scans labelled {name}; both labels are needed to train")
    unnamed = sum(parse_patient(Path(scan.path).stem) is None for scan in scans)
    return Listing(tuple(sorted(scans, key=lambda scan: scan.path)), left_alone, unnamed)


def _is_part(folder: Path) -> bool:
    return any((folder / name).is_dir() for name in _LABEL_FOLDERS)


def _list_part(part: Path, folder: Path, left_alone: Counter[str]) -> list[LabelledScan]:
    scans = []
    for name, is_positive in _LABEL_FOLDERS.items():
        if (part / name).is_dir():
            walk = Walk()
            found = list(find_scans([part / name], walk, roots=[folder.resolve()]))
            left_alone.update({skip.value: count for skip, count in walk.skipped.items()})
            scans += [_label(scan, is_positive=is_positive) for scan in found]
    return scans


def _label(found: FoundScan, *, is_positive: bool) -> LabelledScan:
    # What the walk could not look into stays in: reading it will say why, and it is counted as unreadable.
    stem = Path(found.path).stem
    patient, kin = parse_patient(stem) or (stem, stem)
    return LabelledScan(found.path, is_positive, patient, kin)


PEDIATRIC: Final = Dataset(
    name="pediatric",
    label="pneumonia",
    negative_decision="normal",
    data_source=(
        "Kermany, Zhang, Goldbaum: Large Dataset of Labeled Optical Coherence Tomography (OCT) and Chest X-Ray Images, "
        "Mendeley Data, doi:10.17632/rscbjbr9sj; the training part of the chest X-rays (Guangzhou Women and Children's "
        "Medical Center)"
    ),
    license="CC BY 4.0",
    attribution=(
        "Daniel Kermany, Kang Zhang, Michael Goldbaum (2018), Large Dataset of Labeled Optical Coherence Tomography "
        "(OCT) and Chest X-Ray Images, Mendeley Data, doi:10.17632/rscbjbr9sj, CC BY 4.0. The parity inputs in this "
        "bundle are scans of that data set, scaled to the network's input"
    ),
    intended_use=(
        "Research, and triage support that a clinician oversees: anterior-posterior chest X-rays of children of 1 to 5 "
        "years, to order a worklist or to study a cohort. It is no diagnosis and no medical device, and a normal "
        "decision must not end anybody's care."
    ),
    limitations=(
        (
            "One hospital (Guangzhou), children of 1 to 5 years, anterior-posterior views: other hospitals, "
            "devices, ages and views are untested, and worse results are to be expected there."
        ),
        (
            "The hold-out comes from the training part of the data. Networks trained on this part are known to do"
            " clearly worse on the data's official test part, above all in specificity; the gap between "
            "validation and that test part is wide and is not measured here. Do not quote the hold-out figures as"
            " accuracy on new data."
        ),
        (
            "Pneumonia and normal scans may differ in more than the disease (device, exposure, text marks, "
            "cropping), and a network can learn that instead."
        ),
        (
            "Every scan is either pneumonia or normal here: effusion, pneumothorax, tuberculosis and everything "
            "else were never seen, and such scans get a score that means nothing."
        ),
        ("Patients are told apart by file names; a child with two numbers could stand on two sides of the split."),
    ),
    list_scans=list_pediatric,
)
