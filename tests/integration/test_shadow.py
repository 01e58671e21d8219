"""The shadow of a past run: the run does not change, and every scan is accounted for."""

import pytest
from sqlalchemy import func, select

from db.engine import reading
from db.model_pairs import Pair
from db.registry import list_models
from db.runs import find_run, list_runs
from db.tables import jobs, predictions, runs, scans
from db.types import RunStatus
from nightread.errors import NightreadError
from nightread.settings import read_settings
from tests.factories import small_chest, write_jpeg
from tests.onnx_factories import write_tiny_bundle
from worker.process import WorkerProcess
from worker.report.model_pages import render_shadow
from worker.runs.embedded import run_embedded
from worker.runs.enqueue import write_run
from worker.runs.request import Request
from worker.runs.shadow import compare_pairs, shadow_run

FILES = 6


@pytest.fixture
def process(engine, tmp_path):
    settings = read_settings(
        database_url=engine.url.render_as_string(hide_password=False), models_dir=tmp_path / "models", device="cpu",
        threads=2, job_size=2, batch_size=2,
    )  # fmt: skip
    process = WorkerProcess(settings)
    yield process
    process.close()


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "night"
    for number in range(FILES):
        write_jpeg(folder / f"{number}.jpg", small_chest(number))
    (folder / "copy.jpg").write_bytes((folder / "0.jpg").read_bytes())
    (folder / "cut.jpg").write_bytes((folder / "0.jpg").read_bytes()[:900])
    return folder


@pytest.fixture
def run(process, folder):
    """Seven scored scans, two with equal content, and a rejected one; thresholds 0.4 and 0.6."""
    bundle = write_tiny_bundle(process.settings.models_dir, "1", bias=-2.0)
    process.open_bundle(bundle)
    enqueued = write_run(process.engine, process.settings, bundle, [folder], Request(), embedded=True)
    ended = run_embedded(process, enqueued.run_id, lambda counts: None)
    assert ended.status is RunStatus.FINISHED
    return ended


@pytest.fixture
def other(process):
    """A model with higher scores: normal and uncertain scans become pneumonia."""
    return write_tiny_bundle(process.settings.models_dir, "2", bias=0.0)


def shadow(process, run, bundle, progress=None, most_moved=3):
    told = [] if progress is None else progress
    return shadow_run(
        process, run, bundle, most_moved=most_moved, on_progress=lambda done, total: told.append((done, total))
    )


def snapshot(engine):
    """Return all rows except predictions of other models, which a shadow may write."""
    with reading(engine) as connection:
        return [connection.execute(select(table)).all() for table in (runs, jobs, scans)] + [
            connection.execute(select(predictions).where(predictions.c.model_digest == list_runs(connection, 1)[0]
                                                         .model_digest).order_by(predictions.c.sha256)).all()
        ]  # fmt: skip


def count_predictions(engine, bundle):
    with reading(engine) as connection:
        query = select(func.count()).select_from(predictions).where(predictions.c.model_digest == bundle.digest)
        return connection.execute(query).scalar()


def test_it_compares_every_scored_scan_and_changes_nothing_of_the_run(process, run, other):
    before = snapshot(process.engine)
    progress = []

    shadowed = shadow(process, run, other, progress)

    assert snapshot(process.engine) == before
    assert (shadowed.scored, shadowed.compared, shadowed.reused) == (FILES + 1, FILES + 1, 0)
    assert shadowed.without_score == {}
    assert progress[0] == (0, FILES + 1)
    assert progress[-1][0] == progress[-1][1]
    (label,) = shadowed.labels
    figures = label.describe()
    assert figures["compared"] == FILES + 1
    assert figures["agreed"] + sum(flip["scans"] for flip in figures["flips"]) == FILES + 1
    assert {flip["after"] for flip in figures["flips"]} <= {"pneumonia", "uncertain"}
    assert figures["shift"]["mean"] > 0.2
    assert len(figures["moved"]) == 3
    assert abs(figures["moved"][0]["shift"]) == figures["shift"]["largest_absolute"]
    assert count_predictions(process.engine, other) == FILES  # two scans have one content
    with reading(process.engine) as connection:
        assert {model.reference: model.stage.value for model in list_models(connection)} == {
            "tiny@1": "candidate", "tiny@2": "candidate",
        }  # fmt: skip


def test_a_second_time_costs_no_file(process, run, other, folder):
    first = shadow(process, run, other).labels[0].describe()
    for file in folder.iterdir():
        file.unlink()
    again = shadow(process, run, other)
    assert (again.reused, again.compared) == (FILES + 1, FILES + 1)
    assert again.labels[0].describe() == first


