"""Reader of own labels: a CSV file with the columns path and label, or a folder with one folder for each label."""

import contextlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from nightread.scan.files import decode_path
from nightread.scan.walk import Walk, find_scans
from trainer.data.tables import read_table
from trainer.errors import DatasetError

#: Parts of a split by the names that people give them.
PARTS: Final = {
    "train": "train", "training": "train", "validation": "validation", "val": "validation", "valid": "validation",
    "hold-out": "hold-out", "holdout": "hold-out", "test": "hold-out",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class LabelRow:
    """One labelled scan.

    Attributes:
        path: absolute, not resolved.
        label: as it is written there.
        patient: whose scans stay together; "" if it is unknown.
        part: `train`, `validation` or `hold-out`; "" if it is not given.
        place: where the label stands, for messages.
    """

    path: str
    label: str
    patient: str = ""
    part: str = ""
    place: str = ""


def read_labels(source: Path) -> list[LabelRow]:
    r"""Read labels from a folder with a folder for each label, or from a CSV file.

    The file is UTF-8 and has the columns `path` and `label`, and perhaps `patient` and `split`, in small or capital
    letters. A path is absolute or relative to the file, and may be written as the database writes it (`\xNN` for a
    byte that is not UTF-8, `\\` for a backslash).

    Raises:
        DatasetError: the source is neither, holds no label, or a row has no path, no label or an unknown part.
    """
    rows = _list_folder(source) if source.is_dir() else _read_rows(source)
    if not rows:
        raise DatasetError(
            f"{source} holds no labelled scans; it may be a folder with one folder for each label, or a CSV file with "
            "the columns path and label, and perhaps patient and split"
        )
    return rows


def _list_folder(source: Path) -> list[LabelRow]:
    folders = [folder for folder in sorted(source.iterdir()) if folder.is_dir()]
    return [
        LabelRow(str(Path(found.path).absolute()), folder.name, place=folder.name)
        for folder in folders
        for found in find_scans([folder], Walk(), roots=[source.resolve()])
    ]


def _read_rows(source: Path) -> list[LabelRow]:
    rows = []
    # UTF-8 alone: nearly any text of another encoding is valid GB18030, and would become other labels in silence.
    table = read_table(source, ("path", "label"), ignore_case=True, encodings=("utf-8-sig",))
    for number, row in enumerate(table, start=1):
        place, part = f"row {number}", row.get("split", "").lower()
        if not row["path"] or not row["label"]:
            raise DatasetError(f"{source}, {place}: it has no {'path' if not row['path'] else 'label'}; add it")
        if "\0" in row["path"]:
            raise DatasetError(f"{source}, {place}: the path contains a null byte; no file has such a name")
        if part and part not in PARTS:
            raise DatasetError(f"{source}, {place}: the split is {part!r}; allowed are {', '.join(PARTS)}")
        path = _find_path(source.absolute().parent, row["path"])
        rows.append(LabelRow(path, row["label"], row.get("patient", ""), PARTS.get(part, ""), place))
    if any(row.part for row in rows) and not all(row.part for row in rows):
        raise DatasetError(f"{source}: some rows have a split and others have none; give each one or none")
    return rows


def _find_path(folder: Path, text: str) -> str:
    written = folder / text
    is_written_so = "\\" not in text
    with contextlib.suppress(OSError):  # too long to be a path
        is_written_so = is_written_so or written.exists()
    return str(written if is_written_so else folder / decode_path(text))


def refuse_contradictions(source: Path, rows: Iterable[LabelRow]) -> list[LabelRow]:
    """Return each path once.

    Raises:
        DatasetError: a path has two labels.
    """
    found: dict[str, LabelRow] = {}
    for row in rows:
        first = found.setdefault(row.path, row)
        if first.label != row.label:
            raise DatasetError(
                f"{source}, {row.place}: the scan has the label {row.label!r}, and {first.label!r} in {first.place}; "
                "leave one of them out"
            )
    return list(found.values())


def match_label(label: str, classes: Iterable[str]) -> str | None:
    """Return the class that a label means, in upper or lower case; None if there is none."""
    return {name.lower(): name for name in classes}.get(label.lower())
