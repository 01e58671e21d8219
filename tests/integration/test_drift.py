"""`nightread drift` on both databases."""

import json
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from typer.testing import CliRunner

from cli.main import app
from db.engine import reading, write
from db.job_results import store_results
from db.measurements import store_measurements
from db.runs import NewScan, close_finished_runs, create_run, find_run, list_runs
from db.tallies import ScanOutcome
from db.types import ScanStatus
from nightread.errors import NightreadError
from nightread.model.drift import summarise
from tests.db_factories import (
    add_run,
    claim,
    job_ids,
    new_measurement,
    new_model,
    new_prediction,
    new_run,
    new_scans,
    open_scans,
    scored,
)
from worker.runs.drift import measure_drift
from worker.runs.guards import Guards, end_runs

PIXELS = ("brightness", "contrast", "darkest", "brightest", "detail", "symmetry")


def draw(scans, seed=0, darker=0.0):
    """Draw measurements of scans; darker ones also have larger distances."""
    rng = np.random.default_rng(seed)
    values = {name: rng.uniform(0.2, 0.8, scans) - darker / 2 for name in PIXELS}
    values |= {"score": rng.beta(0.3, 0.2, scans), "distance": rng.gamma(9, 2, scans) * (1 + darker)}
    return values | {f"component_{place}": rng.normal(size=scans) for place in (1, 2)}


REFERENCE = summarise(draw(700), rejected_share=0.0).model_dump(mode="json")


@pytest.fixture(autouse=True)
def _new_process(monkeypatch):
    """`--verbose` holds for a process; commands of other tests in this one may have set it."""
    monkeypatch.setattr("cli.output.console._verbose", False)


@pytest.fixture
def call(engine, monkeypatch):
    monkeypatch.setenv("NIGHTREAD_DATABASE_URL", engine.url.render_as_string(hide_password=False))

    def call(*arguments):
        return CliRunner().invoke(app, ["drift", *arguments], catch_exceptions=False)

    return call


def add_night(engine, scans=60, rejected=0, card=None, measured=True, seed=3, kind="png", guards=None, **drawn):
    """Insert a finished run whose first scans were rejected by the gate."""
    card = {"labels": ["pneumonia"], "drift_reference": REFERENCE} if card is None else card
    found = [NewScan(f"/scans/{number:05}.{kind}", 1) for number in range(scans)]
    run_id = add_run(engine, found, model=new_model(card=card), guards=guards)
    values = draw(scans, seed=seed, **drawn)
    for job_id in job_ids(engine, run_id):
        held, found = claim(engine, job_id), open_scans(engine, job_id)
        outcomes, predictions, measurements = [], [], []
        for place, scan in enumerate(found):
            is_rejected = place < rejected
            outcome = scored(scan, instance_uid=f"1.2.{scan.id}" if kind == "dcm" else None)
            if is_rejected:
                outcome = ScanOutcome(
                    scan.id, ScanStatus.REJECTED, outcome.sha256, reason_code="document", reason_text="a page"
                )
            else:
                predictions.append(new_prediction(scan.id, score=float(values["score"][place])))
            outcomes.append(outcome)
            measurements.append(
                new_measurement(
                    scan.id,
                    gate_verdict="document" if is_rejected else "passed",
                    distance=float(values["distance"][place]),
                    components=[float(values[f"component_{number}"][place]) for number in (1, 2)],
                    **{name: float(values[name][place]) for name in PIXELS},
                )
            )
        stored = (outcomes, predictions, measurements if measured else [])
        write(engine, lambda connection, held=held, stored=stored: store_results(connection, held, *stored))
    return run_id


def test_a_night_like_the_training_data_looks_like_it(engine, call):
    run_id = add_night(engine)
    told = json.loads(call("--json").stdout)

    assert told["looks_alike"] is True
    assert (told["run"], told["scans"], told["measured"], told["reference_scans"]) == (run_id, 60, 60, 700)
    assert set(told["measurements"]) == {*PIXELS, "score", "distance", "component_1", "component_2"}
    assert all(shift["scans"] == 60 and not shift["alarm"] for shift in told["measurements"].values())
    assert told["gate"] == {
        "judged": 60, "rejected": 0, "share": 0, "reference_share": 0, "chance": 1,
        "alarm_below": pytest.approx(0.05 / 21), "alarm": False,
    }  # fmt: skip


