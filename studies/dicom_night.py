"""Measure a night of DICOM scans by compression, against the limit of its decoder.

    uv run --group test python -m studies.dicom_night --into docs/performance.md

Draws 12-bit radiographs, writes them uncompressed, in JPEG 2000 and in JPEG Lossless, and runs `nightread bench` on
each folder. The decoder alone is timed on one core over the same frames. 1,200 scans of 1,024 x 1,024 pixels take
2.5 GB.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import imagecodecs
import numpy as np
from pydicom.uid import JPEG2000Lossless, JPEGLosslessSV1

from nightread.scan.decode import read_scan
from nightread.scan.drawn_chest import draw_chest
from studies.page_part import write_part
from tests.factories import encode_dicom

_PROGRAM: Final = Path(sys.executable).with_name("nightread")
_PICTURES: Final = 16
_BITS: Final = 12
_INSTANCE: Final = b"1.2.826.0.1.3680043.8.498.1\0"
_HEADER: Final = (
    "night", "MB a scan", "decoder alone, ms of a core", "`read_scan`, ms of a core", "limit, scans/s",
    "`score`, scans/s", "of the limit", "load",
)  # fmt: skip

_Codec = tuple[str | None, Callable[[Any], bytes], Callable[[bytes], Any]]
_CODECS: Final[dict[str, _Codec]] = {
    "uncompressed": (None, lambda pixels: bytes(pixels.tobytes()), lambda frame: np.frombuffer(frame, "<u2").copy()),
    "JPEG 2000, lossless": (
        JPEG2000Lossless,
        lambda pixels: bytes(imagecodecs.jpeg2k_encode(pixels, codecformat="j2k", reversible=True)),
        imagecodecs.jpeg2k_decode,
    ),
    "JPEG Lossless": (
        JPEGLosslessSV1,
        lambda pixels: bytes(imagecodecs.ljpeg_encode(pixels, bitspersample=_BITS)),
        imagecodecs.ljpeg_decode,
    ),
}


def main() -> None:
    """Measure, print the table, and write it into a page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scans", type=int, default=1200)
    parser.add_argument("--side", type=int, default=1024, help="height and width in pixels")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--into", type=Path, help="page with the markers of this study")
    arguments = parser.parse_args()
    rng = np.random.default_rng(0)
    pictures = []
    for seed in range(_PICTURES):
        chest = draw_chest(seed, arguments.side, arguments.side).astype(np.uint16) * 16
        pictures.append(np.clip(chest + rng.normal(0, 6, chest.shape), 0, 4095).astype(np.uint16))
    counted = f"{arguments.scans:,} scans of {arguments.side} x {arguments.side} pixels, {_BITS} bits"
    lines = [
        f"{counted}; medians of {arguments.rounds} rounds. The limit: decode, prepare and infer alone, on all cores.",
        "",
        f"| {' | '.join(_HEADER)} |",
        f"|{'---|' * len(_HEADER)}",
    ]
    for name, codec in _CODECS.items():
        lines.append(_measure(name, codec, pictures, arguments.scans, arguments.rounds))
        print(lines[-1], flush=True)
    if arguments.into is not None:
        write_part(arguments.into, "studies/dicom_night.py", "\n".join(lines))


def _measure(name: str, codec: _Codec, pictures: list[Any], scans: int, rounds: int) -> str:
    """Return the row of one compression."""
    syntax, encode, decode = codec
    frames = [encode(pixels) for pixels in pictures]
    decoder_ms = _time_decoder(decode, frames)
    fields = {"BitsStored": _BITS, "HighBit": _BITS - 1, "WindowCenter": "2048", "WindowWidth": "4096"}
    contents = [
        encode_dicom(pixels, **fields) if syntax is None else encode_dicom(pixels, syntax=syntax, frame=frame, **fields)
        for pixels, frame in zip(pictures, frames, strict=True)
    ]
    with tempfile.TemporaryDirectory() as folder:
        for number in range(scans):
            # Another instance UID of the same length makes another content.
            instance = b"1.2.826.0.1.3680043.%07d\0" % number
            data = contents[number % len(contents)].replace(_INSTANCE, instance)
            (Path(folder) / f"{number:07}.dcm").write_bytes(data)
        options = ["--scans", str(scans), "--rounds", str(rounds), "--workers", "0", "--json"]
        run = subprocess.run([_PROGRAM, "bench", folder, *options], check=True, capture_output=True, text=True)  # noqa: S603
    measured = json.loads(run.stdout)
    if measured["rejected"]:
        sys.exit(f"{name}: {measured['rejected']} scans were rejected; a rate of such a night says nothing")
    decode_ms = _time_decoder(lambda data: read_scan(data, max_pixels=10**8), contents)
    score, load = measured["embedded"], max(measured["load_average"])
    size_mb = measured["bytes"] / measured["scans"] / 1e6
    return (
        f"| {name} | {size_mb:.1f} | {decoder_ms:.1f} | {decode_ms:.1f} | {measured['limit']:.0f} | "
        f"{score['scans_per_second']:.0f} | {score['ratio']:.2f} | {load:.1f} |"
    )


def _time_decoder(decode: Callable[[bytes], Any], frames: list[bytes]) -> float:
    """Return the processor time of a decoder in milliseconds a frame: the median over the frames."""
    times = []
    for frame in [*frames, *frames]:
        begun = time.process_time()
        decode(frame)
        times.append(time.process_time() - begun)
    return 1000 * float(np.median(times))


if __name__ == "__main__":
    main()