def test_files_that_are_gone_or_changed_are_counted_and_the_rest_compared(process, run, other, folder):
    (folder / "1.jpg").unlink()
    write_jpeg(folder / "2.jpg", small_chest(99))
    (folder / "0.jpg").unlink()  # its content is still there as copy.jpg
    shadowed = shadow(process, run, other)
    assert shadowed.without_score == {"missing-file": 1, "changed": 1}
    assert (shadowed.scored, shadowed.compared) == (FILES + 1, FILES - 1)
    assert shadowed.labels[0].compared == FILES - 1
    assert count_predictions(process.engine, other) == FILES - 2


def test_a_run_whose_files_are_all_gone_cannot_be_compared(process, run, other, folder):
    for file in folder.iterdir():
        file.unlink()
    with pytest.raises(NightreadError, match=r"can be compared: 7 missing-file; mount the folder"):
        shadow(process, run, other)


def test_the_runs_own_model_is_no_shadow(process, run):
    bundle = write_tiny_bundle(process.settings.models_dir / "again", "1", bias=-2.0)
    with pytest.raises(NightreadError, match="was scored with tiny@1 itself"):
        shadow(process, run, bundle)


def test_models_without_a_common_label_are_not_compared(process, run):
    bundle = write_tiny_bundle(
        process.settings.models_dir, "3", labels=["effusion"], thresholds={"effusion": {"low": 0.5, "high": 0.5}}
    )
    with pytest.raises(NightreadError, match=r"no label in common \(pneumonia; effusion\)"):
        shadow(process, run, bundle)


def test_the_first_run_with_the_model_reuses_what_the_shadow_scored(process, run, other, folder):
    shadow(process, run, other)
    enqueued = write_run(process.engine, process.settings, other, [folder], Request(), embedded=True)
    run_embedded(process, enqueued.run_id, lambda counts: None)
    with reading(process.engine) as connection:
        assert find_run(connection, enqueued.run_id).model == "tiny@2"
        query = select(func.count()).where(scans.c.run_id == enqueued.run_id, scans.c.reused)
        assert connection.execute(query).scalar() == FILES + 1


def test_pairs_are_summed_up_label_by_label():
    def pair(name, label, before, after, said="normal", says="normal"):
        return Pair(name, label, before, said, after, says)

    pairs = [
        pair("a", "x", 0.1, 0.2), pair("b", "x", 0.4, 0.7, says="x"), pair("c", "x", 0.9, 0.3, said="x"),
        pair("d", "x", 0.5, 0.4, said="uncertain"), pair("a", "y", 0.5, 0.5),
    ]  # fmt: skip
    x, y = compare_pairs(iter(pairs), ["x", "y"], 2)
    figures = x.describe()
    assert (figures["compared"], figures["agreed"], figures["agreement"]) == (4, 1, 0.25)
    assert figures["flips"] == [
        {"before": "normal", "after": "x", "scans": 1, "share": 0.25},
        {"before": "uncertain", "after": "normal", "scans": 1, "share": 0.25},
        {"before": "x", "after": "normal", "scans": 1, "share": 0.25},
    ]
    assert figures["shift"]["mean"] == pytest.approx(-0.075)
    assert figures["shift"]["mean_absolute"] == pytest.approx(0.275)
    assert figures["shift"]["largest_absolute"] == pytest.approx(0.6)
    assert figures["shift"]["quantiles"]["0.5"] == pytest.approx(0.0)
    assert [moved["path"] for moved in figures["moved"]] == ["c", "b"]
    assert (y.compared, y.agreed, len(y.moved)) == (1, 1, 1)


def test_the_report_of_a_shadow_draws_each_scan_and_lists_the_flipped_ones(process, run, other):
    shadowed = shadow_run(process, run, other, most_moved=1, on_progress=lambda *_: None)
    (shift,) = shadowed.labels
    page = render_shadow(shadowed, other.card.model_dump(mode="json"))
    assert page.count("<circle") == shift.compared
    assert page.count('class="flipped"') == len(shift.flipped) == shift.compared - shift.agreed
    assert all(pair.path in page for pair in shift.flipped)
    assert "<script" not in page


def test_pictures_of_a_large_shadow_stay_small():
    pairs = (Pair(f"{place}", "a", 0.5, "a", 0.4, "a" if place % 9 else "b") for place in range(40_000))
    (shift,) = compare_pairs(pairs, ["a"], 1)
    assert (len(shift.flipped), len(shift.sample), shift.compared) == (1_000, 4_000, 40_000)
