"""A run is written down whatever lies in its folder."""

from nightread.reasons import Reason
from tests.db_factories import fetch_scans
from tests.factories import write_jpeg
from tests.worker_factories import add_run_of, run_process


def test_a_link_to_itself_is_one_rejected_row_and_keeps_nothing_else_from_being_enqueued(sqlite_engine, tmp_path):
    folder = tmp_path / "night"
    write_jpeg(folder / "a.jpg")
    (folder / "loop.jpg").symlink_to("loop.jpg")
    with run_process(sqlite_engine) as process:
        rows = fetch_scans(process.engine, add_run_of(process, folder))
    assert [(row.status, row.reason_code) for row in rows] == [("queued", None), ("rejected", Reason.NOT_A_FILE)]
