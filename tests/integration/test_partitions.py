"""A PostgreSQL database in partitions keeps every row, rule and right, and drops whole months."""

from datetime import UTC, datetime

import pytest
from sqlalchemy import delete, insert, select, text, update
from sqlalchemy.exc import IntegrityError

import db.retention
import db.runs
from db.consistency import check_ledger
from db.engine import make_engine, reading, write
from db.page_tables import marks
from db.partition_change import PartitionChange, partition, plan_partitions
from db.partitions import first_id, keep_months, name_partition
from db.retention import count_prunable, prune
from db.runs import create_run, retry_run
from db.schema import check_rights, upgrade
from db.tables import jobs, predictions, runs, scans, worklist_rows
from db.types import ScanStatus, database_now
from nightread.errors import DatabaseUnavailable, SettingsError
from tests.db_factories import (
    MODEL_DIGEST,
    add_run,
    at_once,
    count,
    fetch_run,
    fetch_scans,
    in_background,
    new_run,
    new_scans,
    wait_until_blocked,
)
from tests.factories import ROOT
from tests.web_page import add_night

SEPTEMBER, OCTOBER, NOVEMBER, LATER = (datetime(2026, month, 29, 23, 59, 59, tzinfo=UTC) for month in (9, 10, 11, 12))
MONTHS = ("scans_2026_09", "scans_2026_10", "scans_2026_11")
TABLES = ("scans", "worklist_rows", "predictions", "measurements")
CANONICAL = """
SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid) FROM pg_constraint
WHERE conrelid::regclass::text IN ('scans', 'worklist_rows', 'predictions', 'measurements', 'marks')
AND conparentid = 0 ORDER BY 1, 2
"""
COMMENTS = """
SELECT attrelid::regclass::text, attname, col_description(attrelid, attnum) FROM pg_attribute
WHERE attrelid::regclass::text = ANY (:tables) AND attnum > 0 ORDER BY 1, attnum
"""
RIGHTS = """
SELECT relname, array(SELECT grantee::regrole::text || privilege_type FROM aclexplode(relacl) ORDER BY 1)
FROM pg_class WHERE relname = ANY (:tables) OR relkind = 'v' AND relnamespace = 'public'::regnamespace ORDER BY 1
"""


@pytest.fixture
def plain(postgres_url):
    """PostgreSQL with empty tables that a test may change."""
    engine = make_engine(postgres_url)
    upgrade(engine)
    yield engine
    engine.dispose()


@pytest.fixture
def engine(plain, clock):
    """The same in partitions, from September to November 2026."""
    partition(plain, 2, SEPTEMBER)
    return plain


@pytest.fixture
def clock(monkeypatch):
    """Set the time at which runs are made; first September."""
    monkeypatch.setattr(db.retention, "keep_months", lambda engine: [])  # by the database's clock it is another month
    times = [SEPTEMBER]
    monkeypatch.setattr(db.runs, "read_clock", lambda connection: times[-1])
    return times.append


def ask(engine, query, **given):
    with reading(engine) as connection:
        return [tuple(row) for row in connection.execute(text(query), given)]


def run_sql(engine, *statements):
    for statement in statements:
        write(engine, lambda connection, statement=statement: connection.exec_driver_sql(statement))


def places(engine, run_id):
    """Return the partitions in which the scans of a run lie."""
    return {
        name for (name,) in ask(engine, "SELECT tableoid::regclass::text FROM scans WHERE run_id = :run", run=run_id)
    }


def partitions(engine):
    query = "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'scans'::regclass ORDER BY 1"
    return [name for (name,) in ask(engine, query)]


def faults(engine):
    with reading(engine) as connection:
        return [rule.rule for rule in check_ledger(connection) if rule.broken and rule.is_fault]


def age(engine, run_id):
    write(engine, lambda connection: connection.execute(
        update(runs).where(runs.c.id == run_id).values(finished_at=database_now(-100 * 86_400.0))
    ))  # fmt: skip


def add_old_night(engine, scores=(0.5, 0.25, ScanStatus.REJECTED)):
    run_id = add_night(engine, list(scores))
    age(engine, run_id)
    return run_id


