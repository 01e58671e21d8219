"""The pediatric chest X-rays of Kermany et al. 2018, in the folders of their Mendeley and Kaggle editions.

`{train,val,test}/{NORMAL,PNEUMONIA}/*.jpeg`. The file names hold the patient: `person17_bacteria_54.jpeg`,
`IM-0115-0001.jpeg`, `NORMAL2-IM-0501-0001.jpeg`, and in the last Mendeley edition `BACTERIA-1008087-0001.jpeg`.
"""

import re
from collections import Counter
from pathlib import Path
from typing import Final

from nightread.scan.entry import FoundScan
from nightread.scan.walk import Walk, find_scans
from trainer.data.dataset import Choices, Dataset, LabelledScan, Listing, SplitBy, Task
from trainer.errors import DatasetError

_NORMAL, _PNEUMONIA = "normal", "pneumonia"
_BACTERIAL, _VIRAL = "bacterial", "viral"

#: Folder names and the label of their scans.
_LABEL_FOLDERS: Final = {"NORMAL": _NORMAL, "PNEUMONIA": _PNEUMONIA}

_BINARY: Final = Task((_PNEUMONIA,), "sigmoid", _NORMAL)
_SUBTYPES: Final = Task((_BACTERIAL, _NORMAL, _VIRAL), "softmax")

_SUBTYPE_NAMES: Final = (
    (re.compile(r"person\d+_bacteria|BACTERIA-"), _BACTERIAL),
    (re.compile(r"person\d+_virus|VIRUS-"), _VIRAL),
)

#: `test` is the set of published figures, so nothing is trained or tuned on it: it is counted and left out, except by
#: the article's split, which joins all parts. `val` is 16 scans that the Kaggle edition took out of `train`: too few to
#: validate on, so both are pooled.
_POOLED_PARTS: Final = ("train", "val")
_OFFICIAL_TEST: Final = "test"

_PATIENT_NAMES: Final = (
    re.compile(r"(?P<patient>(?P<kin>person\d+))_(?:bacteria|virus)_"),
    re.compile(r"(?P<patient>(?:NORMAL2-)?(?P<kin>IM-\d+))-"),
    re.compile(r"(?P<patient>(?:BACTERIA|VIRUS|NORMAL)-(?P<kin>\d+))-"),
)


def parse_patient(stem: str) -> tuple[str, str] | None:
    """Return (patient, kin) of a file name without its suffix; None for a name of another form.

    `person17_bacteria_54` and `person17_virus_30` are both `person17`. They may be two children with one number, as may
    `IM-0501` and `NORMAL2-IM-0501`; the data do not say. Keeping them together costs nothing; separating them could put
    one child on both sides of a split. So the first pair is one patient, and the second are two patients of one kin.
    """
    matches = (pattern.match(stem) for pattern in _PATIENT_NAMES)
    return next(((match["patient"], match["kin"]) for match in matches if match), None)


def parse_subtype(stem: str) -> str:
    """Return `bacterial` or `viral` from the file name, or an empty string."""
    return next((subtype for pattern, subtype in _SUBTYPE_NAMES if pattern.match(stem)), "")


