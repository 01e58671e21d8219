"""Decode every file of a folder and compare with Pillow, tifffile and pydicom: which are refused that these read whole?

    uv run --group test python -m studies.corpus FOLDER

Meant for the test files of other projects, such as pydicom's `test_files` and Pillow's `Tests/images`. Prints the
number of files by outcome, and each file that is `damaged` although another tool reads it.
"""

import argparse
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pydicom
import tifffile
from PIL import Image

from nightread.inference.content import decode_content
from nightread.reasons import Reason
from nightread.scan.acquisition import MODALITIES, Accepted
from nightread.scan.preprocessing import InputSpec
from nightread.scan.walk import Walk, find_scans

_SPEC = InputSpec(height_px=112, width_px=112, channels=1)
_ACCEPTED = Accepted(frozenset(MODALITIES), for_processing=True)


def main() -> None:
    """Print a Markdown table of outcomes, and the files in question."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    root = parser.parse_args().folder.resolve()
    warnings.simplefilter("ignore")
    outcomes: Counter[str] = Counter()
    questions = []
    walk = Walk()
    for found in find_scans([root], walk, roots=[root]):
        path = Path(found.path)
        reason = found.reason or decode_content(path.read_bytes(), _SPEC, 40_000_000, accepted=_ACCEPTED).reason
        outcomes["read" if reason is None else reason.value] += 1
        if reason is Reason.DAMAGED and (readers := [name for name, read in _READERS.items() if _is_read(read, path)]):
            questions.append(f"damaged, read by {', '.join(readers)}: {path.relative_to(root)}")
    outcomes.update({f"skipped: {skip.value}": count for skip, count in walk.skipped.items()})
    print("| outcome | files |\n|---|---|")
    for outcome, count in outcomes.most_common():
        print(f"| {outcome} | {count} |")
    print(f"| all | {outcomes.total()} |")
    print("\n".join(questions) or "no file is damaged that another tool reads whole")


def _read_with_pillow(path: Path) -> Any:
    with Image.open(path) as image:
        image.load()


def _read_with_tifffile(path: Path) -> Any:
    with tifffile.TiffFile(path) as file:
        return file.pages[0].asarray()


def _read_with_pydicom(path: Path) -> Any:
    return pydicom.dcmread(path).pixel_array


_READERS: dict[str, Callable[[Path], Any]] = {
    "Pillow": _read_with_pillow, "tifffile": _read_with_tifffile, "pydicom": _read_with_pydicom,
}  # fmt: skip


def _is_read(read: Callable[[Path], Any], path: Path) -> bool:
    try:
        read(path)
    except Exception:  # noqa: BLE001  # other people's decoders raise anything
        return False
    return True


if __name__ == "__main__":
    main()
