"""Commands in any order, each of which may be killed at any point, leave a ledger whose rules hold.

Hypothesis plays enqueue, sweep, retry, cancel, promote, prune and upgrade beside workers that claim jobs, store, give
back, split, lose their lease and come back late. After each step `db.consistency` audits the ledger; at the end all
that was accepted is scored. With `--long` the sequences are many and not the same each time.
"""

import contextlib
from datetime import timedelta

import pytest
from alembic import command
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import select, update

from db.cancellation import cancel_run
from db.consistency import check_ledger
from db.contents import find_stored
from db.due_jobs import mark_unpublished, take_due_jobs
from db.engine import read_clock, reading, write
from db.job_results import store_results
from db.jobs import claim_job, load_open_scans, release_job, renew_lease, split_job
from db.registry import Request, find_production, promote_model, register_model, retire_model, roll_back
from db.retention import prune
from db.runs import create_run, retry_run
from db.schema import REVISION, read_revision, upgrade
from db.tables import jobs, metadata, runs, scans
from db.tallies import ScanOutcome
from db.types import JobStatus, RunStatus, ScanStatus, database_now
from nightread.errors import WrongStage
from nightread.failpoints import set_strike
from tests.db_factories import LEASE_S, expire_lease, new_measurement, new_model, new_prediction, new_run, sha256_of
from tests.db_factories import new_scans as list_scans
from tests.integration.test_schema import run_alembic
from worker.runs.guards import end_runs

#: Contents are few, so that runs share them.
_CONTENTS = 6
MODELS = [new_model(digest=letter * 64, version=letter) for letter in "abc"]
#: At which point of its way a command is killed, counted from one; most live.
KILLS = st.one_of(st.none(), st.none(), st.integers(1, 6))
OUTCOMES = st.sampled_from([*[ScanStatus.SCORED] * 3, ScanStatus.REJECTED, ScanStatus.FAILED, None])
SOME_RUN = st.integers(0, 5)


class Killed(BaseException):
    """The process has died: nobody catches it, and its transaction is never committed."""


@contextlib.contextmanager
def dying(number):
    """Kill what is inside at its N-th failpoint; yields a list that is empty while it lives."""
    passed, dead = 0, []

    def strike(point, fault):
        nonlocal passed
        passed += 1
        if passed == number:
            dead.append(point)
            raise Killed

    set_strike(strike if number else None)
    try:
        yield dead
    except Killed:
        pass
    finally:
        set_strike(None)


