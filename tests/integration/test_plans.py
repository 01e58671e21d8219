"""Query plans: no query reads more rows than it returns."""

import re
from contextlib import closing, contextmanager

import pytest
from sqlalchemy import event, text

from db.bulk import copy_in
from db.contents import find_stored
from db.due_jobs import count_leases, take_due_jobs
from db.engine import reading, write
from db.facets import count_facets
from db.job_results import store_predictions, store_results
from db.jobs import load_open_scans
from db.leases import list_leases
from db.marks import Review
from db.pace import find_pace
from db.results import ResultFilter, stream_results
from db.runs import close_finished_runs, find_run
from db.studies import list_study_uids, roll_up
from db.tables import scans as scans_table
from db.tallies import read_tallies
from db.types import ScanStatus
from db.worklist import count_rows, read_page, read_progress
from db.worklist_request import PageOrder, PageRequest, Position
from tests.db_factories import (
    MODEL_DIGEST,
    add_run,
    claim,
    job_ids,
    new_prediction,
    open_scans,
    scored,
    sha256_of,
)
from tests.web_page import add_night

WHOLE_TABLES = re.compile(r"(?:SCAN|Seq Scan on) (?:scans|jobs|predictions|worklist_rows|tallies)(?:_\d+)*\b(?! USING)")
SORTS = re.compile(r"USE TEMP B-TREE FOR ORDER BY|(?<!Incremental )Sort  \(")


@contextmanager
def watch(connection):
    """Yield a list that collects the plans of all queries."""
    plans = []

    def explain(_connection, _cursor, statement, parameters, _context, _many):
        if not statement.lstrip().startswith(("SELECT", "UPDATE")):
            return
        how = "EXPLAIN QUERY PLAN" if connection.dialect.name == "sqlite" else "EXPLAIN"
        with closing(connection.connection.driver_connection.cursor()) as own:  # the other may be a server's
            own.execute(f"{how} {statement}", parameters)
            plans.append(statement + "\n" + "\n".join(str(row[-1]) for row in own.fetchall()))

    event.listen(connection, "before_cursor_execute", explain)
    yield plans
    event.remove(connection, "before_cursor_execute", explain)


@pytest.fixture
def connection(engine):
    """A connection to a database that scans or sorts tables only if no index applies."""
    with engine.connect() as connection:
        if engine.dialect.name == "postgresql":
            for way in ("seqscan", "sort", "hashjoin", "mergejoin", "bitmapscan"):
                connection.execute(text(f"SET enable_{way} = off"))
        yield connection


@pytest.fixture
def run_id(engine):
    add_run(engine, 3, name="open")
    return add_night(engine, [0.5, {"a": 0.25, "b": 0.75}, ScanStatus.REJECTED, None])


def show(connection, run_id):
    find_run(connection, run_id)
    read_tallies(connection, [run_id])
    count_leases(connection, run_id)
    find_pace(connection, find_run(connection, "open"))


BY_SCORE = PageRequest()


def turn_page(connection, run_id, after, request=BY_SCORE):
    tally = read_tallies(connection, [run_id])[run_id]
    read_page(connection, ResultFilter(run_id), 2, after, tally, request=request)
    count_rows(connection, ResultFilter(run_id), tally, request)


WORK = {
    "status": show,
    "sweep": lambda connection, run_id: (close_finished_runs(connection), take_due_jobs(connection, 10, 60)),
    "due jobs of a run": lambda connection, run_id: take_due_jobs(connection, 10, 60, run_id=run_id),
    "a job's scans": lambda connection, run_id: load_open_scans(connection, "a" * 32),
    "results": lambda connection, run_id: list(stream_results(connection, ResultFilter(run_id))),
    "rejected": lambda connection, run_id: list(
        stream_results(connection, ResultFilter(run_id, statuses=[ScanStatus.REJECTED]))
    ),
    "first page": lambda connection, run_id: turn_page(connection, run_id, None),
    "middle page": lambda connection, run_id: turn_page(connection, run_id, Position(0.5, 1, "a")),
    "last page": lambda connection, run_id: turn_page(connection, run_id, Position(None, 1, None)),
    "as found": lambda connection, run_id: turn_page(
        connection, run_id, Position(None, 1, None), PageRequest(PageOrder.FOUND)
    ),
    "a reason": lambda connection, run_id: turn_page(connection, run_id, None, PageRequest(reason="damaged")),
    "a folder": lambda connection, run_id: turn_page(connection, run_id, None, PageRequest(folder="/scans")),
    "unreviewed": lambda connection, run_id: turn_page(connection, run_id, None, PageRequest(review=Review.UNREVIEWED)),
    "reviewed": lambda connection, run_id: turn_page(connection, run_id, None, PageRequest(review=Review.REVIEWED)),
    "facets": lambda connection, run_id: count_facets(connection, find_run(connection, run_id)),
    "workers": lambda connection, run_id: list_leases(connection),
    "studies": lambda connection, run_id: roll_up(connection, list_study_uids(connection, 2, "1.2")),
    "health": lambda connection, run_id: read_progress(connection),
}


