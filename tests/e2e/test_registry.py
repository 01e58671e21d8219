"""Changing the model with the real program: beside running workers, and without a server."""

import json
import os
import signal

import pytest
import sqlalchemy as sa

from db.engine import make_engine
from tests.factories import make_card, small_chest, write_jpeg
from tests.onnx_factories import make_onnx, write_tiny_bundle
from tests.program import last_json, make_environment, run, wait_until, worker


@pytest.fixture
def night(tmp_path):
    folder = tmp_path / "night"
    for number in range(60):
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


def test_a_promotion_needs_no_restart_and_a_run_keeps_its_model(env, call, night, tmp_path, postgres_url, redis_url):
    env |= {
        "NIGHTREAD_DATABASE_URL": postgres_url, "NIGHTREAD_BROKER_URL": redis_url, "NIGHTREAD_SWEEP_S": "1",
        "NIGHTREAD_JOB_SIZE": "1", "NIGHTREAD_BATCH_SIZE": "1",
    }  # fmt: skip
    call("db", "upgrade")
    for version in "12":
        call("models", "import", tmp_path / "elsewhere" / "tiny" / version)
    call("models", "promote", "tiny@1")
    database = make_engine(postgres_url)

    def count(table, **values):
        table = sa.table(table, *map(sa.column, values))
        query = sa.select(sa.func.count()).select_from(table)
        with database.connect() as connection:
            return connection.execute(query.where(*(table.c[name] == value for name, value in values.items()))).scalar()

    log = tmp_path / "worker.log"
    with worker(env, tmp_path, log) as process:
        first = call("enqueue", night, "--json")["run"]
        wait_until(lambda: count("scans", run_id=first, status="scored") >= 2, "the first scored scans")
        os.killpg(process.pid, signal.SIGSTOP)  # the promotion happens in the middle of the run, and no later
        turnover = call("models", "promote", "tiny@2", "--json")
        assert count("scans", run_id=first, status="queued") > 10
        second = call("enqueue", night, "--json")["run"]
        os.killpg(process.pid, signal.SIGCONT)
        ended = [call("status", reference, "--follow", "--json") for reference in (first, second)]
        assert process.poll() is None
    database.dispose()

    assert (turnover["production"], turnover["replaced"]) == ("tiny@2", "tiny@1")
    assert [(summary["model"], summary["scored"]) for summary in ended] == [("tiny@1", 60), ("tiny@2", 60)]
    scores = [
        {row["path"]: row["score"] for row in json.loads(call("results", one, "--format", "json").stdout)}
        for one in (first, second)
    ]
    assert scores[0].keys() == scores[1].keys()
    assert all(scores[0][path] < scores[1][path] for path in scores[0])
    assert " ERROR " not in log.read_text()
    assert "model tiny@1 ready" in log.read_text()
    assert "model tiny@2 ready" in log.read_text()
    assert str(night) not in log.read_text()


def test_the_way_of_a_model_from_import_to_rollback(call, night, tmp_path):
    elsewhere = tmp_path / "elsewhere" / "tiny"
    assert call("models", "import", elsewhere / "1", "--json")["model"] == "tiny@1"
    assert call("models", "check", "tiny@1", "--json")["ok"] is True
    call("models", "promote", "tiny@1")
    before = call("score", night, "--name", "past", "--json")
    assert before["model"] == "tiny@1"
    rows = call("results", "past", "--format", "csv").stdout

    call("models", "import", elsewhere / "2")
    shadow = call("shadow", "past", "--model", "tiny@2", "--json")
    assert (shadow["model"], shadow["shadow"], shadow["scored"], shadow["compared"]) == ("tiny@1", "tiny@2", 60, 60)
    figures = shadow["labels"]["pneumonia"]
    assert figures["agreed"] + sum(flip["scans"] for flip in figures["flips"]) == 60
    assert figures["shift"]["mean"] > 0.1
    shown = call("shadow", "past", "--model", "tiny@2").stdout
    assert "60 scored in the run = 60 compared; 60 reused" in shown
    assert "normal -> uncertain" in shown
    assert [one["run"] for one in call("runs", "--json")] == [before["run"]]
    assert call("results", "past", "--format", "csv").stdout == rows

    call("models", "promote", "tiny@2")
    after = call("score", night, "--json")
    assert (after["model"], after["reused"]) == ("tiny@2", 60)
    assert next(one["found"] for one in call("doctor", "--json") if one["check"] == "model").startswith("tiny@2 on ")
    assert call("models", "rollback", "--json") == {
        "production": "tiny@1", "digest": figures_digest(call, "tiny@1"), "replaced": "tiny@2",
    }  # fmt: skip
    assert "no production model before tiny@1" in call("models", "rollback", expect=1).stderr
    shown = call("models", "show", "tiny@2", "--json")
    assert [change["cause"] for change in shown["stages"]] == ["promoted", "replaced"]
    assert all("@" in change["changed_by"] for change in shown["stages"])

    call("models", "retire", "tiny@2")
    refused = call("score", night, "--model", "tiny@2", expect=1).stderr
    assert "tiny@2 is retired" in refused
    assert refused.count("\n") == 1
    assert "in production: promote another first" in call("models", "retire", "tiny@1", expect=1).stderr
    assert call("models", "retire", "tiny@2", "--undo", "--json") == {
        "model": "tiny@2", "stage": "candidate", "changed": True,
    }  # fmt: skip
    assert call("score", night, "--model", "tiny@2", "--json")["model"] == "tiny@2"


def figures_digest(call, reference):
    return next(one["digest"] for one in call("models", "list", "--json") if one["model"] == reference)


@pytest.mark.parametrize("inputs", [[], ["--inputs", "night"]], ids=["drawn", "given"])
def test_an_onnx_file_from_elsewhere_becomes_a_model(call, night, tmp_path, inputs):
    (tmp_path / "model.onnx").write_bytes(make_onnx())
    (tmp_path / "card.json").write_text(json.dumps(make_card(version="3")))

    imported = call("models", "import", "model.onnx", "--card", "card.json", *inputs, "--json")

    assert (imported["model"], imported["parity_scans"]) == ("tiny@3", 32 if inputs else 8)
    shown = call("models", "check", "tiny@3").stdout
    assert shown.count("ok ") == 9
    assert "importing machine" in call("models", "show", "tiny@3", "--json")["limitations"][-1]
    assert call("score", night, "--model", "tiny@3", "--json")["scored"] == 60


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["import", "none.onnx"], 2, ["there is no none.onnx"]),
        (["import", "model.onnx"], 1, ["--card card.json", "models show --json"]),
        (["import", "elsewhere/tiny/1", "--card", "card.json"], 1, ["is a folder", "leave out"]),
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
    assert "WRONG" in done.stdout
    assert done.stderr.startswith("nightread: tiny@1 cannot be served on this machine: ")
    assert "could" not in done.stderr
