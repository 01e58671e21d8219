"""Scans to measure with, all of different content: copies from a folder, or drawn ones of full resolution."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image

from nightread.errors import NightreadError
from nightread.scan.drawn_chest import draw_chest
from nightread.scan.files import read_file
from nightread.scan.formats import SNIFF_BYTES, Format, sniff
from nightread.scan.walk import Walk, find_scans

#: Drawn chests; further scans differ from them only in the bytes after the picture.
_DRAWN: Final = 32
#: (height, width) and JPEG quality of the drawn scans: about 200 KB each, like a pediatric radiograph.
_DRAWN_PX: Final = (848, 1268)
_DRAWN_QUALITY: Final = 92
#: Formats whose decoders ignore bytes after the picture.
_REPEATABLE: Final = frozenset({Format.JPEG, Format.PNG})


@dataclass(frozen=True, slots=True)
class BenchScans:
    """Scans of a measurement.

    Attributes:
        folder: holds the scans and nothing else.
        paths: of the scans.
        different: number of different pictures.
        total_bytes: of all files.
        is_drawn: whether they were drawn, as no folder was given.
    """

    folder: Path
    paths: list[Path]
    different: int
    total_bytes: int
    is_drawn: bool


def write_bench_scans(source: Path | None, folder: Path, count: int, max_file_bytes: int) -> BenchScans:
    """Fill a new folder with `count` scans of different content, so that no prediction is reused.

    If the source holds fewer, its JPEG and PNG files are repeated with other bytes after the picture: decoders ignore
    them, and the SHA-256 changes. A source of DICOM and TIFF files alone gives no more scans than it has.

    Args:
        source: file or folder; None: scans are drawn.
        folder: to create.
        count: number of scans to write.
        max_file_bytes: larger files are left out.

    Raises:
        NightreadError: `source` holds no scan.
    """
    pictures = _draw() if source is None else _read(source, max_file_bytes)
    first = list(itertools.islice(pictures, count))
    if not first:
        raise NightreadError(f"no scans in {source}: name a folder with JPEG, PNG, TIFF or DICOM files")
    folder.mkdir(parents=True)
    paths, total_bytes = [], 0
    for number, (name, data) in enumerate(itertools.islice(_repeat(first), count)):
        path = folder / f"{number:06}-{name}"
        path.write_bytes(data)
        paths.append(path)
        total_bytes += len(data)
    return BenchScans(folder, paths, len(first), total_bytes, source is None)


def _repeat(first: list[tuple[str, bytes]]) -> Iterator[tuple[str, bytes]]:
    yield from first
    repeatable = [(name, data) for name, data in first if sniff(data[:SNIFF_BYTES]) in _REPEATABLE]
    for turn in itertools.count(1) if repeatable else ():
        for name, data in repeatable:
            yield name, data + f"bench {turn}".encode()


def _read(source: Path, max_file_bytes: int) -> Iterator[tuple[str, bytes]]:
    root = source.expanduser().resolve()
    for found in find_scans([root], Walk(), roots=[root]):
        if found.reason is None and 0 < found.size_bytes <= max_file_bytes:
            yield Path(found.path).name, read_file(found.path, roots=[root], max_bytes=max_file_bytes)


def _draw() -> Iterator[tuple[str, bytes]]:
    for seed in range(_DRAWN):
        buffer = BytesIO()
        pixels: np.ndarray[tuple[int, int], np.dtype[np.uint8]] = draw_chest(
            seed, *_DRAWN_PX, has_opacity=seed % 3 == 0
        )
        Image.fromarray(pixels).save(buffer, "JPEG", quality=_DRAWN_QUALITY)
        yield f"drawn-{seed:02}.jpg", buffer.getvalue()
