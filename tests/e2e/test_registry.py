"""Changing the model with the real program: beside running workers, and without a server."""

import json

import pytest
import sqlalchemy as sa

from db.engine import make_engine
from nightread.model.bundle import DEFAULT_MODEL
from tests.factories import make_card, small_chest, write_jpeg
from tests.onnx_factories import make_onnx, write_tiny_bundle
from tests.program import hold_reading, last_json, make_environment, run, wait_until, worker

SCANS = 32  # as many as an import takes at most for its parity


@pytest.fixture
def night(tmp_path):
    folder = tmp_path / "night"
    for number in range(SCANS):
        write_jpeg(folder / f"{number:02}.jpg", small_chest(number))
    return folder


@pytest.fixture
def env(tmp_path):
    """A machine with two bundles that are not in the database."""
    for version, bias in (("1", -2.0), ("2", -1.0)):
        write_tiny_bundle(tmp_path / "elsewhere", version, bias=bias)
    return make_environment(tmp_path, models_dir=tmp_path / "models", model="", threads=1)


@pytest.fixture
def call(env, tmp_path):
    def call(*arguments, expect=0, env=env):
        done = run(*arguments, env=env, cwd=tmp_path, expect=expect)
        return last_json(done) if "--json" in arguments and not expect else done

    return call


@pytest.fixture
def count(postgres_url):
    """Count the scans of a run that have a certain status."""
    database = make_engine(postgres_url)

    def count(run_id, status):
        query = sa.text("SELECT count(*) FROM scans WHERE run_id = :run AND status = :status")
        with database.connect() as connection:
            return connection.execute(query, {"run": run_id, "status": status}).scalar()

    yield count
    database.dispose()


@pytest.fixture
def imported(call, tmp_path):
    """Both bundles imported, tiny@1 in production."""
    for version in "12":
        call("models", "import", tmp_path / "elsewhere" / "tiny" / version)
    call("models", "promote", "tiny@1", "--yes")


def test_promotion_needs_no_restart_of_a_worker_and_a_run_keeps_its_model(
    env, call, night, tmp_path, postgres_url, redis_url, count
):
    env |= {
        "NIGHTREAD_DATABASE_URL": postgres_url, "NIGHTREAD_BROKER_URL": redis_url, "NIGHTREAD_SWEEP_S": "1",
        "NIGHTREAD_JOB_SIZE": "4", "NIGHTREAD_BATCH_SIZE": "4",
    }  # fmt: skip
    call("db", "upgrade")
    for version in "12":
        call("models", "import", tmp_path / "elsewhere" / "tiny" / version)
    call("models", "promote", "tiny@1", "--yes")

    log = tmp_path / "worker.log"
    gate, held = hold_reading(tmp_path, "20.jpg")
    with worker(env | held, tmp_path, log) as process:
        first = call("enqueue", night, "--json")["run"]
        wait_until(lambda: count(first, "scored") >= 2, "the first scored scans")
        turnover = call("models", "promote", "tiny@2", "--yes", "--json")
        second = call("enqueue", night, "--json")["run"]
        gate.unlink()
        ended = [call("status", reference, "--follow", "--json") for reference in (first, second)]
        assert process.poll() is None

    assert (turnover["production"], turnover["replaced"]) == ("tiny@2", "tiny@1")
    assert [(summary["model"], summary["scored"]) for summary in ended] == [("tiny@1", SCANS), ("tiny@2", SCANS)]
    before, after = (find_scores(call, run_id) for run_id in (first, second))
    assert before.keys() == after.keys()
    assert all(before[path] < after[path] for path in before)
    said = log.read_text()
    assert " ERROR " not in said
    assert "model tiny@1 ready" in said
    assert "model tiny@2 ready" in said
    assert str(night) not in said


def find_scores(call, run_id):
    rows = json.loads(call("results", run_id, "--format", "json").stdout)
    return {row["path"]: row["score"] for row in rows}


def test_imported_bundle_passes_its_check(call, tmp_path):
    assert call("models", "import", tmp_path / "elsewhere" / "tiny" / "1", "--json")["model"] == "tiny@1"
    assert call("models", "check", "tiny@1", "--json")["ok"] is True


def test_shadow_compares_all_scans_of_a_past_run_and_leaves_its_results_alone(call, imported, night):
    past = call("score", night, "--name", "past", "--json")
    assert past["model"] == "tiny@1"
    rows = call("results", "past", "--format", "csv").stdout

    shadow = call("shadow", "past", "--model", "tiny@2", "--json")

    assert (shadow["model"], shadow["shadow"], shadow["scored"], shadow["compared"]) == (
        "tiny@1", "tiny@2", SCANS, SCANS,
    )  # fmt: skip
    figures = shadow["labels"]["pneumonia"]
    flips = sum(flip["scans"] for flip in figures["flips"])
    assert figures["agreed"] + flips == SCANS
    assert figures["shift"]["mean"] > 0.1
    shown = call("shadow", "past", "--model", "tiny@2").stdout
    assert f"{SCANS} scored in the run = {SCANS} compared; {SCANS} reused" in shown
    assert "normal -> uncertain" in shown
    assert [one["run"] for one in call("runs", "--json")] == [past["run"]]
    assert call("results", "past", "--format", "csv").stdout == rows

    refused = call("models", "promote", "tiny@2", expect=2)
    assert f"{flips} decisions of {SCANS} scans would change" in refused.stdout
    assert "add --yes" in refused.stderr
    call("models", "promote", "tiny@2", "--yes")
    promoted = call("score", night, "--json")
    assert (promoted["model"], promoted["reused"]) == ("tiny@2", SCANS)  # from the shadow