def mark(engine, run_id):
    (scan, *_) = fetch_scans(engine, run_id)
    write(engine, lambda connection: connection.execute(insert(marks).values(
        run_id=run_id, scan_id=scan.id, model_digest=MODEL_DIGEST, user_name="x", kind="seen", at=database_now(),
    )))  # fmt: skip


def prune_old(engine, **options):
    with reading(engine) as connection:
        cutoff = db.retention.find_cutoff(connection, 90 * 86_400.0)
        expected = count_prunable(connection, cutoff, keep_positives=options.get("keep_positives", False))
    pruned = prune(engine, cutoff, **{"keep_positives": False} | options)
    assert pruned == expected
    return pruned


class TestPartition:
    def test_every_row_key_comment_and_right_stays_and_scans_are_not_copied(self, plain):
        run_sql(plain, (ROOT / "docs" / "reader.sql").read_text().replace("%", "%%"))
        run_sql(plain, "GRANT UPDATE (note) ON marks TO nightread_reader", "COMMENT ON TABLE scans IS '100 %% scans'")
        run_sql(plain, "CREATE VIEW mine AS SELECT path FROM results JOIN scans USING (path) WHERE path LIKE '%%'")
        run_id = add_night(plain, [0.5, {"a": 0.25, "b": 0.75}, ScanStatus.REJECTED, None])
        mark(plain, run_id)
        read = "SELECT * FROM results ORDER BY scan_id, label"
        views = ("latest_results", "studies", "nights", "folders", "mine", *TABLES)

        def look():
            counts = [ask(plain, f"SELECT count(*) FROM {view}") for view in views]
            held = ask(plain, COMMENTS, tables=list(TABLES)), ask(plain, RIGHTS, tables=list(TABLES))
            return ask(plain, read), counts, ask(plain, CANONICAL), *held, ask(
                plain, "SELECT obj_description('scans'::regclass), pg_get_serial_sequence('scans', 'id')"
            )  # fmt: skip

        before, file = look(), ask(plain, "SELECT pg_relation_filenode('scans')")
        done = partition(plain)
        assert (done.tables, done.copied, len(done.months)) == (TABLES, 3, 4)
        assert look() == before
        assert ask(plain, "SELECT pg_relation_filenode('scans_before')") == file
        add_night(plain, [0.5])
        assert ask(plain, read) != before[0]
        assert faults(plain) == []
        check_rights(plain)

    def test_a_dry_run_tells_it_and_changes_nothing(self, plain):
        add_night(plain, [0.5])
        run_sql(plain, "ANALYZE")
        told = plan_partitions(plain, 1)
        assert partitions(plain) == []
        assert partition(plain, 1) == told

    def test_a_second_time_only_months_are_added(self, engine):
        assert partition(engine, 1, OCTOBER) == PartitionChange()
        assert plan_partitions(engine, 0).tables == ()
        assert partition(engine, 2, OCTOBER).months == ("scans_2026_12",)
        assert partitions(engine) == [*MONTHS, "scans_2026_12", "scans_before"]
        assert ask(engine, "SELECT count(*) FROM pg_inherits WHERE inhparent = 'predictions'::regclass") == [(4,)]

    def test_two_at_once_are_one(self, plain):
        done = at_once([lambda: partition(plain)] * 2)
        assert sorted(len(one.tables) for one in done) == [0, 4]

    def test_sqlite_is_refused_in_one_sentence(self, sqlite_engine):
        for act in (partition, plan_partitions):
            with pytest.raises(SettingsError, match="only PostgreSQL has partitions"):
                act(sqlite_engine)
        assert keep_months(sqlite_engine) == []

    @pytest.mark.parametrize(
        ("made", "thing"),
        [
            ("CREATE MATERIALIZED VIEW mine AS SELECT * FROM scans", "the materialized view mine"),
            ("CREATE POLICY mine ON predictions USING (true)", "the policy mine"),
            ("CREATE PUBLICATION mine FOR TABLE measurements", "the publication mine"),
            (
                "CREATE TRIGGER mine BEFORE UPDATE ON scans EXECUTE FUNCTION suppress_redundant_updates_trigger()",
                "the trigger mine",
            ),
        ],
    )
    def test_what_would_be_lost_is_named_before_anything_is_changed(self, plain, made, thing):
        run_sql(plain, made)
        with pytest.raises(SettingsError, match=f"{thing} hangs on the table"):
            partition(plain)
        assert partitions(plain) == []

    def test_a_later_migration_changes_all_partitions_and_those_to_come(self, engine):
        run_sql(
            engine,
            "ALTER TABLE scans ADD COLUMN later INTEGER NOT NULL DEFAULT 7",
            "CREATE INDEX ix_scans_later ON scans (later)",
            "ALTER TABLE predictions ADD COLUMN later INTEGER",
            "ALTER TABLE predictions ALTER COLUMN score DROP NOT NULL",
            "DROP INDEX ix_scans_sha256",
        )
        partition(engine, 3, SEPTEMBER)
        indexes = "SELECT count(*) FROM pg_indexes WHERE tablename = :table"
        assert ask(engine, indexes, table="scans_2026_12") == ask(engine, indexes, table="scans_2026_09")
        run_id = add_run(engine, 1)
        assert ask(engine, "SELECT later FROM scans WHERE run_id = :run", run=run_id) == [(7,)]


