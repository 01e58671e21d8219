"""`nightread score` and related commands without a server."""

import csv
import io
import json
import os
import re
import shutil
import signal
import subprocess

import pytest

from nightread.scan.drawn_chest import write_demo_night
from nightread.scan.files import encode_path
from tests.factories import make_nasty_folder, make_operating_points
from tests.onnx_factories import write_tiny_bundle
from tests.program import PATIENCE_S, PROGRAM, last_json, make_environment, run, slow_reading, started, wait_until

FIELDS = {
    "run", "found", "skipped", "scored", "rejected", "failed", "reused", "seconds", "scans_per_second", "model",
    "provider",
}  # fmt: skip


@pytest.fixture
def env(tmp_path):
    return make_environment(tmp_path)


def read_csv(env, tmp_path, *arguments):
    return list(
        csv.DictReader(io.StringIO(run("results", *arguments, "--format", "csv", env=env, cwd=tmp_path).stdout))
    )


def test_a_night_of_real_scans_is_scored_and_the_second_time_reused(env, tmp_path, real_data):
    first = last_json(run("score", real_data / "nightly", "--json", env=env, cwd=tmp_path))
    second = last_json(run("score", real_data / "nightly", "--json", env=env, cwd=tmp_path))

    assert first.keys() >= FIELDS
    assert (first["found"], first["scored"], first["reused"], first["failed"]) == (240, 240, first["reused"], 0)
    assert (second["scored"], second["reused"]) == (240, 240)
    rows = [read_csv(env, tmp_path, summary["run"]) for summary in (first, second)]
    assert [row["score"] for row in rows[0]] == [row["score"] for row in rows[1]]
    assert len({row["path"] for row in rows[0]}) == 240


def test_every_file_of_a_nasty_folder_is_accounted_for(env, tmp_path):
    folder = tmp_path / "nasty"
    folder.mkdir()
    expected = make_nasty_folder(folder, can_read_locked=False)
    # Root passes every permission; without these two capabilities it does not.
    drop = ["setpriv", "--bounding-set", "-dac_override,-dac_read_search"] if os.geteuid() == 0 else []

    done = subprocess.run(
        [*drop, PROGRAM, "score", folder, "--json"], env=env, cwd=tmp_path, capture_output=True, text=True, check=False
    )

    assert (done.returncode, done.stderr) == (3, "")  # what may not be looked into is the system's fault
    summary = json.loads(done.stdout)
    rows = json.loads(run("results", "--format", "json", env=env, cwd=tmp_path).stdout)
    got = {row["path"].removeprefix(f"{folder}/"): (row["status"], row["reason"]) for row in rows}
    assert got == {encode_path(name): (outcome.status, outcome.reason) for name, outcome in expected.items()}
    assert summary["found"] == len(rows) == summary["scored"] + summary["rejected"] + summary["failed"]


def test_the_demo_shows_each_decision_and_each_kind_of_fault_in_a_database_of_its_own(env, tmp_path):
    place = tmp_path / "demo"
    summary = last_json(run("demo", "--folder", place, "--json", env=env, cwd=tmp_path))
    assert (summary["scored"], summary["rejected"], summary["failed"], summary["reused"]) == (9, 6, 0, 1)
    assert last_json(run("runs", "--json", env=env, cwd=tmp_path)) == []  # the user's own results

    shown = run("demo", "--folder", place, env=env, cwd=tmp_path)
    database = re.search(r"export (NIGHTREAD_DATABASE_URL)=(\S+)", shown.stderr).groups()
    rows = read_csv(env | dict([database]), tmp_path)
    assert {row["decision"] for row in rows if row["score"]} == {"normal", "pneumonia", "uncertain"}
    assert {row["reason"] for row in rows if not row["score"]} == {
        "blank", "color-photograph", "damaged", "inverted", "not-an-image", "rotated",
    }  # fmt: skip
    assert min(float(row["score"]) for row in rows if row["score"]) < 0.05
    assert max(float(row["score"]) for row in rows if row["score"]) > 0.95
    assert "meadow.jpg" in shown.stdout
    assert "CC BY 4.0" in shown.stderr
    assert "nightread results" not in shown.stderr


def score_drawn_night(env, tmp_path):
    write_demo_night(tmp_path / "night")
    run("score", tmp_path / "night", env=env, cwd=tmp_path)