@pytest.mark.parametrize("work", WORK.values(), ids=WORK.keys())
def test_no_large_table_is_read_as_a_whole(connection, run_id, work):
    with watch(connection) as plans:
        work(connection, run_id)
    assert plans
    assert [plan for plan in plans if WHOLE_TABLES.search(plan)] == []


#: What people ask of the views; each names the rows of an index, whatever other nights hold.
QUESTIONS = {
    "last night's high scores": "SELECT path FROM results WHERE time >= '2026-11-28' AND label = 'a' AND score >= 0.9",
    "positives of a run by name": "SELECT path, score FROM results WHERE run = 'night' AND decision = 'pneumonia' "
    "ORDER BY score DESC LIMIT 50",
    "one file": "SELECT run, score, time FROM results WHERE path = '/scans/00001.png'",
    "one folder": "SELECT count(*) FROM results WHERE path LIKE '/scans/ward-3/%'",
    "failures of a week": "SELECT reason, count(*) FROM results "
    "WHERE status = 'failed' AND time >= '2026-11-21' GROUP BY 1",
    "one content": "SELECT run, path, score FROM results WHERE sha256 = 'abc'",
    "one study": "SELECT run, path, score FROM results WHERE study = '1.2.3'",
    "the newest rows": "SELECT path, score, time FROM results ORDER BY time DESC LIMIT 20",
    "what is known of a file": "SELECT run, score FROM latest_results WHERE path = '/scans/00001.png'",
    "last night's latest": "SELECT path FROM latest_results WHERE time >= '2026-11-28' AND decision = 'pneumonia'",
    "a study's roll-up": "SELECT score, decision FROM studies WHERE study = '1.2.3'",
    "a folder of a run": "SELECT decision, sum(scans) FROM folders WHERE run_id = 'abc' GROUP BY decision",
    "the newest nights": "SELECT * FROM nights WHERE run_id = 'abc'",
}


@pytest.mark.parametrize("question", QUESTIONS.values(), ids=QUESTIONS.keys())
def test_a_question_about_few_rows_reads_no_table_as_a_whole(connection, run_id, question):
    with watch(connection) as plans:
        connection.exec_driver_sql(question.replace("%", "%%") if "postgresql" in connection.dialect.name else question)
    assert [plan for plan in plans if WHOLE_TABLES.search(plan)] == []


@pytest.mark.parametrize(
    ("question", "first"),
    [
        *((QUESTIONS[name], "SEARCH scans USING INDEX ix_scans_finished_at_status") for name in (
            "last night's high scores", "failures of a week", "last night's latest",
        )),
        (QUESTIONS["the newest rows"], "SCAN scans USING INDEX ix_scans_finished_at_status"),
        ("SELECT count(*) FROM results WHERE score >= 0.95", "SCAN worklist_rows"),
    ],
)  # fmt: skip
def test_sqlite_begins_at_the_scans_of_a_time_and_without_one_at_the_scores(sqlite_engine, question, first):
    add_night(sqlite_engine, [0.5])
    with sqlite_engine.connect() as connection, watch(connection) as plans:
        connection.exec_driver_sql(question)
    (plan,) = plans
    assert plan.removeprefix(question + "\n").startswith(first)


def test_the_newest_rows_are_not_sorted(connection, run_id):
    with watch(connection) as plans:
        connection.exec_driver_sql(QUESTIONS["the newest rows"])
    assert [plan for plan in plans if SORTS.search(plan)] == []


@pytest.mark.parametrize(
    ("question", "index"),
    [
        ("positives of a run by name", r"(?:pk_worklist_rows|worklist_rows_2\w+)"),
        ("the newest rows", "_scan_id_run_id(?:_idx)?"),
        ("failures of a week", "_scan_id_run_id(?:_idx)?"),
    ],
)
def test_scores_are_looked_up_by_run_or_by_scan_and_never_in_all_runs(postgres_engine, question, index):
    """Plans on newly filled tables, for which PostgreSQL has no statistics; each run has thousands of rows."""
    for table in ("scans", "worklist_rows"):
        with reading(postgres_engine) as connection:
            lie = f"relkind = 'r' AND {is_table_or_part('oid', table)}"
            parts = connection.execute(text(f"SELECT oid::regclass FROM pg_class WHERE {lie}")).scalars()
            still = [f"ALTER TABLE {part} SET (autovacuum_enabled = false)" for part in parts]
        write(postgres_engine, lambda connection, still=still: connection.exec_driver_sql("; ".join(still)))
    for _ in range(2):
        add_night(postgres_engine, [0.5] * 3_000)
    with postgres_engine.connect() as connection, watch(connection) as plans:
        connection.exec_driver_sql(QUESTIONS[question].replace("%", "%%"))
    (plan,) = plans
    assert re.search(rf"{index} on worklist_rows.*\n\W+Index Cond: .*run_id", plan), plan


