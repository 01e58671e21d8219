"""A night comes from an Orthanc, is scored and goes back to it, by one schedule and without a hand."""

import sys
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import func, select, update

from db.engine import make_engine, reading, write
from db.tables import runs, scans, schedule_nights, schedules
from tests.dicom_peers import ask_orthanc, orthanc, storescu, write_study
from tests.onnx_factories import write_tiny_bundle
from tests.program import PATIENCE_S, PROGRAM, last_json, make_environment, run, started, wait_until, worker
from tests.services import find_free_port

AT = "02:00"


def find_last_night():
    """Return the date of the night that was due last at 02:00 UTC."""
    return (datetime.now(UTC) - timedelta(hours=2)).date() - timedelta(days=1)


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("studies", [3, 500])
def test_night_is_fetched_scored_and_sent_by_one_schedule(tmp_path, redis_url, postgres_url, studies, is_long):
    if studies > 3 and not is_long:
        pytest.skip("takes minutes: --long")
    night = find_last_night()
    files = [
        file for number in range(studies) for file in write_study(tmp_path / "in", number, StudyDate=f"{night:%Y%m%d}")
    ]
    files += write_study(tmp_path / "in", studies, StudyDate="20200101")
    write_tiny_bundle(tmp_path / "models")
    env = make_environment(
        tmp_path, database_url=postgres_url, broker_url=redis_url, sweep_s=1, models_dir=tmp_path / "models",
        model="tiny@1",
    )  # fmt: skip
    run("db", "upgrade", env=env, cwd=tmp_path)
    engine = make_engine(postgres_url)
    log = tmp_path / "log"
    own, spool, is_web = find_free_port(), tmp_path / "spool", studies > 3
    with orthanc(tmp_path / "orthanc", {"NIGHTREAD": ["NIGHTREAD", "127.0.0.1", own]}) as (http, dicom):
        for first in range(0, len(files), 100):
            storescu(dicom, *files[first : first + 100])
        source = f"http://127.0.0.1:{http}/dicom-web" if is_web else f"ORTHANC@127.0.0.1:{dicom}"
        run(
            "schedule", "add", "pacs", "--at", AT, "--from", source, "--listen", f"127.0.0.1:{own}", "--spool", spool,
            "--min-free", "0", "--rate", "1", "--to", f"ORTHANC@127.0.0.1:{dicom}",
            env=env, cwd=tmp_path,
        )  # fmt: skip
        added = update(schedules).values(created_at=datetime.now(UTC) - timedelta(days=1))
        write(engine, lambda connection: connection.execute(added))  # so that one night was due since
        began = datetime.now(UTC)
        with started([PROGRAM, "beat"], env, tmp_path, log) as beat:
            wait_until(lambda: list(spool.rglob("*.dcm")), "the first instance")
            beat.terminate()
            assert beat.wait(PATIENCE_S) == 0
        assert len(list(spool.rglob("*.dcm"))) < 2 * studies, "a beat that must end waits for no night"
        write(engine, end_lease_and_limit)
        with worker(env, tmp_path, log), started([PROGRAM, "beat"], env, tmp_path, log):
            wait_until(lambda: read_sending(engine), f"the night to be sent: {log.read_text()[-2000:]}", 1000)
        took = datetime.now(UTC) - began
        kept = ask_orthanc(http, "/studies?expand")
        reports = {one["MainDicomTags"]["StudyInstanceUID"]: find_reports(http, one) for one in kept}
    assert reports.pop(f"1.2.276.{studies + 1}") == 0, "it is of another night"
    assert len(reports) == studies
    assert set(reports.values()) == {1}
    with reading(engine) as connection:
        statuses = connection.execute(select(scans.c.status, func.count()).group_by(scans.c.status)).all()
        (told,) = connection.execute(select(schedule_nights)).all()
        times = connection.execute(select(runs.c.created_at, runs.c.finished_at)).one()
    engine.dispose()
    assert statuses == [("scored", 2 * studies)]
    assert (told.night, told.status, told.attempts) == (f"{night}", "started", 2)
    listed = last_json(run("schedule", "list", "--json", env=env, cwd=tmp_path))
    assert listed[0]["last"]["sending"] == "sent"
    assert "Traceback" not in log.read_text()
    sys.stdout.write(f"{studies} studies in {took}; run from {times[0]} to {times[1]}; began {began}\n")


def end_lease_and_limit(connection):
    """End the lease of a killed beat, which takes a quarter of an hour, and the limit of one instance in a minute."""
    connection.execute(update(schedule_nights).values(not_before=None))
    options = connection.execute(select(schedules.c.options)).scalar_one()
    faster = options | {"fetch": options["fetch"] | {"most_per_minute": 0.0}}
    connection.execute(update(schedules).values(options=faster))


def read_sending(engine):
    with reading(engine) as connection:
        return connection.execute(select(runs.c.sending)).scalar()


def find_reports(http, study):
    series = [ask_orthanc(http, f"/series/{one}") for one in study["Series"]]
    return sum(len(one["Instances"]) for one in series if one["MainDicomTags"]["Modality"] == "SR")
