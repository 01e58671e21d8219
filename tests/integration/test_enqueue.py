"""Runs are enqueued, retried and cancelled from Python as from the command line: first commit, then publish."""

import errno
import os
from pathlib import Path
from types import SimpleNamespace

import kombu
import pytest

import db.cancellation
from db.engine import reading
from db.runs import list_runs
from db.tallies import RunCounts
from db.types import RunStatus
from nightread.errors import NightreadError, SettingsError
from nightread.reasons import Reason
from nightread.settings import read_settings
from tests.db_factories import add_run, count, fetch_run, fetch_scans
from tests.factories import write_jpeg
from tests.worker_factories import add_run_of, run_process, write_scans
from worker.errors import BrokerUnavailable, WrongPaths
from worker.queue.celery_app import make_app
from worker.queue.publisher import Publisher
from worker.runs import enqueue
from worker.runs.enqueue import cancel_run, enqueue_run, retry_run


@pytest.fixture(autouse=True)
def _no_connection_outlives_a_test():
    yield
    kombu.pools.reset()


def settings_of(broker_url):
    return read_settings(broker_url=broker_url, database_url="sqlite:///unused", device="cpu", job_size=2)


def count_waiting(settings):
    return Publisher(make_app(settings), settings).count_waiting()


def test_a_link_to_itself_is_one_rejected_row_and_keeps_nothing_else_from_being_enqueued(sqlite_engine, tmp_path):
    folder = tmp_path / "night"
    write_jpeg(folder / "a.jpg")
    (folder / "loop.jpg").symlink_to("loop.jpg")
    with run_process(sqlite_engine) as process:
        rows = fetch_scans(process.engine, add_run_of(process, folder))
    assert [(row.status, row.reason_code) for row in rows] == [("queued", None), ("rejected", Reason.NOT_A_FILE)]


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.EACCES])
def test_folder_that_is_there_and_cannot_be_listed_is_no_night_of_one_failed_scan(
    sqlite_engine, redis_url, tmp_path, monkeypatch, number
):
    folder, scandir = write_scans(tmp_path / "night", 2), os.scandir

    def fail(path):
        if path == folder:
            raise OSError(number, os.strerror(number))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", fail)
    with pytest.raises(WrongPaths, match="is its share away"):
        enqueue_run(sqlite_engine, settings_of(redis_url), [folder])
    with reading(sqlite_engine) as connection:
        assert list_runs(connection, 1) == []


@pytest.mark.parametrize("paths", [[], "/", Path("/"), ["a\0b"], [Path("\ud800")], ["/nowhere"]])
def test_paths_that_are_no_list_or_that_no_file_has_are_refused(sqlite_engine, redis_url, paths):
    with pytest.raises(WrongPaths):
        enqueue_run(sqlite_engine, settings_of(redis_url), paths)


def test_enqueue_run_commits_and_publishes(sqlite_engine, redis_url, tmp_path):
    settings, told = settings_of(redis_url), []

    def look(enqueued):
        told.append((enqueued, count(sqlite_engine, enqueued.run_id), count_waiting(settings)))

    enqueued = enqueue_run(sqlite_engine, settings, [write_scans(tmp_path / "night", 3)], name="a", on_commit=look)

    assert told == [(enqueued, RunCounts(queued=3), 0)]
    assert (fetch_run(sqlite_engine, enqueued.run_id).name, count_waiting(settings)) == ("a", 2)


def test_enqueue_run_without_its_broker_leaves_the_run_to_the_sweep(sqlite_engine, tmp_path):
    told = []
    with pytest.raises(BrokerUnavailable):
        enqueue_run(
            sqlite_engine, settings_of("redis://127.0.0.1:1/0"), [write_scans(tmp_path / "night", 1)],
            on_commit=told.append,
        )  # fmt: skip
    (enqueued,) = told
    assert count(sqlite_engine, enqueued.run_id) == RunCounts(queued=1)


def test_enqueue_run_refuses_a_broker_that_no_worker_shares(sqlite_engine, tmp_path):
    with pytest.raises(SettingsError, match="NIGHTREAD_BROKER_URL"):
        enqueue_run(sqlite_engine, read_settings(), [tmp_path])


def test_cancel_run_ends_open_scans_and_retry_run_queues_them_again(sqlite_engine, redis_url):
    run_id = add_run(sqlite_engine, 3, name="ward-a")
    settings = settings_of(redis_url)

    run, cancelled = cancel_run(sqlite_engine, "ward-a")
    assert (run.id, cancelled, count(sqlite_engine, run_id)) == (run_id, 3, RunCounts(failed=3))
    assert fetch_run(sqlite_engine, run_id).status is RunStatus.CANCELLED
    assert {row.reason_code for row in fetch_scans(sqlite_engine, run_id)} == {"cancelled"}

    run, queued = retry_run(sqlite_engine, settings, run_id[:8])
    assert (run.id, queued, count(sqlite_engine, run_id)) == (run_id, 3, RunCounts(queued=3))
    assert count_waiting(settings) == 2


def test_retry_run_of_a_run_without_failed_scans_publishes_nothing(sqlite_engine):
    add_run(sqlite_engine, 2)
    assert retry_run(sqlite_engine, settings_of("redis://127.0.0.1:1/0"), None)[1] == 0


def test_cancel_run_tells_what_another_process_made_of_the_run_meanwhile(sqlite_engine, monkeypatch):
    run_id = add_run(sqlite_engine, 3)

    def come_second(*given):
        assert db.cancellation.cancel_run(*given) == 3
        return db.cancellation.cancel_run(*given)

    monkeypatch.setattr(enqueue, "db", SimpleNamespace(cancellation=SimpleNamespace(cancel_run=come_second)))
    run, ended = cancel_run(sqlite_engine, run_id)
    assert (run.status, ended) == (RunStatus.CANCELLED, 0)


@pytest.mark.parametrize("call", [cancel_run, lambda engine, name: retry_run(engine, read_settings(), name)])
def test_an_unknown_run_is_an_error(sqlite_engine, call):
    with pytest.raises(NightreadError, match="there is no run 'none'"):
        call(sqlite_engine, "none")