def test_rollback_restores_the_production_model_before(call, imported):
    call("models", "promote", "tiny@2", "--yes")
    assert next(one["found"] for one in call("doctor", "--json") if one["check"] == "model").startswith("tiny@2 on ")

    digests = {one["model"]: one["digest"] for one in call("models", "list", "--json")}
    assert call("models", "rollback", "--json") == {
        "production": "tiny@1", "digest": digests["tiny@1"], "replaced": "tiny@2",
    }  # fmt: skip

    assert call("models", "rollback", "--json")["production"] == DEFAULT_MODEL  # the one that ships
    assert f"no production model before {DEFAULT_MODEL}" in call("models", "rollback", expect=1).stderr
    shown = call("models", "show", "tiny@2", "--json")
    assert [change["cause"] for change in shown["stages"]] == ["promoted", "replaced"]
    assert all("@" in change["changed_by"] for change in shown["stages"])


def test_retired_model_is_refused_until_its_retirement_is_undone(call, imported, night):
    assert "in production: promote another first" in call("models", "retire", "tiny@1", expect=1).stderr
    call("models", "retire", "tiny@2")
    refused = call("score", night, "--model", "tiny@2", expect=1).stderr
    assert "tiny@2 is retired" in refused
    assert refused.count("\n") == 1

    assert call("models", "retire", "tiny@2", "--undo", "--json") == {
        "model": "tiny@2", "stage": "candidate", "changed": True,
    }  # fmt: skip
    assert call("score", night, "--model", "tiny@2", "--json")["model"] == "tiny@2"


@pytest.mark.parametrize("inputs", [[], ["--inputs", "night"]], ids=["drawn", "given"])
def test_an_onnx_file_from_elsewhere_becomes_a_model(call, night, tmp_path, inputs):
    (tmp_path / "model.onnx").write_bytes(make_onnx())
    (tmp_path / "card.json").write_text(json.dumps(make_card(version="3")))

    imported = call("models", "import", "model.onnx", "--card", "card.json", *inputs, "--json")

    assert (imported["model"], imported["parity_scans"]) == ("tiny@3", 32 if inputs else 8)
    shown = call("models", "check", "tiny@3").stdout
    assert shown.count("ok ") == 9
    assert "importing machine" in call("models", "show", "tiny@3", "--json")["limitations"][-1]
    assert call("score", night, "--model", "tiny@3", "--json")["scored"] == SCANS


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["import", "none.onnx"], 2, ["there is no none.onnx"]),
        (["import", "model.onnx"], 2, ["--card card.json", "models show --json"]),
        (["import", "elsewhere/tiny/1", "--card", "card.json"], 2, ["is a folder", "leave out"]),
        (["import", "model.onnx", "--card", "card.json", "--inputs", "none"], 2, ["no file in none"]),
        (["import", "model.onnx", "--card", "wrong.json"], 1, ["card: labels", "batches of 1 only"]),
        (["promote", "none@1"], 1, ["no model bundle none@1", "NIGHTREAD_MODELS_DIR"]),
        (["rollback"], 1, ["no production model", "models promote"]),
        (["retire", "none@1"], 1, ["no model bundle none@1"]),
        (["check", "none@1"], 1, ["no model bundle none@1"]),
    ],
)
def test_an_error_is_one_line_with_its_remedy(call, tmp_path, arguments, code, words):
    (tmp_path / "model.onnx").write_bytes(make_onnx(batch=1) if "wrong.json" in arguments else make_onnx())
    (tmp_path / "card.json").write_text(json.dumps(make_card()))
    (tmp_path / "wrong.json").write_text(json.dumps(make_card(labels=[])))
    done = call("models", *arguments, expect=code)
    assert done.stderr.count("\n") == 1
    assert [word for word in words if word not in done.stderr] == []


def test_a_version_is_named_in_full_before_anything_changes(call):
    for command in ("promote", "retire"):
        assert "NAME@VERSION" in call("models", command, "tiny", expect=2).stderr


def test_a_damaged_bundle_is_shown_in_the_list_and_fails_its_check(call, tmp_path):
    call("models", "import", tmp_path / "elsewhere" / "tiny" / "1")
    (tmp_path / "models" / "tiny" / "1" / "parity.npz").write_bytes(b"")
    listed = {one["model"]: one for one in call("models", "list", "--json")}
    assert "parity.npz" in listed["tiny@1"]["error"]
    assert listed["tiny@1"]["stage"] == "candidate"
    done = call("models", "check", "tiny@1", expect=1)
    assert "fail" in done.stdout
    assert done.stderr.startswith("nightread: tiny@1 cannot be served on this machine: ")
    assert "could" not in done.stderr
