"""Hostile files, and whether each may be scored: a file that is not an intact scan never is."""

import functools
import os
import random
import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

from PIL import Image
from pydicom.data import get_testdata_file
from pydicom.uid import DeflatedExplicitVRLittleEndian, RLELossless

from tests.factories import (
    encode_dicom,
    encode_huge_png,
    encode_image,
    encode_jpeg,
    encode_png16,
    small_chest,
)

#: Whether a file must be scored, must not be, or may be.
SCORED, NEVER, EITHER = "scored", "never", "either"


def make_images(folder: Path, choose: random.Random) -> dict[str, str]:
    """Write bad images; returns whether they may be scored, by name."""
    chest = small_chest(choose.randrange(1000))
    whole = {"jpg": encode_jpeg(chest), "png": encode_image(chest), "deep.png": encode_png16(chest)}
    files: dict[str, tuple[bytes, str]] = {
        "empty.jpg": (b"", NEVER),
        "text.png": (b"This is no image.\n", NEVER),
        "postscript.png": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 100 100\nshowpage\n", NEVER),
        "photoshop.png": (b"8BPS\0\1" + bytes(200), NEVER),
        "picture.jpg": (encode_image(chest, "GIF"), NEVER),
        "jpeg-named.png": (whole["jpg"], SCORED),
        "png-named.jpg": (whole["png"], SCORED),
        "tiff-named.png": (encode_image(chest, "TIFF"), SCORED),
        "cmyk.jpg": (encode_image(Image.fromarray(chest).convert("CMYK"), "JPEG"), EITHER),
        "palette.png": (encode_image(Image.fromarray(chest).convert("P")), EITHER),
        "alpha.png": (encode_image(Image.fromarray(chest).convert("LA")), EITHER),
        "moving.png": (
            encode_image(chest, save_all=True, append_images=[Image.fromarray(small_chest(7))]), NEVER,
        ),
        "header-60000.png": (encode_huge_png(60_000, 60_000), NEVER),
        "bomb-13000.png": (_make_bomb(13_000), NEVER),
        "bomb-6000.png": (_make_bomb(6_000), NEVER),  # within the limit of pixels, and blank
    }  # fmt: skip
    for kind, data in whole.items():
        for tenth in range(1, 10):
            files[f"cut-{tenth}.{kind}"] = data[: len(data) * tenth // 10], NEVER
        for number in range(4):
            files[f"flipped-{number}.{kind}"] = _flip(data, choose), EITHER
    return _write(folder, files)


@functools.cache  # once for all seeds
def _make_bomb(side_px: int) -> bytes:
    pack = zlib.compressobj(9)
    row = bytes(side_px + 1)
    idat = b"".join(pack.compress(row) for _ in range(side_px)) + pack.flush()
    return encode_huge_png(side_px, side_px, idat=idat)


def _flip(data: bytes, choose: random.Random, count: int = 5) -> bytes:
    flipped = bytearray(data)
    for _ in range(count):
        flipped[choose.randrange(len(flipped))] ^= 1 << choose.randrange(8)
    return bytes(flipped)


def make_dicoms(folder: Path, choose: random.Random) -> dict[str, str]:
    """Write bad DICOM instances; returns whether they may be scored, by name."""
    chest = small_chest(choose.randrange(1000))
    whole = encode_dicom(chest)
    files: dict[str, tuple[bytes, str]] = {
        "negative.dcm": (encode_dicom(255 - chest, PhotometricInterpretation="MONOCHROME1"), SCORED),
        "no-preamble.dcm": (whole[132:], SCORED),
        "deflated-bomb.dcm": (_make_deflated_bomb(), NEVER),
        "rle-20000.dcm": (
            encode_dicom(chest, syntax=RLELossless, frame=b"\1" + bytes(63), Rows=20_000, Columns=20_000), NEVER,
        ),
        "native-20000.dcm": (encode_dicom(chest, Rows=20_000, Columns=20_000), NEVER),
        "frames.dcm": (encode_dicom(chest, NumberOfFrames=2_000_000_000), NEVER),
        "jpeg-2000.dcm": (encode_dicom(chest, syntax="1.2.840.10008.1.2.4.90", frame=bytes(64)), NEVER),
        "unknown-syntax.dcm": (encode_dicom(chest, syntax="1.2.3.4"), NEVER),
        "computed-tomography.dcm": (encode_dicom(chest, Modality="CT"), NEVER),
        "nested.dcm": (_make_nested(whole), NEVER),
        "text.dcm": (b"This is no instance.\n", NEVER),
    }  # fmt: skip
    for tenth in range(1, 10):
        files[f"cut-{tenth}.dcm"] = whole[: len(whole) * tenth // 10], NEVER
    for number in range(4):
        files[f"flipped-{number}.dcm"] = _flip(whole, choose), EITHER
    for name in ("MR_truncated.dcm", "rtplan_truncated.dcm", "badVR.dcm", "image_dfl.dcm", "DICOMDIR"):
        if path := get_testdata_file(name, download=False):
            is_sound = name == "image_dfl.dcm"  # deflated, and a picture of no chest
            files[f"bundled-{name}.dcm"] = Path(str(path)).read_bytes(), EITHER if is_sound else NEVER
    return _write(folder, files)


@functools.cache
def _make_deflated_bomb() -> bytes:
    head = encode_dicom(syntax=DeflatedExplicitVRLittleEndian)[:400]
    pack = zlib.compressobj(9, zlib.DEFLATED, -15)
    return head + b"".join(pack.compress(bytes(2**20)) for _ in range(300)) + pack.flush()


def _make_nested(whole: bytes) -> bytes:
    """Return an instance that begins with 3,000 nested sequences."""
    sequence = struct.pack("<HH2sHI", 8, 0x1115, b"SQ", 0, 0xFFFFFFFF)
    item = struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF)
    start = whole.index(struct.pack("<HH2s", 8, 0x16, b"UI"))
    return whole[:start] + (sequence + item) * 3000 + whole[start:]


def make_paths(folder: Path, outside: Path) -> tuple[dict[str, str], Callable[[], None]]:
    """Write paths that lead out of a folder or are not regular files.

    Returns:
        Whether each may be scored, by name, and a function that swaps some of them after they were enqueued.
    """
    outside.mkdir(parents=True)
    (outside / "secret.jpg").write_bytes(encode_jpeg(small_chest(990)))
    folder.mkdir(parents=True)
    names = ["sound.jpg", "new\nline.jpg", os.fsdecode(b"\xff" * 60 + b".jpg"), "n" * 251 + ".jpg", "linked.jpg"]
    for number, name in enumerate(names):
        (folder / name).write_bytes(encode_jpeg(small_chest(900 + number)))
    for name in ("dotted.jpg", "rooted.jpg"):  # their rows are changed to lead elsewhere
        shutil.copy(folder / "sound.jpg", folder / name)
        names.append(name)
    may = dict.fromkeys(names, SCORED)
    (folder / "inside.jpg").symlink_to(folder / "sound.jpg")
    os.link(folder / "linked.jpg", folder / "hard.jpg")
    may |= {"inside.jpg": EITHER, "hard.jpg": SCORED}
    (folder / "out.jpg").symlink_to(outside / "secret.jpg")
    (folder / "relative.jpg").symlink_to(f"../{outside.name}/secret.jpg")
    (folder / "out-folder").symlink_to(outside)
    (folder / "zero.jpg").symlink_to("/dev/zero")
    (folder / "loop.jpg").symlink_to("loop.jpg")
    (folder / "passwd.jpg").symlink_to("/etc/passwd")
    os.mkfifo(folder / "pipe.jpg")
    (folder / "folder.jpg").mkdir()
    swapped = {
        "becomes-link.jpg": lambda path: path.symlink_to(outside / "secret.jpg"),
        "becomes-pipe.jpg": os.mkfifo,
        "becomes-folder.jpg": Path.mkdir,
        "becomes-zero.jpg": lambda path: path.symlink_to("/dev/zero"),
    }
    for number, name in enumerate(swapped):
        (folder / name).write_bytes(encode_jpeg(small_chest(950 + number)))
        may[name] = NEVER

    def swap() -> None:
        for name, make in swapped.items():
            (folder / name).unlink()
            make(folder / name)

    return may, swap


def _write(folder: Path, files: dict[str, tuple[bytes, str]]) -> dict[str, str]:
    folder.mkdir(parents=True)
    for name, (data, _) in files.items():
        (folder / name).write_bytes(data)
    return {name: may for name, (_, may) in files.items()}