def test_rows_come_in_the_order_of_an_index(connection, run_id):
    with watch(connection) as plans:
        WORK["results"](connection, run_id)
    assert [plan for plan in plans if SORTS.search(plan)] == []


def test_ending_a_job_reads_its_own_predictions_however_many_there_are(postgres_engine):
    """Plans on newly filled tables, for which PostgreSQL has no statistics."""
    read = []
    query = select_rows_read("predictions")

    def end(held):
        scans = open_scans(postgres_engine, held.job_id)
        outcomes, predictions = [scored(scan) for scan in scans], [new_prediction(scan.id) for scan in scans]

        def work(connection):
            for way in ("seqscan", "bitmapscan"):  # of so small a table they would be right
                connection.execute(text(f"SET LOCAL enable_{way} = off"))
            before = connection.execute(query).scalar_one()
            assert store_results(connection, held, outcomes, predictions)
            read.append(connection.execute(query).scalar_one() - before == len(scans))

        write(postgres_engine, work)

    for job_id in job_ids(postgres_engine, add_run(postgres_engine, 480, job_size=48)):
        end(claim(postgres_engine, job_id))
    assert read == [True] * len(read)
    assert len(read) > 10


def test_ending_a_job_reads_its_own_scans_however_many_are_queued(postgres_engine):
    """Plans on newly filled tables, for which PostgreSQL has no statistics."""
    read, query = [], select_rows_read("scans")

    def end(held):
        outcomes = [scored(scan) for scan in open_scans(postgres_engine, held.job_id)]

        def work(connection):
            before = connection.execute(query).scalar_one()
            assert store_results(connection, held, outcomes, [new_prediction(scan.scan_id) for scan in outcomes])
            return connection.execute(query).scalar_one() - before

        read.append((write(postgres_engine, work), len(outcomes)))

    for job_id in job_ids(postgres_engine, add_run(postgres_engine, 10_000, job_size=48))[:8]:
        end(claim(postgres_engine, job_id))
    assert [rows for rows, mine in read if rows > 2 * mine] == []


def test_looking_a_content_up_costs_no_more_after_many_runs(engine):
    """On newly filled tables, for which PostgreSQL has no statistics."""
    run_id, few, many = add_run(engine, 1), sha256_of(1), sha256_of(2)
    names = ("run_id", "path", "size_bytes", "sha256", "status", "attempts", "reused", "brightness_rule")
    names += ("created_at", "finished_at")
    rows = [
        (run_id, f"/scans/{digest}-{number}.png", 1, digest, "scored", 1, True, "window", *["2026-11-28 00:00:00"] * 2)
        for digest, count in ((few, 1), (many, 2_000)) for number in range(count)
    ]  # fmt: skip

    def fill(connection):
        copy_in(connection, scans_table, names, rows)
        store_predictions(connection, [new_prediction(1), new_prediction(2)])

    write(engine, fill)
    costs = []
    for digest in (few, many):
        with reading(engine) as connection, count_work(connection) as work:
            assert find_stored(connection, [digest], MODEL_DIGEST, "1", 1).brightness == {digest: ("window", None)}
            costs.append(work())
    assert costs[1] <= costs[0] + 3


def select_rows_read(table):
    """Select the rows of a table that this transaction has read, of all its partitions."""
    read = "SELECT sum(seq_tup_read + idx_tup_fetch) FROM pg_stat_xact_user_tables"
    return text(f"{read} WHERE {is_table_or_part('relid', table)}")


def is_table_or_part(number, table):
    parts = f"SELECT inhrelid FROM pg_inherits WHERE inhparent = '{table}'::regclass"
    return f"({number} = '{table}'::regclass OR {number} IN ({parts}))"


@contextmanager
def count_work(connection):
    """Yield a function that returns the instructions of SQLite's machine so far, or the rows of `scans` read."""
    if connection.dialect.name == "sqlite":
        steps = []
        driver = connection.connection.driver_connection
        driver.set_progress_handler(lambda: steps.append(1), 1)
        yield lambda: len(steps)
        driver.set_progress_handler(None, 1)
    else:
        read = select_rows_read("scans")
        yield lambda: connection.execute(read).scalar_one()
