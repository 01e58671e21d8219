"""The checker reports each broken invariant, and nothing if all hold."""

import re
from dataclasses import replace

import pytest
from sqlalchemy import text

from db.engine import write
from db.job_results import NewPrediction, store_results
from db.runs import NewScan, close_finished_runs
from db.tables import metadata
from db.tallies import ScanOutcome
from db.types import ScanStatus
from nightread.model.bundle import find_bundle, load_bundle
from tests.db_factories import add_run, claim, job_ids, open_scans, sha256_of
from tests.faults import checker
from tests.faults.checker import Evidence, Expected, Outcome, Violation, WorkerSeen, check
from worker.registry.choose import describe_model

SCORES = {sha256_of(1): {"pneumonia": 0.99}, sha256_of(2): {"pneumonia": 0.01}}
OUTCOMES = {
    "/night/1": Outcome(ScanStatus.SCORED, sha256=sha256_of(1)),
    "/night/2": Outcome(ScanStatus.SCORED, sha256=sha256_of(2)),
    "/night/cut": Outcome(ScanStatus.REJECTED, "damaged"),
}
EXPECTED = Expected(OUTCOMES, SCORES)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return load_bundle(find_bundle("pneumonia-cnn75", tmp_path_factory.mktemp("models")))


def score_run(engine, bundle, *, reused=False):
    """Insert a run of three scans and end it like a worker; returns its id."""
    model = describe_model(bundle)
    run_id = add_run(engine, [NewScan(path, 10) for path in OUTCOMES], model=model, name="CANARY", sources=["/CANARY"])
    (job_id,) = job_ids(engine, run_id)
    held = claim(engine, job_id)
    outcomes = [
        ScanOutcome(
            scan.id, OUTCOMES[scan.path].status, OUTCOMES[scan.path].sha256, OUTCOMES[scan.path].reason,
            OUTCOMES[scan.path].reason, reused=reused and OUTCOMES[scan.path].reason is None,
        )
        for scan in open_scans(engine, job_id)
    ]  # fmt: skip
    found = [
        NewPrediction(
            sha256, model.digest, model.preprocessing, label, score, bundle.card.decide((score,))[0], "onnxruntime 0",
            "CPUExecutionProvider", "cpu", 2, "worker-1",
        )
        for sha256, labels in SCORES.items() for label, score in labels.items()
    ]  # fmt: skip
    write(engine, lambda connection: store_results(connection, held, outcomes, [] if reused else found))
    write(engine, close_finished_runs)
    return run_id


@pytest.fixture
def sound(engine, bundle, redis_url):
    """Evidence of a run and its repetition without violations."""
    first, again = score_run(engine, bundle), score_run(engine, bundle, reused=True)
    return Evidence(
        engine,
        {first: EXPECTED, again: EXPECTED},
        redis_url=redis_url,
        logs={"worker.log": "job 1: 3 scans ended"},
        canaries=["CANARY"],
        workers=[WorkerSeen("1")],
        drained_s=1.0,
        repeated={again: first},
    )


def test_nothing_is_found_where_all_is_well(sound):
    assert check(sound) == []


@pytest.fixture
def loose(sqlite_engine, bundle):
    """The night in tables without constraints, so that anything can be written into them."""
    first = score_run(sqlite_engine, bundle)
    again = score_run(sqlite_engine, bundle, reused=True)
    with sqlite_engine.begin() as connection:
        views = connection.execute(text("SELECT name, sql FROM sqlite_master WHERE type = 'view'")).all()
        for name, _ in views:
            connection.execute(text(f"DROP VIEW {name}"))
        for table in map(str, reversed(metadata.sorted_tables)):
            connection.execute(text(f"CREATE TABLE bare AS SELECT * FROM {table}"))
            connection.execute(text(f"DROP TABLE {table}"))
            connection.execute(text(f"ALTER TABLE bare RENAME TO {table}"))
        for _, sql in views:
            connection.exec_driver_sql(sql)
    evidence = Evidence(sqlite_engine, {first: EXPECTED, again: EXPECTED}, repeated={again: first})
    assert check(evidence) == []
    return evidence