def list_pediatric(folder: Path, choices: Choices = Choices()) -> Listing:  # noqa: B008 - frozen
    """List the scans below a folder that holds train, val or test, or NORMAL and PNEUMONIA.

    Raises:
        DatasetError: the folder is missing, has another layout, or a label has no scans.
    """
    if not folder.is_dir():
        raise DatasetError(
            f"there is no folder {folder}: name the folder that holds train/ or NORMAL/ and PNEUMONIA/ with --data"
        )
    left_alone: Counter[str] = Counter()
    is_article = choices.split_by is SplitBy.ARTICLE
    if _is_part(folder):
        parts = [folder]
    else:
        names = (*_POOLED_PARTS, _OFFICIAL_TEST) if is_article else _POOLED_PARTS
        parts = [folder / name for name in names if _is_part(folder / name)]
        if not is_article and _is_part(folder / _OFFICIAL_TEST):
            walk = Walk()
            left_alone["official-test"] = sum(
                1 for _ in find_scans([folder / _OFFICIAL_TEST], walk, roots=[folder.resolve()])
            )
    if not parts:
        raise DatasetError(
            f"{folder} holds neither NORMAL/ and PNEUMONIA/ nor a train/ folder with them: name the folder that holds "
            "them with --data"
        )
    task = _SUBTYPES if choices.subtypes else _BINARY
    scans = [scan for part in parts for scan in _list_part(part, folder, left_alone, subtypes=choices.subtypes)]
    for label in task.classes:
        if not any(scan.label == label for scan in scans):
            raise DatasetError(f"{folder} holds no {label} scans; a training needs scans of every label")
    unnamed = sum(parse_patient(Path(scan.path).stem) is None for scan in scans)
    ordered = tuple(sorted(scans, key=lambda scan: scan.path))
    return Listing(task, ordered, left_alone, unnamed, roots=(folder,))


def _is_part(folder: Path) -> bool:
    return any((folder / name).is_dir() for name in _LABEL_FOLDERS)


def _list_part(part: Path, folder: Path, left_alone: Counter[str], *, subtypes: bool) -> list[LabelledScan]:
    scans = []
    for name, label in _LABEL_FOLDERS.items():
        if (part / name).is_dir():
            walk = Walk()
            found = list(find_scans([part / name], walk, roots=[folder.resolve()]))
            left_alone.update({skip.value: count for skip, count in walk.skipped.items()})
            labelled = [_label(scan, label, subtypes=subtypes) for scan in found]
            # With subtypes the label comes from the name; a pneumonia whose name has none has no label.
            unknown = sum(not scan.label for scan in labelled)
            left_alone.update({"unknown-subtype": unknown} if unknown else {})
            scans += [scan for scan in labelled if scan.label]
    return scans


def _label(found: FoundScan, label: str, *, subtypes: bool) -> LabelledScan:
    # Files that the walk could not open stay in: reading them gives the reason, and counts them as unreadable.
    stem = Path(found.path).stem
    patient, kin = parse_patient(stem) or (stem, stem)
    subgroup = parse_subtype(stem) if label == _PNEUMONIA else ""
    if subtypes and label == _PNEUMONIA:
        label = subgroup
    return LabelledScan(found.path, label, patient, kin, subgroup)


PEDIATRIC: Final = Dataset(
    name="pediatric",
    finding="pneumonia",
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
            "The hold-out comes from the training part of the data: do not quote its figures as accuracy on new data. "
            "On the official test part (other children, another period) networks do worse, above all in specificity. "
            "Figures of that part, where a card has any, come from scans on which thresholds were chosen."
        ),
        (
            "A network with an AUC of 0.95 on this collection had 0.54 on children of the same age in another country "
            "(Xin, Li and Yi 2021, doi:10.1007/s10140-021-01954-x). Score labelled scans of your own site first, and "
            "calibrate on them (`nightread calibrate`)."
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
    article_shares="88/10.79/1.21",  # 5,153, 632 and 71 of 5,856 scans
    list_scans=list_pediatric,
    population=(
        "Children of 1 to 5 years at the Guangzhou Women and Children's Medical Center, China; anterior-posterior "
        "views, taken in routine care before 2018. About three of four have pneumonia: far more than in most wards."
    ),
    not_tested=(
        "Scans of any other hospital, country, or maker of detectors.",
        "Newborns, older children and adults.",
        "Posterior-anterior and lateral views, scans of children who lie down or are ventilated.",
        "Sex, weight, severity, time of year and other conditions: the data do not tell them.",
        "Readers: no radiologist's reading was compared, with or without the score.",
        "DICOM files as detectors write them: training scans are JPEG files that somebody had windowed.",
    ),
)
