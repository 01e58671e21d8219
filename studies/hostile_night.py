"""A night of sound scans among hostile ones, in a container's memory, against the sound ones alone.

    uv run --group test python -m studies.hostile_night --sound 1000 --hostile 200 --memory 1073741824

Runs `nightread score` in a cgroup with that memory (as root; else the largest process is only measured), and says:
statuses of sound and hostile scans, largest memory, wall and processor time of both nights.
"""

import argparse
import contextlib
import json
import os
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from tests.factories import encode_dicom, encode_jpeg, encode_png16, small_chest
from tests.faults.hostile import make_dicoms, make_images
from tests.program import PROGRAM, make_environment

_ENCODERS = (encode_jpeg, encode_png16, encode_dicom)
#: Folder of memory groups, and the names of limit and peak in it: of cgroup v2 and v1.
_CGROUPS = (
    (Path("/sys/fs/cgroup"), "memory.max", "memory.peak"),
    (Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes", "memory.max_usage_in_bytes"),
)


def _write_sound(folder: Path, count: int) -> None:
    for number in range(count):
        (folder / f"sound-{number:05}").write_bytes(_ENCODERS[number % 3](small_chest(number)))


def _write_hostile(folder: Path, count: int) -> None:
    made = folder.parent / "hostile"
    choose = random.Random(1)  # noqa: S311  # no secret
    for number, make in enumerate((make_images, make_dicoms)):
        make(made / str(number), choose)
    files = sorted(file for file in made.rglob("*") if file.is_file())
    for number in range(count):
        shutil.copy(files[number % len(files)], folder / f"hostile-{number:05}-{files[number % len(files)].name}")


def _make_group() -> tuple[Path | None, str, str]:
    """Return a new memory group with the names of its limit and peak; None where this process may not make one."""
    for folder, limit, peak in _CGROUPS:
        group = folder / f"nightread-{os.getpid()}"
        with contextlib.suppress(OSError):
            group.mkdir()
            if (group / limit).exists():
                return group, limit, peak
            group.rmdir()
    return None, "", ""


def _score(folder: Path, home: Path, memory: str) -> dict[str, Any]:
    """Score a folder, and return statuses by kind, times and the largest memory."""
    env = make_environment(home)
    group, limit, peak_of = _make_group()
    if group:
        (group / limit).write_text(memory)

    def enter() -> None:
        if group:
            (group / "cgroup.procs").write_text(str(os.getpid()))

    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    done = subprocess.run([PROGRAM, "score", folder], env=env, capture_output=True, check=False, preexec_fn=enter)  # noqa: S603
    wall_s, after = time.monotonic() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    peak = int((group / peak_of).read_text()) if group else after.ru_maxrss * 1024
    if group:
        group.rmdir()
    csv = [PROGRAM, "results", "--format", "csv"]
    rows = subprocess.run(csv, env=env, capture_output=True, text=True, check=True)  # noqa: S603
    header, *lines = rows.stdout.splitlines()
    place = header.split(",").index("status")
    statuses = Counter(
        ("sound" if "/sound-" in line else "hostile", line.split(",")[place]) for line in lines if "," in line
    )
    return {
        "exit": done.returncode, "wall_s": round(wall_s, 1),
        "cpu_s": round(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, 1),
        "peak_mib": peak // 2**20, "limited": group is not None,
        "statuses": {" ".join(key): count for key, count in sorted(statuses.items())},
    }  # fmt: skip


def main() -> None:
    """Print one JSON line for each of the two nights, and end with 1 if a sound scan was not scored."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--sound", type=int, default=1000)
    parser.add_argument("--hostile", type=int, default=200)
    parser.add_argument("--memory", default="1073741824")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="nightread-hostile-") as name:
        folder = Path(name)
        for night, hostile in (("alone", 0), ("among hostile", given.hostile)):
            scans = folder / f"night-{hostile}"
            scans.mkdir()
            _write_sound(scans, given.sound)
            if hostile:
                _write_hostile(scans, hostile)
            found = _score(scans, folder / f"home-{hostile}", given.memory)
            print(json.dumps({"night": night, **found}))
            if found["statuses"].get("sound scored") != given.sound:
                sys.exit(1)


if __name__ == "__main__":
    main()
