"""The real program, killed in the middle of an epoch, and resumed."""

import csv
import os
import signal

import numpy as np
import pytest

pytest.importorskip("tensorflow", reason="needs the extra `train`: uv sync --extra train")

from tests.program import PROGRAM, hook, make_environment, run, started, wait_until


def read_rows(folder):
    """Return the history without its times."""
    try:
        with (folder / "history.csv").open(newline="") as file:
            return [[row["epoch"], row["loss"], row["val_loss"]] for row in csv.DictReader(file)]
    except FileNotFoundError:
        return []


def test_a_killed_training_ends_with_the_epochs_and_weights_of_one_that_was_not(base_request, tmp_path):
    env = make_environment(tmp_path)
    common = ["train", "pediatric", "--data", base_request.data, "--batch-size", 4, "--shares", "60/20/20"]
    # Each step waits a little, so that there is a middle of an epoch to be killed in.
    slow = env | hook(tmp_path / "slow", "trainer.fit.batches", "encode_targets", "targets", "time.sleep(0.1)")
    killed = [*common, "--epochs", 8, "--out", tmp_path / "killed"]
    with started(
        [PROGRAM, *killed],
        slow,
        tmp_path,
        tmp_path / "log",
    ) as process:
        wait_until(lambda: len(read_rows(tmp_path / "killed")) >= 2, "two epochs", 120)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    before = read_rows(tmp_path / "killed")
    assert 2 <= len(before) < 8
    assert not (tmp_path / "killed/training.json").exists()
    run(*killed, env=env, cwd=tmp_path, expect=1)  # it asks for --resume
    run(*killed, "--resume", env=env, cwd=tmp_path)
    run(*common, "--epochs", 8, "--out", tmp_path / "whole", env=env, cwd=tmp_path)
    rows = read_rows(tmp_path / "killed")
    assert rows[: len(before)] == before
    assert rows == read_rows(tmp_path / "whole")
    assert [row[0] for row in rows] == [str(epoch) for epoch in range(1, 9)]
    with np.load(tmp_path / "killed/state-0008.npz") as first, np.load(tmp_path / "whole/state-0008.npz") as second:
        assert all(np.array_equal(first[name], second[name]) for name in first.files)
