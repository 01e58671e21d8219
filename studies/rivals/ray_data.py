"""Rival: Ray Data with a decoding map, a batch map with ONNX Runtime, and Parquet output.

`python ray_data.py FOLDER MODEL.onnx CORES HEIGHT WIDTH CHANNELS`; prints JSON.
"""

import io
import json
import logging
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"

import numpy as np
import ray
from PIL import Image

_HEIGHT, _WIDTH, _CHANNELS = map(int, sys.argv[4:7])
_BATCH = 32
_ACTOR_CPUS = 0.9


def decode(row: dict[str, Any]) -> dict[str, Any]:
    """Decode and resize one scan."""
    with Image.open(io.BytesIO(row["bytes"])) as image:
        image.draft("L", (_WIDTH, _HEIGHT))
        pixels = np.asarray(image.convert("L").resize((_WIDTH, _HEIGHT), Image.Resampling.BILINEAR), np.float32) / 255
    return {"path": row["path"], "scan": np.repeat(pixels[:, :, None], _CHANNELS, axis=2)}


class Scorer:
    """One session for each actor."""

    def __init__(self, model: str) -> None:
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = ort.InferenceSession(model, options, ["CPUExecutionProvider"])

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Score one batch."""
        name = self._session.get_inputs()[0].name
        (scores,) = self._session.run([self._session.get_outputs()[0].name], {name: np.stack(batch["scan"])})
        return {"path": batch["path"], "score": scores[:, 0]}


def run(folder: str, model: str, out: str) -> None:
    """Score a folder into Parquet files."""
    scans = ray.data.read_binary_files(folder, include_paths=True).map(decode)
    # The model has an actor of its own. A CPU share that differs from the decoding's keeps Ray from fusing both stages
    # into one process, in which a single core would decode.
    scores = scans.map_batches(
        Scorer, fn_constructor_args=(model,), batch_size=_BATCH, concurrency=1, num_cpus=_ACTOR_CPUS
    )
    scores.write_parquet(out)


def main(folder: str, model: str, cores: int) -> None:
    """Measure after Ray has started and a warm-up over a few scans has ended."""
    # One CPU more than there are, for the actor, so that decoding can use all of them.
    ray.init(num_cpus=cores + 1, include_dashboard=False, logging_level=logging.ERROR, log_to_driver=False)
    ray.data.DataContext.get_current().enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    paths = sorted(Path(folder).iterdir())
    with tempfile.TemporaryDirectory() as temporary:
        few = Path(temporary, "few")
        few.mkdir()
        for path in paths[:_BATCH]:
            shutil.copy(path, few)
        run(str(few), model, f"{temporary}/warm-up")
        started = time.perf_counter()
        run(folder, model, f"{temporary}/scores")
        took_s = time.perf_counter() - started
    print(json.dumps({"scans": len(paths), "seconds": took_s}))
    ray.shutdown()


main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
