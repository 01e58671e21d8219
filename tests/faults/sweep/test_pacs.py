"""A crash at every failpoint of what speaks with a PACS: nothing is lost, nothing is fetched, scored or sent twice."""

import itertools
from types import SimpleNamespace

import pytest
from pydicom.uid import ComprehensiveSRStorage
from sqlalchemy import select, update

from db.deliveries import deliveries
from db.engine import reading, write
from db.tables import runs, scans, schedule_nights
from db.types import DeliveryStatus, NightStatus, database_now
from tests.dicom_peers import accepting, orthanc, storescu, write_study
from tests.faults.places import names_of, sweep

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """The address of an Orthanc with a study of two views."""
    folder = tmp_path_factory.mktemp("archive")
    with orthanc(folder / "orthanc") as (http, dicom):
        storescu(dicom, *write_study(folder / "in", 0))
        yield f"http://127.0.0.1:{http}/dicom-web"


@pytest.fixture(scope="module")
def pacs():
    """A destination for reports."""
    with accepting(ComprehensiveSRStorage) as (port, got):
        yield SimpleNamespace(name=f"PACS@127.0.0.1:{port}", got=got)


def choose(is_long, first):
    """Return the points at which to crash: all, or every other one, which takes half of the time."""
    return None if is_long else itertools.count(first, 2)


def change(place, statement):
    write(place.engine, lambda connection: connection.execute(statement))


def test_fetch_by_a_schedule(places, place, archive, struck, tmp_path, is_long):
    spools = itertools.count()

    def judge(place, number):
        spool = tmp_path / f"spool-{next(spools)}"
        place.run("schedule", "add", "pacs", "--from", archive, "--spool", spool, "--at", "02:00", "--min-free", "0")
        night = ("schedule", "run", "pacs", "--night", "2026-11-29")
        point, _ = place.strike(*night, failpoint=f"any:kill:{number}")
        change(place, update(schedule_nights).values(not_before=database_now(-1)))  # the lease of a killed process ends
        place.run(*night)
        with reading(place.engine) as connection:
            made = connection.execute(select(runs.c.id, runs.c.schedule, runs.c.night)).all()
            paths = connection.execute(select(scans.c.path)).scalars().all()
            (started,) = connection.execute(select(schedule_nights)).all()
        assert [row[1:] for row in made] == [("pacs", "2026-11-29")], f"{point} at {number}"
        assert (started.status, started.run_id) == (NightStatus.STARTED, made[0].id), f"{point} at {number}"
        names = [f"{spool}/20261129/1.2.276.1/1.2.276.1.1.{one}.dcm" for one in (1, 2)]
        assert sorted(paths) == names, f"{point} at {number}"
        return point

    points = sweep(places, place.save(), judge, choose(is_long, 1))
    struck += points
    assert len(points) > 8
    assert not is_long or names_of(points) >= {
        "RECEIVE_BEFORE_RENAME", "RECEIVE_AFTER_RENAME", "RECEIVE_AFTER_BATCH", "ENQUEUE_BEFORE_COMMIT",
        "ENQUEUE_AFTER_COMMIT", "RECEIVE_BEFORE_DONE", "WRITE_BEFORE_COMMIT", "WRITE_AFTER_COMMIT",
    }  # fmt: skip


def test_send(places, place, pacs, struck, tmp_path, is_long):
    for number in range(2):
        write_study(tmp_path / "in", number, instances=1)
    place.run("enqueue", tmp_path / "in")
    place.recover()
    (run_id,) = place.run_ids()

    def judge(place, number):
        # Places send at the same time: a title of its own tells what came from which.
        destination = pacs.name.replace("PACS", f"PACS-{places.index(place)}-{number}")
        point, _ = place.strike("send", run_id, "--to", destination, failpoint=f"any:kill:{number}")
        change(place, update(deliveries).values(not_before=None))  # the claims of a killed process end
        place.run("send", run_id, "--to", destination)
        place.run("send", run_id, "--to", destination)
        with reading(place.engine) as connection:
            rows = connection.execute(select(deliveries)).all()
        assert [row.status for row in rows] == [DeliveryStatus.SENT] * 2, f"{point} at {number}"
        sent.append((point, {row.instance_uid for row in rows}))
        return point

    sent = []
    points = sweep(places, place.save(), judge, choose(is_long, 1))
    struck += points
    assert names_of(points) >= {"SEND_BEFORE", "SEND_AFTER"}
    assert not is_long or names_of(points) >= {"WRITE_BEFORE_COMMIT", "WRITE_AFTER_COMMIT"}
    uids = {str(one.SOPInstanceUID) for one in pacs.got}
    assert len(uids) == 2
    assert all(of_place == uids for _, of_place in sent), "the same results are the same objects"
    # Killed between sending and its note, a sender sends that one object again, and no other.
    assert 0 <= len(pacs.got) - 2 * len(sent) - points.count("send-after") <= points.count("write-before-commit")