def spoil(evidence, statement):
    with evidence.engine.begin() as connection:
        assert connection.execute(text(statement)).rowcount
    return check(evidence)


_FIRST = "run_id = (SELECT id FROM runs ORDER BY rowid LIMIT 1)"
_AGAIN = "run_id = (SELECT id FROM runs ORDER BY rowid DESC LIMIT 1)"


@pytest.mark.parametrize(
    ("statement", "found"),
    [
        (f"DELETE FROM scans WHERE path = '/night/2' AND {_FIRST}", "I1: .* 1 scans lost, without a row: /night/2"),
        (
            f"UPDATE scans SET status = 'queued', finished_at = NULL WHERE path = '/night/2' AND {_FIRST}",
            "I1: .* 1 scans lost, without a terminal status: /night/2",
        ),
        (f"UPDATE scans SET path = '/other' WHERE path = '/night/2' AND {_FIRST}", "I1: .* 1 scans unexpected: /other"),
        (f"INSERT INTO scans SELECT * FROM scans WHERE path = '/night/2' AND {_FIRST}", "I1: .* 1 scans doubled"),
        ("DELETE FROM runs WHERE id IN (SELECT run_id FROM scans)", "I1: accepted runs have no row"),
        (f"UPDATE scans SET run_id = 'none' WHERE path = '/night/2' AND {_FIRST}", "I1: 1 scans belong to no run"),
        ("INSERT INTO predictions SELECT * FROM predictions LIMIT 1", "I2: 1 predictions doubled"),
        ("DELETE FROM predictions WHERE score > 0.5", "I3: scan 1 is scored and has predictions for \\[\\]"),
        ("UPDATE predictions SET label = 'other' WHERE score > 0.5", "I3: scan 1 is scored and has .*'other'"),
        ("UPDATE predictions SET decision = 'normal' WHERE score > 0.5", "I3: the decisions of 00000000"),
        ("UPDATE scans SET reason_code = 'odd' WHERE status = 'rejected'", "I3: .* unknown reason: odd"),
        ("UPDATE scans SET status = 'failed' WHERE status = 'rejected'", "I3: .* a reason of the other status"),
        ("UPDATE scans SET reason_code = 'blank' WHERE status = 'scored'", "I3: .* has the reason blank"),
        (
            f"UPDATE scans SET sha256 = '{sha256_of(1)}' WHERE status = 'rejected'",
            "I3: scan 3 is rejected although its content has predictions",
        ),
        ("UPDATE predictions SET score = score - 0.001 WHERE score > 0.5", "I4: 00000000 scored 0.989.*run 0.99"),
        (f"UPDATE predictions SET sha256 = '{sha256_of(9)}' WHERE score > 0.5", "I4: .* no undisturbed run scores"),
        (
            f"UPDATE scans SET sha256 = '{sha256_of(2)}' WHERE path = '/night/1' AND {_FIRST}",
            "I4: .*: /night/1 ended scored of 00000000, in an undisturbed run scored of 00000000",
        ),
        (
            "UPDATE scans SET status = 'failed', reason_code = 'storage-error' WHERE status = 'rejected'",
            "I4: .* /night/cut ended failed storage-error, in an undisturbed run rejected damaged",
        ),
        ("UPDATE jobs SET status = 'queued'", "I5: 2 jobs are still queued"),
        ("UPDATE jobs SET status = 'leased', lease_expires_at = '2999-01-01 00:00:00.000000'", "I5: 2 leases are live"),
        ("UPDATE runs SET status = 'running'", "I5: run .* is still running"),
        (f"UPDATE scans SET reused = 0 WHERE {_AGAIN}", "I9: repeated run: 2 scans"),
        ("UPDATE predictions SET created_at = '2999-01-01 00:00:00.000000'", "I9: repeated run: 2 new predictions"),
        ("UPDATE runs SET found = 4", "I9: run .* has found 4 scans and holds 3"),
        ("DELETE FROM tallies", "I9: run .*: its tally is missing, or does not add up"),
        ("UPDATE tallies SET count = count + 1 WHERE kind = 'found'", "I9: run .*: its tally is missing, or does not"),
        (
            "UPDATE tallies SET name = 'blank' WHERE kind = 'rejected'",
            "I9: run .*: the tally says .*'blank'",
        ),
        ("UPDATE tallies SET count = 2 WHERE name = 'pneumonia'", "I9: run .*: the tally says .*2.*, the predictions"),
        (
            "DELETE FROM worklist_rows WHERE minus_score < -0.5",
            "I9: the worklist lacks 2 rows that the predictions hold",
        ),
        ("UPDATE worklist_rows SET decision = 'x'", "I9: the worklist holds 4 rows that the predictions lack"),
    ],
)
def test_tables_that_break_an_invariant_are_found(loose, statement, found):
    violations = spoil(loose, statement)
    assert any(re.match(found, str(violation)) for violation in violations), violations