class TestConstraints:
    def test_keys_checks_and_references_hold_in_every_partition(self, engine, clock):
        for time in (SEPTEMBER, NOVEMBER):
            clock(time)
            run_id = add_night(engine, [0.5])
            (scan,) = fetch_scans(engine, run_id)
            row = {name: value for name, value in scan._mapping.items() if name != "id"}
            other = row | {"path": "/scans/other.png"}
            for statement in (
                insert(scans).values(row),  # unique (run, path)
                insert(scans).values(other | {"run_id": "0" * 32}),
                insert(scans).values(other | {"job_id": "0" * 32}),
                insert(scans).values(other | {"reason_code": "x"}),
                insert(scans).values(other | {"id": scan.id}),
                update(predictions).values(score=1.5),
                update(predictions).values(model_digest="0" * 64),
                insert(worklist_rows).from_select(list(worklist_rows.c), select(worklist_rows)),
                insert(predictions).from_select(list(predictions.c), select(predictions)),
                delete(runs).where(runs.c.id == run_id),
                delete(jobs).where(jobs.c.run_id == run_id),
            ):
                with pytest.raises(IntegrityError):
                    write(engine, lambda connection, statement=statement: connection.execute(statement))
            mark(engine, run_id)

    def test_a_scan_is_looked_up_in_its_partition_alone(self, engine, clock):
        clock(OCTOBER)
        (scan,) = fetch_scans(engine, add_run(engine, 1))
        plan = str(ask(engine, f"EXPLAIN SELECT * FROM scans WHERE id = {scan.id}"))
        assert "on scans_2026_10" in plan
        assert "Append" not in plan


class TestMonths:
    def test_ids_begin_with_the_month_of_the_run_and_never_go_back(self, engine, clock):
        found = []
        for time in (SEPTEMBER, NOVEMBER, OCTOBER):
            clock(time)
            run_id = add_run(engine, 2)
            found.append((places(engine, run_id), [scan.id % 10**10 for scan in fetch_scans(engine, run_id)]))
        assert found == [({MONTHS[0]}, [0, 1]), ({MONTHS[2]}, [0, 1]), ({MONTHS[2]}, [2, 3])]
        assert fetch_scans(engine, run_id)[0].id < 2**53

    def test_ids_go_on_in_the_month_before_while_one_has_no_partition(self, engine, clock):
        add_run(engine, 1)
        clock(LATER)
        assert places(engine, add_run(engine, 1)) == {MONTHS[0]}
        assert keep_months(engine, 0, LATER) == ["scans_2026_12"]
        assert places(engine, add_run(engine, 1)) == {"scans_2026_12"}

    def test_a_partition_that_was_taken_out_is_not_written_to(self, engine, clock):
        run_sql(engine, "ALTER TABLE scans DETACH PARTITION scans_2026_10")
        clock(OCTOBER)
        assert places(engine, add_run(engine, 1)) == {MONTHS[0]}

    def test_a_run_has_one_partition_although_the_month_turns_while_it_is_written(self, engine, clock):
        add_run(engine, 1)
        with engine.begin() as writing:
            first = create_run(writing, new_run(), new_scans(3))
            clock(OCTOBER)
            second = add_run(engine, 3)  # waits for nobody, and goes on with the old month
        third = add_run(engine, 3)
        assert [places(engine, run_id) for run_id in (first, second, third)] == [{MONTHS[0]}] * 2 + [{MONTHS[1]}]

    def test_enqueuers_at_the_turn_share_no_id(self, engine, clock):
        add_run(engine, 1)
        clock(OCTOBER)
        made = at_once([lambda: add_run(engine, 50)] * 8)
        assert {len(places(engine, run_id)) for run_id in made} == {1}
        ids = [scan.id for run_id in made for scan in fetch_scans(engine, run_id)]
        assert len(set(ids)) == len(ids) == 400
        assert faults(engine) == []

    def test_the_month_of_a_partition_is_in_its_name_and_its_ids(self):
        month = 2026 * 12 + 10
        assert name_partition("scans", month) == "scans_2026_11"
        assert first_id(month) == 243_220_000_000_000

    def test_attaching_a_month_waits_for_no_reader(self, engine):
        with reading(engine) as connection:
            connection.execute(select(scans)).all()
            assert keep_months(engine, 0, LATER) == ["scans_2026_12"]