def test_results_come_in_every_format(env, tmp_path):
    from pyarrow import parquet

    score_drawn_night(env, tmp_path)
    as_csv = read_csv(env, tmp_path)
    as_json = json.loads(run("results", "--format", "json", env=env, cwd=tmp_path).stdout)
    run("results", "--format", "parquet", "--out", tmp_path / "rows.parquet", env=env, cwd=tmp_path)
    as_parquet = parquet.read_table(tmp_path / "rows.parquet").to_pylist()
    as_table = run("results", env=env, cwd=tmp_path).stdout

    assert [row["path"] for row in as_csv] == [row["path"] for row in as_json] == [row["path"] for row in as_parquet]
    assert [float(row["score"]) for row in as_csv if row["score"]] == [
        row["score"] for row in as_parquet if row["score"] is not None
    ]
    assert as_csv[0]["path"] in as_table


def test_results_are_filtered(env, tmp_path):
    score_drawn_night(env, tmp_path)
    scores = sorted(float(row["score"]) for row in read_csv(env, tmp_path, "--status", "scored"))
    middle = scores[len(scores) // 2]

    above = read_csv(env, tmp_path, "--min-score", str(middle))

    assert [float(row["score"]) >= middle for row in above] == [True] * sum(score >= middle for score in scores)
    assert read_csv(env, tmp_path, "--label", "no-such-label") == []
    assert len(read_csv(env, tmp_path, "--limit", "3")) == 3


def test_results_are_decided_at_an_operating_point_of_the_card(env, tmp_path):
    points = {"pneumonia": make_operating_points(high_sensitivity=0.2, balanced=0.5)}
    band = {"pneumonia": {"low": 0.2, "high": 0.9}}
    write_tiny_bundle(tmp_path / "models", thresholds=band, operating_points=points)
    env |= {"NIGHTREAD_MODELS_DIR": str(tmp_path / "models"), "NIGHTREAD_MODEL": "tiny@1"}
    score_drawn_night(env, tmp_path)

    balanced = [row for row in read_csv(env, tmp_path, "--operating-point", "balanced") if row["score"]]
    shown = run("results", "--operating-point", "high-sensitivity", env=env, cwd=tmp_path)
    stored = [row for row in read_csv(env, tmp_path) if row["score"]]

    assert {row["decision"] for row in stored} == {"uncertain"}
    assert [row["decision"] for row in balanced] == [
        "pneumonia" if float(row["score"]) >= 0.5 else "normal" for row in stored
    ]
    assert {row["operating_point"] for row in balanced} == {"balanced"}
    assert "operating_point" not in stored[0]
    assert "Decisions recomputed at high-sensitivity (pneumonia >= 0.2" in shown.stderr


def test_an_operating_point_that_the_card_does_not_have_is_wrong_usage_with_those_it_has(env, tmp_path):
    score_drawn_night(env, tmp_path)
    done = run("results", "--operating-point", "balanced", env=env, cwd=tmp_path, expect=2)
    assert "has no operating point 'balanced'; it has none: leave out --operating-point" in done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_an_interrupted_run_is_accounted_for_and_gone_on_with(env, tmp_path, ward, number):
    # Small jobs on slow storage, so that there is a middle to interrupt.
    slow = env | {"NIGHTREAD_JOB_SIZE": "4", "NIGHTREAD_THREADS": "1"} | slow_reading(tmp_path)
    database = tmp_path / "data" / "nightread" / "nightread.db"
    log = tmp_path / "score.log"
    with started([PROGRAM, "score", ward], slow, tmp_path, log) as process:
        wait_until(lambda: database.exists() and _count_scored(database), "the first scored scans")
        process.send_signal(number)
        assert process.wait(PATIENCE_S) == 130
    assert b"Traceback" not in log.read_bytes()
    assert re.search(
        rb"^Interrupted: storing.*\n\d+ of 60 scans are stored. Run the command again", log.read_bytes(), re.MULTILINE
    )

    stopped = last_json(run("status", "--json", env=env, cwd=tmp_path))
    assert stopped["status"] == "cancelled"
    assert stopped["queued"] == 0
    assert 0 < stopped["scored"] < 60
    assert stopped["scored"] + stopped["failed"] == 60
    resumed = run("score", ward, "--json", env=env, cwd=tmp_path)
    again = last_json(resumed)
    assert (again["run"], again["scored"], again["failed"]) == (stopped["run"], 60, 0)
    assert f"Going on with run {stopped['run'][:8]}" in resumed.stderr
    assert len(last_json(run("runs", "--json", env=env, cwd=tmp_path))) == 1


def test_a_killed_run_is_accounted_for_by_the_next_and_can_be_retried(env, tmp_path, ward):
    slow = env | {"NIGHTREAD_JOB_SIZE": "4", "NIGHTREAD_THREADS": "1"} | slow_reading(tmp_path)
    database = tmp_path / "data" / "nightread" / "nightread.db"
    with started([PROGRAM, "score", ward, "--name", "killed"], slow, tmp_path, tmp_path / "log"):
        wait_until(lambda: database.exists() and _count_scored(database), "the first scored scans")
    # Leaving the block kills it.
    run("score", next(ward.iterdir()), env=env, cwd=tmp_path)

    killed = last_json(run("status", "killed", "--json", env=env, cwd=tmp_path))
    assert (killed["status"], killed["queued"]) == ("cancelled", 0)
    retried = last_json(run("retry", "killed", "--json", env=env, cwd=tmp_path))
    assert (retried["status"], retried["scored"], retried["failed"]) == ("finished", 60, 0)


def _count_scored(database):
    import sqlite3

    try:
        with sqlite3.connect(f"file:{database}?mode=ro", uri=True) as connection:
            return connection.execute("SELECT count(*) FROM scans WHERE status = 'scored'").fetchone()[0]
    except sqlite3.OperationalError:  # no tables yet
        return 0


@pytest.mark.parametrize(
    ("arguments", "settings", "code", "words"),
    [
        (["score", "no-such-folder"], {}, 2, ["no-such-folder", "exists"]),
        (["score", "empty"], {}, 6, ["no scans in empty", "JPEG"]),
        (["score", "empty"], {"DATABASE_URL": "postgresql://u:hunter2@127.0.0.1:1/x"}, 5, ["NIGHTREAD_DATABASE_URL"]),
        (["score", "empty"], {"DATABASE_URL": "sqlite:////proc/none/x.db"}, 5, ["NIGHTREAD_DATABASE_URL"]),
        (["score", "empty"], {"DATABASE_URL": "mysql://x", "DEVICE": "tpu", "BATCH_SIZE": "0"}, 1,
         ["NIGHTREAD_DATABASE_URL", "NIGHTREAD_DEVICE", "NIGHTREAD_BATCH_SIZE"]),
        (["score", "empty", "--device", "cuda"], {}, 1, ["cuda", "NIGHTREAD_DEVICE=cpu"]),
        (["score", "empty", "--model", "none"], {}, 1, ["no model bundle none", "NIGHTREAD_MODELS_DIR"]),
        (["score", "empty"], {"SCAN_ROOTS": "/nowhere-at-all"}, 2, ["outside", "NIGHTREAD_SCAN_ROOTS"]),
        (["enqueue", "empty"], {}, 1, ["NIGHTREAD_BROKER_URL", "nightread score"]),
        (["worker"], {}, 1, ["NIGHTREAD_BROKER_URL"]),
        (["worker"], {"BROKER_URL": "redis://:hunter2@127.0.0.1:1/0"}, 5, ["127.0.0.1:1", "NIGHTREAD_BROKER_URL"]),
        (["status"], {}, 2, ["no run yet", "nightread score"]),
        (["results", "no-such-run"], {}, 2, ["no-such-run", "nightread runs"]),
    ],
)  # fmt: skip
def test_an_error_is_one_line_with_its_remedy(env, tmp_path, arguments, settings, code, words):
    (tmp_path / "empty").mkdir()
    env |= {f"NIGHTREAD_{name}": value for name, value in settings.items()}

    done = run(*arguments, env=env, cwd=tmp_path, expect=code)

    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert all(word in done.stderr for word in words)
    assert "hunter2" not in done.stderr


def test_a_damaged_bundle_is_refused_before_anything_is_written(env, tmp_path):
    from nightread.model.bundle import SHIPPED_DIR

    shipped = next(SHIPPED_DIR.glob("*/*/model.onnx")).parent
    name, version = shipped.parts[-2:]
    copy = tmp_path / "models" / name / version
    shutil.copytree(shipped, copy)
    model = bytearray((copy / "model.onnx").read_bytes())
    model[len(model) // 2] ^= 1
    (copy / "model.onnx").write_bytes(model)
    env |= {"NIGHTREAD_MODELS_DIR": str(tmp_path / "models"), "NIGHTREAD_MODEL": f"{name}@{version}"}

    done = run("score", copy, env=env, cwd=tmp_path, expect=1)

    assert f"model.onnx of the model bundle {name}/{version} is not the file that its card describes" in done.stderr
    assert last_json(run("runs", "--json", env=env, cwd=tmp_path)) == []


def test_output_into_a_closed_pipe_is_no_error(env, tmp_path):
    score_drawn_night(env, tmp_path)
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", f"{PROGRAM} results --format csv | head -1"],
        env=env, cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")


def test_doctor_finds_nothing_wrong_on_a_fresh_machine(env, tmp_path):
    findings = last_json(run("doctor", "--json", env=env, cwd=tmp_path))
    assert [finding["check"] for finding in findings if not finding["ok"]] == []
