"""A night of fuzzed files: is each one accounted for, and does memory stay flat?

    uv run --group test python -m studies.fuzzed_night --files 100000

Writes copies of small files of each kind, most of them with random damage, and runs `nightread score` on them. Memory
is the proportional share (PSS) of the command and its children, sampled each second.
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

import numpy as np
import psutil

from tests.factories import encode_dicom, encode_image, encode_jpeg, encode_png16, small_chest
from tests.program import PROGRAM, make_environment

_PER_FOLDER: Final = 1_000
_MOST_CHANGES: Final = 6
_INTACT: Final = 0.05


def make_seeds() -> dict[str, bytes]:
    """Return one small file of each kind, by name."""
    chest = small_chest(1, 48, 40)
    return {
        "jpeg": encode_jpeg(chest), "progressive": encode_image(chest, "JPEG", progressive=True),
        "png": encode_image(chest), "png16": encode_png16(chest), "dicom": encode_dicom(chest),
        "tiff": encode_image(chest, "TIFF"),
        "tiff-deflate": encode_image(chest, "TIFF", compression="tiff_adobe_deflate"),
        "tiff-lzw": encode_image(chest, "TIFF", compression="tiff_lzw"),
        "tiff16": encode_image(chest.astype(np.uint16) * 257, "TIFF"),
    }  # fmt: skip


def damage(data: bytes, choose: random.Random) -> bytes:
    """Return a file with one to six changes: bytes, runs, cuts and repetitions."""
    changed = bytearray(data)
    for _ in range(choose.randint(1, _MOST_CHANGES)):
        at = choose.randrange(len(changed))
        span = min(choose.choice((1, 1, 2, 4, 16, 256)), len(changed) - at)
        match choose.randrange(5):
            case 0:
                changed[at : at + span] = choose.randbytes(span)
            case 1:
                changed[at : at + span] = choose.choice((b"\0", b"\xff")) * span
            case 2:
                changed[at] ^= 1 << choose.randrange(8)
            case 3:
                changed[at:at] = changed[at : at + span]
            case _:
                del changed[max(at, 16) : max(at, 16) + span]
    return bytes(changed)


def _write_night(folder: Path, count: int) -> None:
    choose = random.Random(1)  # noqa: S311  # no secret
    seeds = list(make_seeds().items())
    for number in range(count):
        name, data = seeds[number % len(seeds)]
        file = folder / f"{number // _PER_FOLDER:04}" / f"{number:07}-{name}"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data if choose.random() < _INTACT else damage(data, choose))


def _measure_memory(process: psutil.Process) -> float:
    """Return the memory of a process and its children in MB."""
    total = 0.0
    for one in (process, *process.children(recursive=True)):
        try:
            total += one.memory_full_info().pss / 1e6
        except (psutil.NoSuchProcess, psutil.AccessDenied):  # it has ended
            continue
    return total


def _score(folder: Path, home: Path) -> dict[str, Any]:
    env = make_environment(home, model="")
    began, samples = time.monotonic(), []
    with (home / "log").open("wb") as log:
        process = subprocess.Popen([PROGRAM, "score", folder, "--json"], env=env, stdout=subprocess.PIPE, stderr=log)  # noqa: S603
        watched = psutil.Process(process.pid)
        while process.poll() is None:
            samples.append(_measure_memory(watched))
            time.sleep(1)
        said = process.stdout.read() if process.stdout else b""
    summary = json.loads(said.splitlines()[-1])
    tenths = [round(samples[tenth * (len(samples) - 1) // 10]) for tenth in range(1, 10)]
    return {
        "exit": process.returncode, "wall_s": round(time.monotonic() - began, 1),
        **{name: summary[name] for name in ("found", "scored", "rejected", "failed", "skipped")},
        "mb_at_each_tenth": tenths, "mb_highest": round(max(samples)),
    }  # fmt: skip


def main() -> None:
    """Print what became of the night, and end with 1 if a file is not accounted for."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--files", type=int, default=100_000)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="nightread-fuzzed-") as name:
        folder = Path(name)
        _write_night(folder / "night", given.files)
        found = _score(folder / "night", folder)
    print(json.dumps(found))
    if found["found"] + found["skipped"] != given.files or found["failed"]:
        sys.exit(1)


if __name__ == "__main__":
    main()
