from types import SimpleNamespace

import pytest

from nightread.errors import DatabaseUnavailable
from pacs.intake import Intake
from pacs.spool import Filed, Spool
from tests.factories import write_dicom
from worker.errors import BrokerUnavailable


class Place:
    """A spool with an intake whose clock is set, and whose runs are listed."""

    def __init__(self, folder):
        self.folder, self.now, self.runs, self.fault, self.is_committed = folder, 0.0, {}, None, True
        self.begin()

    def begin(self):
        self.spool = Spool(self.folder, max_bytes=0, min_free_bytes=0)
        self.intake = Intake(self.spool, self.make_run, quiet_s=10, clock=lambda: self.now)

    def begin_again(self):
        self.spool.close()
        self.begin()

    def make_run(self, batch, on_commit):
        if self.fault is None or self.is_committed:
            self.runs.setdefault(batch.key, batch.names)
            on_commit(SimpleNamespace(run_id=batch.key))
        if self.fault is not None:
            raise self.fault

    def receive(self, study, instance):
        uids = {"StudyInstanceUID": f"1.{study}", "SOPInstanceUID": f"1.{study}.{instance}"}
        written = write_dicom(self.spool.incoming / "tmp.dcm", StudyDate="20261129", **uids)
        self.intake.note(self.spool.file(written))

    def list_enqueued(self):
        return sorted(name for names in self.runs.values() for name in names)


@pytest.fixture
def place(tmp_path):
    place = Place(tmp_path / "spool")
    yield place
    place.spool.close()


def test_study_is_enqueued_once_it_is_quiet(place):
    place.receive(1, 1)
    place.now = 9
    place.receive(1, 2)
    place.now = 12
    place.intake.work()
    assert place.runs == {}, "its last instance came 3 s ago"
    place.now = 19
    place.intake.work()
    place.intake.work()
    assert [len(names) for names in place.runs.values()] == [2]


def test_instance_that_comes_late_gets_a_run_of_its_own(place):
    place.receive(1, 1)
    place.now = 10
    place.intake.work()
    place.receive(1, 2)
    place.receive(1, 1)  # sent again
    place.now = 20
    place.intake.work()
    assert [len(names) for names in place.runs.values()] == [1, 1]
    assert len(set(place.list_enqueued())) == 2


def test_next_process_takes_up_what_waits_and_enqueues_nothing_twice(place):
    place.receive(1, 1)
    place.now = 10
    place.intake.work()
    place.receive(2, 1)
    place.begin_again()
    assert place.intake.waiting == 1
    place.now = 20
    place.intake.work()
    assert len(place.runs) == 2
    assert place.list_enqueued() == ["20261129/1.1/1.1.1.dcm", "20261129/1.2/1.2.1.dcm"]


def test_batch_that_is_written_down_keeps_its_key_over_a_crash(place):
    place.receive(1, 1)
    place.now, place.fault, place.is_committed = 10, DatabaseUnavailable("away"), False
    place.intake.work()
    place.receive(1, 2)
    place.fault = None
    place.begin_again()
    place.now = 11
    place.intake.work()
    assert [len(names) for names in place.runs.values()] == [1], "the late instance waits until it is quiet"
    place.now = 21
    place.intake.work()
    assert [len(names) for names in place.runs.values()] == [1, 1]


def test_failure_is_tried_again_later_and_less_often(place):
    place.receive(1, 1)
    place.now, place.fault, place.is_committed = 10, DatabaseUnavailable("away"), False
    place.intake.work()
    place.fault = None
    place.now = 10.5
    place.intake.work()
    assert place.runs == {}
    place.now = 11.5
    place.intake.work()
    assert len(place.runs) == 1


def test_run_that_is_not_published_is_not_made_again(place):
    place.receive(1, 1)
    place.now, place.fault = 10, BrokerUnavailable("away")
    place.intake.work()
    place.fault = None
    place.intake.work()
    place.begin_again()
    assert place.intake.waiting == 0
    assert len(place.runs) == 1


def test_instance_of_a_known_study_that_is_not_new_waits_for_nothing(place):
    place.intake.note(Filed("20261129/1.1/1.1.1.dcm", is_new=False))
    place.now = 10
    place.intake.work()
    assert place.runs == {}
