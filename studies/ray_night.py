"""Score a folder with Ray Data and `nightread.score_batches`, and account for every file as `nightread score` does.

    uv run --with 'ray[data]' python -m studies.ray_night ~/scans/tonight

The code for Ray is that of docs/how-to/use-another-engine.md. Each file must have exactly one row, with the status and
the score that `score` stores. Ray's time begins after a warm-up, and that of `score` with the first job.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from db.engine import make_engine, reading
from db.results import ResultFilter, stream_results
from nightread.machine import count_cores

_BATCH = 64
_ROUNDING = 1e-6
_PROGRAM = Path(sys.executable).with_name("nightread")


def main() -> None:
    """Measure both ways, and end with an error if a row is lacking, doubled or another one."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder.resolve()
    load = os.getloadavg()[0]
    wanted, score_s = score_with_nightread(folder)
    found, ray_s = score_with_ray(folder)
    rows = {row["id"]: (row["status"], row["score_pneumonia"]) for row in found}
    is_counted = len(found) == len(rows) and rows.keys() == wanted.keys()
    if not is_counted or not all(is_same(rows[path], wanted[path]) for path in rows):
        raise SystemExit(f"{len(found)} rows of {len(rows)} files by Ray; {len(wanted)} files by `score`; not the same")
    rates = {"scans": len(rows), "ray": round(len(rows) / ray_s, 1), "score": round(len(rows) / score_s, 1)}
    print(json.dumps(rates | {"different_rows": 0, "load": round(load, 1)}))


def is_same(one: tuple[str, float | None], other: tuple[str, float | None]) -> bool:
    """Return whether two rows agree; the size of a batch moves a score by its last bits."""
    scores = [math.nan if score is None else score for _, score in (one, other)]
    are_near = abs(scores[0] - scores[1]) < _ROUNDING or all(map(math.isnan, scores))
    return one[0] == other[0] and are_near


def score_with_nightread(folder: Path) -> tuple[dict[str, tuple[str, float | None]], float]:
    """Return status and score of each file, and the seconds of the run."""
    with tempfile.TemporaryDirectory() as temporary:
        url = f"sqlite:///{temporary}/results.db"
        command = [_PROGRAM, "score", folder, "--json"]
        environment = os.environ | {"NIGHTREAD_DATABASE_URL": url}
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=False)  # noqa: S603
        seconds = json.loads(done.stdout.splitlines()[-1])["seconds"]
        with reading(make_engine(url)) as connection:
            rows = stream_results(connection, ResultFilter(columns=("path", "status", "score")))
            return {row["path"]: (row["status"], row["score"]) for row in rows}, seconds


def score_with_ray(folder: Path) -> tuple[list[dict[str, Any]], float]:
    """Return the rows of each file, and the seconds without the start of Ray."""
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0"}
    import ray  # no dependency of the project

    def score(batch: Any) -> Any:
        import nightread

        return next(nightread.score_batches([batch], threads=1))

    ray.init(num_cpus=count_cores(), include_dashboard=False, log_to_driver=False)
    ray.data.DataContext.get_current().enable_progress_bars = False
    scans = ray.data.read_binary_files(str(folder), include_paths=True).rename_columns({"path": "id"})
    scans.limit(_BATCH).map_batches(score, batch_size=_BATCH).take_all()
    began = time.perf_counter()
    rows = scans.map_batches(score, batch_size=_BATCH).take_all()
    seconds = time.perf_counter() - began
    ray.shutdown()
    return rows, seconds


if __name__ == "__main__":
    main()