def test_a_run_that_enqueue_has_not_confirmed_is_judged_where_one_was_to_be_expected(sound):
    _, *rest = sound.accepted
    evidence = replace(sound, accepted=dict.fromkeys(rest, EXPECTED))
    assert [violation.invariant for violation in check(evidence)] == ["I1"]
    assert check(replace(evidence, uncertain=EXPECTED)) == []
    other = Expected({**OUTCOMES, "/night/3": Outcome(ScanStatus.SCORED)}, SCORES)
    assert "1 scans lost" in str(check(replace(evidence, uncertain=other))[0])


def test_either_of_two_outcomes_may_be_right(sound):
    either = {**OUTCOMES, "/night/cut": [Outcome(ScanStatus.FAILED, "missing-file"), OUTCOMES["/night/cut"]]}
    assert check(replace(sound, accepted=dict.fromkeys(sound.accepted, Expected(either, SCORES)))) == []


def test_what_is_left_in_redis_is_found(sound, redis_server):
    client = redis_server.connect()
    client.lpush("nightread:nightread", "{}")
    client.hset("nightread:unacked", "1", '{"args": "CANARY"}')
    client.set("CANARY", "1")
    assert set(map(str, check(sound))) == {
        "I5: 1 messages lie in the queue",
        "I5: 1 messages are not acknowledged",
        "I8: CANARY lies in Redis, below b'CANARY'",
        "I8: CANARY lies in Redis, below b'nightread:unacked'",
    }


@pytest.mark.parametrize(
    ("worker", "found"),
    [
        (WorkerSeen("2", is_alive=False), "worker 2 is not alive"),
        (WorkerSeen("2", has_progressed=False), "worker 2 is alive and has committed nothing since the fault"),
        (WorkerSeen("2", rss_bytes=2**31), "worker 2 uses 2048 MiB of memory; allowed are 1024"),
    ],
)
def test_a_worker_that_is_gone_stands_still_or_grows_is_found(sound, worker, found):
    assert check(replace(sound, workers=[WorkerSeen("1"), worker])) == [Violation("I6", found)]


def test_draining_that_takes_too_long_is_found(sound):
    assert check(replace(sound, drained_s=61.0)) == [Violation("I7", "draining took 61.0 s; allowed are 60.0")]


def test_a_canary_in_a_log_is_found(sound):
    (violation,) = check(replace(sound, logs={"worker.log": "fine\ncannot read /CANARY/1.dcm\n"}))
    assert violation == Violation("I8", "CANARY stands in worker.log: cannot read /CANARY/1.dcm")


def test_a_canary_in_a_table_is_found(sound):
    with sound.engine.begin() as connection:
        connection.execute(text("UPDATE scans SET reason_text = 'bad tag CANARY' WHERE status = 'rejected'"))
    assert check(sound) == [Violation("I8", "CANARY stands in 2 rows of scans.reason_text")]


def test_a_report_that_is_not_what_the_tables_say_is_found(sound, monkeypatch):
    real = checker.summarise
    monkeypatch.setattr(checker, "summarise", lambda *given, **more: real(*given, **more) | {"scored": 7})
    assert {str(one).partition(": the report")[2] for one in check(sound)} == {
        " says {'rejected': 1, 'scored': 7}, the table {'rejected': 1, 'scored': 2}"
    }
