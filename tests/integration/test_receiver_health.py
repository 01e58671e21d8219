"""Health and metrics of a receiver."""

import os
import time

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from nightread.errors import SettingsError
from pacs.intake import Intake
from pacs.listener import Listener, ListenerOptions
from pacs.receiver_health import LIMIT_S, ReceiverCollector, check_receiver
from pacs.spool import Spool
from tests.dicom_peers import TITLE, associated, listening, storescu, write_study
from tests.factories import CANARY, write_dicom
from tests.services import find_free_port


def test_receiver_is_healthy_while_it_listens_and_its_instances_get_runs(tmp_path):
    folder = tmp_path / "spool"
    with listening(folder) as (listener, filed):
        at = folder, "127.0.0.1", listener.port, 60.0
        storescu(listener.port, *write_study(tmp_path / "in", 0))
        found = check_receiver(*at)
        assert (found.waiting, found.faults) == (2, [])
        long_ago = time.time() - 61 - LIMIT_S
        os.utime(folder / filed[0].name, (long_ago, long_ago))
        (fault,) = check_receiver(*at).faults
        assert "2 instances have no run" in fault
        assert str(folder) not in fault
    gone = check_receiver(*at)
    assert [fault[:10] for fault in gone.faults[:2]] == ["no process", "nothing li"]
    with pytest.raises(SettingsError, match="cannot be read"):
        check_receiver(tmp_path / "none", "127.0.0.1", find_free_port(), 60.0)


def test_metrics_count_what_became_of_instances_and_name_nobody(tmp_path):
    spool = Spool(tmp_path / "spool", max_bytes=0, min_free_bytes=0)
    intake = Intake(spool, lambda *_: None, quiet_s=60)
    listener = Listener(spool, ListenerOptions("NIGHTREAD", "127.0.0.1", 0, [TITLE]), intake.note)
    registry = CollectorRegistry(auto_describe=False)
    registry.register(ReceiverCollector(spool, intake, listener))
    try:
        files = write_study(tmp_path / "in", 0)
        storescu(listener.port, *files)
        storescu(listener.port, *files)
        storescu(listener.port, write_dicom(tmp_path / "one.dcm", StudyInstanceUID=None), expect=None)
        with associated(listener.port, "1.2.840.10008.1.1", title="STRANGER"):
            pass
        text = generate_latest(registry).decode()
    finally:
        listener.close()
        spool.close()
    size = sum(file.stat().st_size for file in (tmp_path / "spool/20261129").rglob("*.dcm"))
    for line in (
        'nightread_received_instances_total{answer="stored"} 2.0',
        'nightread_received_instances_total{answer="known"} 2.0',
        'nightread_received_instances_total{answer="refused"} 1.0', "nightread_refused_associations_total 1.0",
        "nightread_spool_waiting_instances 2.0", f"nightread_spool_bytes {float(size)}", "nightread_spool_full 0.0",
    ):  # fmt: skip
        assert line in text, text
    assert CANARY not in text
    assert "STRANGER" not in text