def test_a_night_of_other_scans_does_not_and_the_answer_is_the_first_line(engine, call):
    add_night(engine, darker=0.5)
    done = call()

    assert done.exit_code == 0  # the answer is no error
    last = done.stdout.splitlines()[0]
    assert last.startswith("this run does not look like the training data: ")
    assert "KS" in last
    assert json.loads(call("--json").stdout)["measurements"]["distance"]["alarm"]


def test_measure_drift_compares_from_python(sqlite_engine):
    usual, other = add_night(sqlite_engine), add_night(sqlite_engine, seed=5, darker=0.5)
    alike, moved = measure_drift(sqlite_engine, usual), measure_drift(sqlite_engine, against=usual[:8])
    assert (alike.run.id, alike.against, alike.reference.scans, alike.drift.looks_alike) == (usual, None, 700, True)
    assert (moved.run.id, moved.against.id, moved.night.scans, moved.drift.looks_alike) == (other, usual, 60, False)


def test_rejections_of_the_gate_alone_are_an_answer(engine, call):
    add_night(engine, rejected=12)
    told = json.loads(call("--json").stdout)
    assert told["gate"]["rejected"] == 12
    assert told["measurements"]["score"]["scans"] == 48
    assert told["measurements"]["brightness"]["scans"] == 60
    assert told["verdict"] == "this run does not look like the training data: the input gate rejects 20.0%"
    assert "The input gate rejects 12 of 60 scans (20.0%), reference 0.0%: more than chance" in call().stdout


def test_a_run_whose_scans_were_all_scored_before_is_compared_like_the_first(engine, call):
    first = add_night(engine)
    before = json.loads(call("--json").stdout)
    card = {"labels": ["pneumonia"], "drift_reference": REFERENCE}
    second = write(
        engine, lambda connection: create_run(connection, new_run(model=new_model(card=card)), new_scans(60))
    )
    with reading(engine) as connection:
        digests = [row.sha256 for row in connection.exec_driver_sql(
            f"SELECT sha256 FROM scans WHERE run_id = '{first}' ORDER BY id"
        )]  # fmt: skip
    (job_id,) = job_ids(engine, second)
    held, found = claim(engine, job_id), open_scans(engine, job_id)
    outcomes = [scored(scan, sha256=sha256, reused=True) for scan, sha256 in zip(found, digests, strict=True)]
    write(engine, lambda connection: store_results(connection, held, outcomes, []))

    after = json.loads(call(second, "--json").stdout)
    assert after["measurements"] == before["measurements"]
    assert after["run"] == second


def test_a_run_is_compared_with_a_run_that_was_looked_at(engine, call):
    usual = add_night(engine, darker=0.5, card={"labels": ["pneumonia"]})
    alike = json.loads(call(add_night(engine, darker=0.5, seed=4), "--against", usual, "--json").stdout)
    other = add_night(engine, seed=5)

    assert (alike["looks_alike"], alike["against"], alike["reference_scans"]) == (True, usual, 60)
    last = call(other, "--against", usual).stdout.splitlines()[0]
    assert last.startswith(f"this run does not look like run {usual[:8]}: ")


def test_runs_of_two_models_are_not_compared(engine, call):
    first = add_night(engine, scans=3)
    add_run(engine, model=new_model(digest="e" * 64, version="2"))
    with pytest.raises(NightreadError, match=r"by cnn@2 and run .* by cnn@1: runs of two models cannot be compared"):
        call("--against", first)


def test_too_few_scans_to_tell_are_no_alarm(engine, call):
    add_night(engine, scans=5)
    assert json.loads(call("--json").stdout)["looks_alike"] is None
    assert call().stdout.splitlines()[0].startswith("5 scans are too few to compare")


def test_scans_without_measurements_are_counted(engine, call):
    add_night(engine)
    write(engine, lambda connection: connection.exec_driver_sql(
        "DELETE FROM measurements WHERE sha256 IN (SELECT sha256 FROM scans ORDER BY id LIMIT 20)"
    ))  # fmt: skip
    told = json.loads(call("--json").stdout)
    assert (told["scans"], told["measured"]) == (60, 40)
    assert "40 scans measured, 20 not" in call().stdout


@pytest.mark.parametrize(
    ("night", "said"),
    [
        ({"card": {"labels": ["pneumonia"]}}, "the card of cnn@1 holds no reference to compare a run with: export"),
        ({"card": {"labels": ["pneumonia"], "drift_reference": {"scans": 0}}}, "another release: upgrade Nightread"),
        ({"measured": False}, "none of the 60 scans of run"),
    ],
)
def test_what_cannot_be_compared_is_an_error_with_its_remedy(engine, call, night, said):
    add_night(engine, **night)
    with pytest.raises(NightreadError, match=said):
        call()


