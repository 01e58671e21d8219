"""Profile `nightread score` as a whole, all threads and processes, and add its samples up by stage.

    uv run --group test --with py-spy python -m studies.score_profile FOLDER --copies 5 --table docs/performance.md

Each scan of FOLDER is scored under `--copies` contents. py-spy samples what runs, at 100 Hz; a thread that waits is
left out, unless py-spy mistakes it for one that runs, which the row `waiting` tells.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from studies.page_part import write_part

#: A sample with such a frame anywhere counts for the stage.
_WHOLES: dict[str, tuple[str, ...]] = {
    "imports": ("<frozen importlib",),
    "creating the tables": ("alembic/", "db/schema.py:"),
    "opening the model": ("open_session (", "load_bundle ("),
}
#: Any other sample counts for the stage of its innermost frame that has one.
_STAGES: dict[str, tuple[str, ...]] = {
    "inference": ("onnxruntime_inference_collection.py:", "scorer.py:"),
    "decoding": ("nightread/scan/decode.py:", "nightread/scan/raster.py:", "PIL/"),
    "preparing": ("nightread/scan/preprocessing.py:", "nightread/scan/pixel_statistics.py:"),
    "reading": ("nightread/scan/files.py:",),
    "hashing": ("nightread/inference/content.py:",),
    "listing": ("nightread/scan/walk.py:",),
    "rows, leases and look-ups": ("sqlalchemy/", "(db/", "worker/jobs/"),
    "waiting": ("threading.py:331", "Heartbeat.", "selectors.py:", "worker/runs/job_pool.py:", "thread_pool.py:"),
}
_NO_FRAME = "outside Python: its start and end"
_REST = "the rest: command line and progress"


def main() -> None:
    """Profile, and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--copies", type=int, default=5)
    parser.add_argument("--table", type=Path, help="page in which the table is replaced")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        count = _copy(arguments.folder, Path(folder) / "night", arguments.copies)
        load = os.getloadavg()[0]
        stacks = _sample(Path(folder) / "night", Path(folder))
    table = make_table(add_up(stacks), count, load)
    print(table)
    if arguments.table:
        write_part(arguments.table, "studies/score_profile.py", table)


def _copy(source: Path, target: Path, copies: int) -> int:
    """Copy the files of a folder, each copy with another content; returns their number."""
    files = [path for path in sorted(source.rglob("*")) if path.is_file()]
    for copy in range(copies):
        for file in files:
            written = target / str(copy) / file.relative_to(source)
            written.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, written)
            with written.open("ab") as end:
                end.write(bytes([copy]))  # decoders read a JPEG to its end marker
    return len(files) * copies


def _sample(night: Path, folder: Path) -> list[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("NIGHTREAD_")}
    raw = folder / "stacks.txt"
    subprocess.run(  # noqa: S603  # this very program
        [
            shutil.which("py-spy") or sys.exit("py-spy is not installed: uv run --with py-spy ..."),
            "record", "--format=raw", "--subprocesses", "--rate=100", f"--output={raw}", "--",
            sys.executable, "-c", "from cli.main import run; run()", "score", str(night),
        ],
        env=kept | {"XDG_DATA_HOME": str(folder / "data")}, check=True, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    return raw.read_text(encoding="utf-8").splitlines()


def add_up(stacks: Iterable[str]) -> Counter[str]:
    """Return the samples of each stage, of py-spy's lines `frame;frame;frame COUNT`, outermost frame first."""
    samples: Counter[str] = Counter()
    for line in stacks:
        stack, _, count = line.rpartition(" ")
        samples[_find_stage(stack.split(";")[1:])] += int(count)
    return samples


def _find_stage(frames: list[str]) -> str:
    if not frames:
        return _NO_FRAME
    for stage, parts in _WHOLES.items():
        if any(part in frame for frame in frames for part in parts):
            return stage
    for frame in reversed(frames):
        for stage, parts in _STAGES.items():
            if any(part in frame for part in parts):
                return stage
    return _REST


def make_table(samples: Counter[str], count: int, load: float) -> str:
    """Return Markdown."""
    rows = [
        f"`score` of {count:,} scans, {samples.total():,} samples of all threads (load before: {load:.1f}).",
        "",
        "| stage | share of the samples |",
        "|---|---|",
        *(f"| {stage} | {samples[stage] / samples.total():.1%} |" for stage in (*_STAGES, *_WHOLES, _NO_FRAME, _REST)),
    ]
    return "\n".join(rows)


if __name__ == "__main__":
    main()