class TestPruning:
    def test_a_month_of_old_runs_is_dropped(self, engine, clock):
        old = add_old_night(engine)
        mark(engine, old)
        clock(OCTOBER)
        young = add_night(engine, [0.75])
        pruned = prune_old(engine)
        assert (pruned.runs, pruned.scans, pruned.worklist_rows, pruned.predictions) == (1, 3, 2, 2)
        assert partitions(engine) == list(MONTHS[1:])  # `scans_before` held nothing
        assert ask(engine, "SELECT to_regclass('worklist_rows_2026_09')::text, to_regclass('scans_2026_09')::text") == [
            (None, None)
        ]
        assert count(engine, young).scored == 1
        assert ask(engine, "SELECT count(*) FROM marks") == [(0,)]
        assert faults(engine) == []

    def test_rows_from_before_the_partitions_are_dropped_likewise(self, plain, clock):
        add_old_night(plain)
        partition(plain, 0, OCTOBER)
        clock(OCTOBER)
        add_run(plain, 1)
        assert prune_old(plain).scans == 3
        assert partitions(plain) == ["scans_2026_10"]
        assert faults(plain) == []

    @pytest.mark.parametrize("reason", ["a young run", "positives are kept", "the month goes on"])
    def test_a_month_that_is_needed_loses_rows_alone(self, engine, clock, reason):
        add_old_night(engine)
        young = add_night(engine, [0.75]) if reason == "a young run" else None
        if reason != "the month goes on":
            clock(OCTOBER)
            add_run(engine, 1)
        prune_old(engine, keep_positives=reason == "positives are kept")
        assert MONTHS[0] in partitions(engine)
        assert faults(engine) == []
        if young:
            assert count(engine, young).scored == 1

    def test_a_month_that_somebody_reads_loses_rows_alone_and_soon(self, engine, clock):
        add_old_night(engine)
        clock(OCTOBER)
        add_run(engine, 1)
        with reading(engine) as backup:
            backup.execute(select(scans)).all()
            assert prune_old(engine).runs == 1
        assert MONTHS[0] in partitions(engine)
        assert faults(engine) == []

    def test_a_run_in_two_months_keeps_counts_that_add_up(self, engine, clock, monkeypatch):
        """Enqueuers of the release before share no lock, so that the month may turn within their run."""
        run_id = add_old_night(engine)
        moved = first_id(2026 * 12 + 9) + 5_000
        (scan, *_) = fetch_scans(engine, run_id)
        run_sql(engine, f"UPDATE worklist_rows SET scan_id = {moved} WHERE scan_id = {scan.id}")
        run_sql(engine, f"UPDATE scans SET id = {moved} WHERE id = {scan.id}")
        clock(OCTOBER)
        add_run(engine, 1)
        monkeypatch.setattr(db.retention, "_delete_tally", lambda connection, run: pytest.exit("interrupted"))
        with pytest.raises(pytest.exit.Exception):
            prune_old(engine)
        assert MONTHS[0] not in partitions(engine)
        assert (count(engine, run_id).scored, fetch_run(engine, run_id).pruned) == (1, 2)
        assert faults(engine) == []
        monkeypatch.undo()
        clock(OCTOBER)
        assert prune_old(engine).runs == 1

    def test_an_interruption_leaves_the_month(self, engine, clock, monkeypatch):
        run_id = add_old_night(engine)
        clock(OCTOBER)
        add_run(engine, 1)

        def die(point):
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(db.retention, "failpoint", die)
            with pytest.raises(KeyboardInterrupt):
                prune_old(engine)
        assert MONTHS[0] in partitions(engine)
        assert count(engine, run_id).scored == 2
        assert faults(engine) == []

    def test_a_run_that_is_retried_meanwhile_keeps_its_month(self, engine, clock):
        run_id = add_old_night(engine)
        run_sql(
            engine,
            "UPDATE scans SET status = 'failed' WHERE status = 'rejected'",
            "UPDATE tallies SET kind = 'failed' WHERE kind = 'rejected'",
        )
        clock(OCTOBER)
        add_run(engine, 1)
        with engine.begin() as retrying:
            assert retry_run(retrying, run_id, 64, embedded=False, settings={}) == 1
            pruning = in_background(lambda: prune(engine, datetime.now(UTC), keep_positives=False))
            wait_until_blocked(engine)
        assert pruning.result(30).scans == 0
        assert count(engine, run_id).queued == 1
        assert faults(engine) == []

    def test_two_at_once_drop_it_once(self, engine, clock):
        add_old_night(engine)
        clock(OCTOBER)
        add_run(engine, 1)
        with reading(engine) as connection:
            cutoff = db.retention.find_cutoff(connection, 90 * 86_400.0)
        done = at_once([lambda: prune(engine, cutoff, keep_positives=False)] * 2)
        assert sum(one.scans for one in done) == 3
        assert faults(engine) == []