class LedgerMachine(RuleBasedStateMachine):
    """One ledger; `make_engine` empties it."""

    empty = None

    @initialize()
    def begin(self):
        """Begin with an empty ledger that knows the models."""
        self.engine = self.empty()
        self.claims = []
        self.ended = {}
        write(self.engine, lambda connection: [register_model(connection, model) for model in MODELS])

        self.enqueue(4, 2, MODELS[0], None)

    def find_runs(self):
        with reading(self.engine) as connection:
            return list(connection.execute(select(runs.c.id).order_by(runs.c.created_at, runs.c.id)).scalars())

    def choose_run(self, number):
        found = self.find_runs()
        return found[number % len(found)] if found else None

    @rule(count=st.integers(0, 6), job_size=st.integers(1, 3), model=st.sampled_from(MODELS), kill=KILLS)
    def enqueue(self, count, job_size, model, kill):
        """What was confirmed is there; what was not is there as a whole or not at all."""
        run = new_run(model=model, job_size=job_size, settings={"job_size": job_size}, guards={})
        with dying(kill) as dead, contextlib.suppress(WrongStage):
            run_id = write(self.engine, lambda connection: create_run(connection, run, list_scans(count)))
            assert run_id in self.find_runs()
        with reading(self.engine) as connection:
            found = connection.execute(select(scans.c.id).where(scans.c.run_id == run.id)).all()
        assert len(found) == (count if run.id in self.find_runs() else 0), dead

    @rule(kill=KILLS)
    def publish(self, kill):
        """Take due jobs for messages, of which some are lost with their process."""
        with dying(kill):
            taken = write(self.engine, lambda connection: take_due_jobs(connection, 3, 60.0))
            assert len(set(taken)) == len(taken)
            again = write(self.engine, lambda connection: take_due_jobs(connection, 100, 60.0))
            assert not set(taken) & set(again), "a job was published twice"
            write(self.engine, lambda connection: mark_unpublished(connection, again))

    @rule(number=st.integers(0, 9), kill=KILLS)
    def claim(self, number, kill):
        """A worker takes a job that is not done, whether or not a message came."""
        if open_jobs := self.list_open():
            self.try_to_claim(open_jobs[number % len(open_jobs)], kill)

    @rule(number=st.integers(0, 9))
    def claim_again(self, number):
        """A second message names a job that is done, or that somebody holds."""
        if self.claims:
            self.try_to_claim(self.claims[number % len(self.claims)].job_id, None)

    @precondition(lambda self: self.claims)
    @rule(number=st.integers(0, 9), kill=KILLS)
    def take_over(self, number, kill):
        """A worker is away for longer than its lease, and another one takes its job."""
        claimed = self.claims[-1 - number % len(self.claims)]
        if self.is_held(claimed):
            expire_lease(self.engine, claimed.job_id)
            self.try_to_claim(claimed.job_id, kill)

    def try_to_claim(self, job_id, kill):
        before = self.fetch_job(job_id)
        held_by = [other for other in self.claims if other.job_id == job_id and self.is_held(other)]
        with dying(kill):
            claimed = write(
                self.engine, lambda connection: claim_job(connection, job_id, "worker", LEASE_S, embedded=False)
            )
            if claimed is not None:
                assert before.status is not JobStatus.DONE
                assert not any(self.is_held(other) for other in held_by)
                self.claims.append(claimed)

    def fetch_job(self, job_id):
        with reading(self.engine) as connection:
            return connection.execute(select(jobs).where(jobs.c.id == job_id)).one_or_none()

    def is_held(self, claimed):
        """Whether a claim is the newest of its job, which nobody has ended."""
        job = self.fetch_job(claimed.job_id)
        return job is not None and (job.status, job.lease_token) == (JobStatus.LEASED, claimed.token)

    @precondition(lambda self: self.claims)
    @rule(number=st.integers(0, 9), outcomes=st.lists(OUTCOMES, min_size=3, max_size=3), kill=KILLS)
    def store(self, number, outcomes, kill):
        """A worker stores what it has; a late one changes no scan."""
        claimed = self.claims[-1 - number % len(self.claims)]
        before, is_held = self.sign(), self.is_held(claimed)
        with dying(kill) as dead:
            stored = write(self.engine, lambda connection: self.store_some(connection, claimed, outcomes))
            assert stored is is_held
        if not is_held:
            assert self.sign() == before, dead

    def store_some(self, connection, claimed, outcomes):
        model_digest = connection.execute(select(runs.c.model_digest).where(runs.c.id == claimed.run_id)).scalar()
        open_scans = load_open_scans(connection, claimed.job_id)
        contents = [sha256_of(scan.id % _CONTENTS) for scan in open_scans]
        predicted = find_stored(connection, contents, model_digest or "", "1", 1).predicted
        ended, predictions = [], {}
        for scan, content, status in zip(open_scans, contents, outcomes, strict=False):
            if status is ScanStatus.SCORED:
                reused = content in predicted or content in predictions
                ended.append(ScanOutcome(scan.id, status, content, reused=reused))
                score = int(content, 16) / _CONTENTS
                predictions[content] = new_prediction(
                    sha256=content, model_digest=model_digest, score=score,
                    decision="pneumonia" if score >= 0.5 else "normal",
                )  # fmt: skip
            elif status is not None:
                ended.append(ScanOutcome(scan.id, status, content, reason_code="damaged", reason_text="cut short"))
        is_whole = len(ended) == len(open_scans)
        new = [one for content, one in predictions.items() if content not in predicted]
        measured = [new_measurement(sha256=one.sha256, model_digest=model_digest) for one in new]
        return store_results(connection, claimed, ended, new, measured, retry_in_s=None if is_whole else 0.0)

    @precondition(lambda self: self.claims)
    @rule(number=st.integers(0, 9), how=st.sampled_from(["renew", "give back", "crash", "split"]), kill=KILLS)
    def hold(self, number, how, kill):
        """A worker renews its lease, or gives its job back in one of three ways; a late one changes nothing."""
        claimed = self.claims[-1 - number % len(self.claims)]
        before, is_held = self.sign(), self.is_held(claimed)

        def work(connection):
            if how == "renew":
                return renew_lease(connection, claimed, LEASE_S)
            if how != "split":
                return release_job(connection, claimed, 0.0, is_crash=how == "crash")
            halves = load_open_scans(connection, claimed.job_id)
            return bool(split_job(connection, claimed, halves, 1)) if len(halves) > 1 else is_held

        with dying(kill):
            assert write(self.engine, work) is is_held
        if not is_held:
            assert self.sign() == before

    @rule(kill=KILLS)
    def sweep(self, kill):
        """Close, judge and count ended runs."""
        with dying(kill):
            end_runs(self.engine)

    @rule(number=SOME_RUN, kill=KILLS)
    def cancel(self, number, kill):
        """A run that was cancelled has no open scan, and its workers are late ones."""
        run_id = self.choose_run(number)
        if run_id is None:
            return
        with dying(kill):
            cancel_run(self.engine, run_id, "cancelled", "the run was cancelled")
            with reading(self.engine) as connection:
                status = connection.execute(select(runs.c.status).where(runs.c.id == run_id)).scalar()
                assert status in {RunStatus.CANCELLED, RunStatus.FINISHED}
            assert not any(self.is_held(claimed) for claimed in self.claims if claimed.run_id == run_id)

    @rule(number=SOME_RUN, job_size=st.integers(1, 3), kill=KILLS)
    def retry(self, number, job_size, kill):
        """All failed scans of a run are open again, or none."""
        run_id = self.choose_run(number)
        if run_id is None:
            return
        with dying(kill):
            write(
                self.engine,
                lambda connection: retry_run(
                    connection, run_id, job_size, embedded=False, settings={"job_size": job_size}
                ),
            )
            with reading(self.engine) as connection:
                failed = select(scans.c.id).where(scans.c.run_id == run_id, scans.c.status == ScanStatus.FAILED)
                assert connection.execute(failed).first() is None

    @rule(keep=st.booleans(), kill=KILLS)
    def prune_ended(self, keep, kill):
        """Open runs stay as they are."""
        with reading(self.engine) as connection:
            cutoff = read_clock(connection) + timedelta(days=1)
            is_open = runs.c.status.in_([RunStatus.QUEUED, RunStatus.RUNNING])
            open_runs = set(connection.execute(select(runs.c.id).where(is_open)).scalars())
        with dying(kill):
            prune(self.engine, cutoff, keep_positives=keep)
            if not keep:
                assert set(self.find_runs()) == open_runs
        assert open_runs <= set(self.find_runs())
        self.ended = {}  # what is pruned is gone

    @rule(model=st.sampled_from(MODELS), how=st.sampled_from(["promote", "roll back", "retire"]), kill=KILLS)
    def change_stage(self, model, how, kill):
        """There is a production model from the first promotion on."""
        with reading(self.engine) as connection:
            before = find_production(connection)
        request = Request(changed_by="tester@here")

        def work(connection):
            if how == "retire":
                return retire_model(connection, model.digest, request)
            return roll_back(connection, request) if how == "roll back" else promote_model(connection, model, request)

        with dying(kill), contextlib.suppress(WrongStage):
            write(self.engine, work)
            if how == "promote":
                with reading(self.engine) as connection:
                    assert find_production(connection).digest == model.digest
        with reading(self.engine) as connection:
            assert before is None or find_production(connection) is not None

    @rule(kill=KILLS)
    def upgrade_again(self, kill):
        """Go back by a revision, as an operator may, and forward again, perhaps at the second try."""
        before = f"{int(REVISION) - 1:04}"
        run_alembic(self.engine, lambda config: command.downgrade(config, before))
        with dying(kill):
            upgrade(self.engine)
        self.engine.dispose()  # PostgreSQL's prepared statements are of the tables before
        upgrade(self.engine)
        assert read_revision(self.engine) == REVISION

    def sign(self):
        """Return all that a late worker must not change."""
        with reading(self.engine) as connection:
            rows = connection.execute(select(scans).order_by(scans.c.id)).all()
            return rows, connection.execute(select(jobs).order_by(jobs.c.id)).all()

    @invariant()
    def the_rules_hold(self):
        """Every rule of the ledger holds, and what has a score keeps it."""
        with reading(self.engine) as connection:
            broken = [rule for rule in check_ledger(connection) if rule.broken and rule.is_fault]
            rows = connection.execute(select(scans.c.id, scans.c.sha256).where(scans.c.status == ScanStatus.SCORED))
            now = {row.id: row.sha256 for row in rows}
        assert broken == []
        assert self.ended.items() <= now.items(), "a score was lost"
        self.ended = now

    def teardown(self):
        """When all is over, every scan of every run that is left ends, once."""
        set_strike(None)
        if not hasattr(self, "engine"):
            return
        for _ in range(3):
            write(self.engine, lambda connection: connection.execute(update(jobs).values(not_before=None)))
            late = update(jobs).where(jobs.c.status == JobStatus.LEASED).values(lease_expires_at=database_now(-1.0))
            write(self.engine, lambda connection, late=late: connection.execute(late))
            for job_id in self.list_open():
                write(self.engine, lambda connection, job_id=job_id: self.finish(connection, job_id))
        end_runs(self.engine)
        assert self.list_open() == []
        with reading(self.engine) as connection:
            left = set(connection.execute(select(runs.c.status).distinct()).scalars())
            queued = connection.execute(select(scans.c.id).where(scans.c.status == ScanStatus.QUEUED)).all()
        assert (left - {RunStatus.FINISHED, RunStatus.CANCELLED}, queued) == (set(), [])
        self.the_rules_hold()

    def list_open(self):
        with reading(self.engine) as connection:
            query = select(jobs.c.id).where(jobs.c.status != JobStatus.DONE).order_by(jobs.c.created_at, jobs.c.id)
            return list(connection.execute(query).scalars())

    def finish(self, connection, job_id):
        claimed = claim_job(connection, job_id, "last", LEASE_S, embedded=False)
        assert self.store_some(connection, claimed, [ScanStatus.SCORED] * 3)


def play(empty, *, examples, is_long):
    """Play sequences of commands; the same few each time unless there is a night's time."""
    machine = type("Machine", (LedgerMachine,), {"empty": staticmethod(empty)})
    profile = settings(
        max_examples=400 if is_long else examples,
        stateful_step_count=50 if is_long else 25,
        derandomize=not is_long,
        database=None,
        deadline=None,
        phases=[Phase.generate, Phase.shrink] if is_long else [Phase.generate],  # to shrink takes minutes
        suppress_health_check=list(HealthCheck),
        print_blob=True,
    )
    run_state_machine_as_test(machine, settings=profile)


@pytest.mark.timeout(7200)
def test_commands_in_any_order_and_killed_anywhere(engine, is_long):
    order = list(reversed(metadata.sorted_tables))

    def empty():
        write(engine, lambda connection: [connection.execute(table.delete()) for table in order])
        return engine

    play(empty, examples=12 if engine.dialect.name == "sqlite" else 5, is_long=is_long)  # a step there takes 20 ms more