def test_a_run_that_has_not_begun_is_an_error(engine, call):
    add_run(engine, 3, model=new_model(card={"labels": ["pneumonia"], "drift_reference": REFERENCE}))
    with pytest.raises(NightreadError, match=r"no scan of run .* has ended yet: see `nightread status"):
        call()


def test_a_run_without_scans_is_an_error_that_names_another_way(engine, call):
    add_run(engine, 0, model=new_model(card={"labels": ["pneumonia"], "drift_reference": REFERENCE}))
    with pytest.raises(NightreadError, match=r"^run \w{8} holds no scans: name another run"):
        call()


def test_measurements_of_another_model_are_not_compared(engine, call):
    add_run(engine, model=new_model(digest="e" * 64, version="2"))
    add_night(engine)
    before = call("--json").stdout
    with reading(engine) as connection:
        digests = list(connection.exec_driver_sql("SELECT sha256 FROM scans WHERE sha256 IS NOT NULL").scalars())
    others = [new_measurement(model_digest="e" * 64, sha256=sha256, brightness=0.0) for sha256 in digests]
    write(engine, lambda connection: store_measurements(connection, others))
    assert call(json.loads(before)["run"], "--json").stdout == before


def test_a_night_of_another_kind_is_also_compared_with_the_first_one_like_it(engine, call, tmp_path):
    runs = [add_night(engine, seed=seed, darker=0.5) for seed in (3, 4, 3)]
    write(engine, close_finished_runs)
    told = json.loads(call("--json", "--trend", "5", "--out", str(tmp_path / "night.svg")).stdout)
    assert (told["run"], told["looks_alike"]) == (runs[2], False)
    assert (told["first_night"]["against"], told["first_night"]["looks_alike"]) == (runs[0], True)
    assert [(night["run"], night["looks_alike"]) for night in told["trend"]] == [(runs[1], True), (runs[2], True)]
    drawn = ET.parse(tmp_path / "night.svg").getroot()
    assert len([one for one in drawn.iter() if one.get("class") in {"one", "two", "three"}]) == 6  # lines and names

    shown = call().stdout
    assert shown.startswith("this run does not look like the training data")
    assert f"The first night like it, run {runs[0][:8]}" in shown
    assert shown.count("  this run ") == shown.count("  reference ") == 3
    assert "PSI" not in shown


def test_the_line_about_rejections_has_the_reference_of_the_histograms_above_it(engine, call):
    """It told the training data's share below the name of the first night, whose share was another one."""
    for seed in (3, 4):
        add_night(engine, rejected=30, darker=0.5, seed=seed)
    write(engine, close_finished_runs)
    assert "The input gate rejects 30 of 60 scans (50.0%), reference 50.0%" in " ".join(call().stdout.split())


def test_all_numbers_are_shown_where_they_are_asked_for(engine, call):
    add_night(engine)
    assert "PSI" in call("--verbose").stdout


def test_the_first_night_is_one_of_the_same_kind_of_files(engine, call):
    for kind, darker in (("png", 0.0), ("dcm", 0.5), ("jpg", 0.5)):
        add_night(engine, kind=kind, darker=darker)
    write(engine, close_finished_runs)
    assert json.loads(call("--json").stdout)["first_night"] is None, "the first night of JPEG files has none before it"
    for kind, place in (("dcm", 1), ("jpeg", 2)):
        last = add_night(engine, kind=kind, darker=0.5, seed=4)
        write(engine, close_finished_runs)
        with reading(engine) as connection:
            first = list_runs(connection, 10)[-1 - place].id
        told = json.loads(call("--json").stdout)
        assert (told["run"], told["first_night"]["against"], told["first_night"]["looks_alike"]) == (last, first, True)


def test_the_guard_s_alarm_is_about_what_is_not_usual_here(engine):
    """Files of another kind than the training's would be an alarm each night, which nobody reads for long."""
    guards = Guards(drift_alarm=True).to_json()
    nights = [add_night(engine, kind="dcm", darker=darker, seed=seed, guards=guards) for seed, darker in
              ((3, 0.5), (4, 0.5), (5, 1.0), (6, 0.0))]  # fmt: skip
    end_runs(engine)
    with reading(engine) as connection:
        found = [find_run(connection, night) for night in nights]
    assert [run.guard for run in found] == ["drift", "passed", "drift", "passed"]
    assert "nor like the first night" in found[2].guard_text