@pytest.fixture
def worker(engine):
    """The engine of a role that may write rows and change no table, as the page on operations makes it."""
    run_sql(
        engine,
        "DO $$ BEGIN IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'nightread_worker') THEN "
        "CREATE ROLE nightread_worker LOGIN; END IF; END $$",
    )
    made = make_engine(engine.url.set(username="nightread_worker").render_as_string(hide_password=False))
    yield made
    made.dispose()


GRANTS = (
    "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO nightread_worker",
    "GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO nightread_worker",
)


class TestRights:
    def test_a_role_that_changes_no_table_works_and_deletes_row_by_row(self, engine, clock, worker):
        run_sql(engine, *GRANTS)
        add_old_night(worker)
        clock(OCTOBER)
        assert places(engine, add_run(worker, 1)) == {MONTHS[0]}  # it may not change the sequence
        run_sql(engine, "GRANT UPDATE ON SEQUENCE scans_id_seq TO nightread_worker")
        assert places(engine, add_run(worker, 1)) == {MONTHS[1]}
        assert keep_months(worker, 0, LATER) == []
        assert prune_old(worker).scans == 3
        assert MONTHS[0] in partitions(engine)
        assert faults(worker) == []

    def test_it_cannot_add_a_month(self, engine, worker):
        run_sql(engine, *GRANTS)
        with pytest.raises(DatabaseUnavailable, match="permission denied"):
            partition(worker, 5)

    def test_who_may_insert_scans_may_begin_a_month(self, plain, clock, monkeypatch):
        run_sql(plain, "DROP ROLE IF EXISTS nightread_other", "CREATE ROLE nightread_other LOGIN")
        run_sql(plain, *(grant.replace("_worker", "_other") for grant in GRANTS))
        partition(plain, 2, SEPTEMBER)
        other = make_engine(plain.url.set(username="nightread_other").render_as_string(hide_password=False))
        clock(OCTOBER)
        assert places(plain, add_run(other, 1)) == {MONTHS[1]}
        other.dispose()
        run_sql(plain, "DROP OWNED BY nightread_other", "DROP ROLE nightread_other")
        assert add_run(plain, 1)
