"""Networks that learn the mean opinion of finished trainings."""

import json
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("tensorflow", reason="needs the extra `train`: uv sync --extra train")

from trainer.data.split import parse_shares
from trainer.errors import TrainingError
from trainer.evaluation.part_scores import load_checkpoint
from trainer.teachers import Teachers, identify
from trainer.train import train

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept:DeprecationWarning")


@pytest.fixture(scope="module")
def other(trained, tmp_path_factory):
    """Return the folder of a training with another seed."""
    request = trained.request
    folder = tmp_path_factory.mktemp("other") / "training"
    train(replace(request, out=folder, settings=replace(request.settings, seed=6)), report=lambda _: None)
    return folder


def learn(request, folder, teachers, **settings):
    settings = replace(request.settings, epochs=1, **settings)
    train(replace(request, out=folder, settings=settings, teachers=tuple(teachers)), report=lambda _: None)
    return json.loads((folder / "card.json").read_text())["training"]["hyperparameters"]


def open_teachers(folders):
    begun = json.loads((folders[0] / "settings.json").read_text())
    return Teachers(folders, begun["labels"], begun["data"])


def draw(folder, count=6):
    shape = load_checkpoint(folder).input_shape[1:]
    return np.random.default_rng(1).random((count, *shape), np.float32)


def logit(scores):
    return np.log(scores / (1 - scores))


def test_their_opinion_is_the_mean_of_their_logits(trained, other):
    folders = [trained.request.out, other]
    inputs = draw(other)
    scores = [np.asarray(load_checkpoint(folder)(inputs)).astype(np.float64) for folder in folders]
    assert np.abs(scores[0] - scores[1]).max() > 1e-3
    judged = open_teachers(folders).judge(inputs)
    assert (judged.shape, judged.dtype) == ((6, 1), np.float32)
    np.testing.assert_allclose(logit(judged.astype(np.float64)), (logit(scores[0]) + logit(scores[1])) / 2, atol=1e-4)


def test_a_student_learns_it_and_says_so(trained, other, tmp_path):
    teachers = [trained.request.out, other]
    told = learn(trained.request, tmp_path / "student", teachers)
    assert told["teachers"] == identify(teachers)
    alone = learn(trained.request, tmp_path / "alone", [])
    assert alone["teachers"] == ""
    student, labels = (load_checkpoint(tmp_path / name).get_weights() for name in ("student", "alone"))
    assert any(np.abs(one - other).max() > 0 for one, other in zip(student, labels, strict=True))


def test_a_recipe_trains_them_first_and_resumes(trained, tmp_path):
    settings = replace(trained.request.settings, epochs=1)
    request = replace(trained.request, out=tmp_path / "student", settings=settings, teacher_seeds=(7, 8))
    stages = []
    record, _ = train(request, report=lambda told: stages.append(told.stage))
    folders = [tmp_path / "student-teacher-7", tmp_path / "student-teacher-8"]
    assert [stage for stage in dict.fromkeys(stages) if stage.endswith("fit")] == [
        "teacher 7, fit", "teacher 8, fit", "fit",
    ]  # fmt: skip
    assert json.loads((request.out / "settings.json").read_text())["teachers"] == identify(folders)
    again, _ = train(replace(request, resume=True), report=lambda _: None)
    assert again.sha256 == record.sha256


def test_a_training_is_not_resumed_with_others(trained, other, tmp_path):
    learn(trained.request, tmp_path / "student", [other])
    with pytest.raises(TrainingError, match="other teachers"):
        learn(replace(trained.request, resume=True), tmp_path / "student", [trained.request.out])


def test_of_another_split_have_seen_the_hold_out(trained, other, tmp_path):
    request = replace(trained.request, shares=parse_shares("50/25/25"))
    with pytest.raises(TrainingError, match="other labels, scans or another split"):
        learn(request, tmp_path / "student", [other])


def test_need_a_finished_training(tmp_path):
    (tmp_path / "begun").mkdir()
    with pytest.raises(TrainingError, match="holds no finished training"):
        identify([tmp_path / "begun"])
