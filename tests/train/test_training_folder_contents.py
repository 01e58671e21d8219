import json
import shutil
import zipfile
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("tensorflow", reason="needs the extra `train`: uv sync --extra train")

from trainer.architectures.catalog import find_architecture
from trainer.data.dataset import Task
from trainer.data.split import parse_shares
from trainer.errors import TrainingError
from trainer.fit.batches import FitData
from trainer.fit.fit import fit
from trainer.fit.history import find_best, read_history
from trainer.fit.hyperparameters import FitSettings, Monitor
from trainer.train import train

# Keras 3 on NumPy 2 warns about its own code.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept:DeprecationWarning")


class Killed(BaseException):
    """Simulates SIGKILL: the trainer neither catches it nor cleans up."""


def read_weights(folder, name="checkpoint.keras"):
    import keras

    return keras.models.load_model(folder / name, compile=False).get_weights()


def ignore(progress):
    pass


def test_two_epochs_leave_a_checkpoint_a_history_and_a_record(trained):
    folder = trained.request.out
    record = json.loads((folder / "training.json").read_text())
    history = read_history(folder)
    assert [row.epoch for row in history] == [1, 2]
    assert all(np.isfinite([row.loss, row.val_loss]).all() for row in history)
    assert record["epochs_done"] == 2
    assert record["best_epoch"] == find_best(history, Monitor.ACCURACY).epoch
    assert record["scans"] == {"train": 24, "validation": 8, "hold-out": 8}
    assert record["unreadable"] == {"IM-9999-0001.png": "empty-file"}
    assert zipfile.is_zipfile(folder / "checkpoint.keras")  # Keras' own format: a zip of JSON and HDF5, no pickle
    with np.load(folder / "prepared.npz", allow_pickle=False) as arrays:
        assert arrays["inputs"].shape == (8, 75, 75, 3)


def test_progress_is_told_of_scans_and_steps(trained):
    prepared = [progress for progress in trained.told if progress.stage == "prepare"]
    fitted = [progress for progress in trained.told if progress.stage == "fit"]
    assert (prepared[-1].done, prepared[-1].total) == (41, 41)
    assert [progress.done for progress in fitted] == [1, 2, 3, 3, 4, 5, 6, 6]
    assert fitted[-1].last_epoch.epoch == 2


def test_the_network_has_the_layers_of_the_article(trained):
    import keras

    model = keras.models.load_model(trained.request.out / "checkpoint.keras", compile=False)
    kinds = [type(layer).__name__ for layer in model.layers]
    assert kinds == ["InputLayer", *["Conv2D", "MaxPooling2D"] * 3, "Flatten", "Dense", "Dense"]
    for layer in model.layers[1:7:2]:
        assert (layer.filters, layer.kernel_size, layer.padding) == (75, (2, 2), "same")
    assert [layer.units for layer in model.layers[-2:]] == [75, 1]
    assert model.count_params() == 608_776


def test_the_same_seed_gives_the_same_weights_and_history(trained, tmp_path):
    train(replace(trained.request, out=tmp_path / "again"), report=ignore)
    for first, second in zip(read_weights(trained.request.out), read_weights(tmp_path / "again"), strict=True):
        assert np.array_equal(first, second)
    first, second = (
        [replace(row, seconds=0.0, input_wait_s=0.0) for row in read_history(folder)]
        for folder in (trained.request.out, tmp_path / "again")
    )
    assert first == second


@pytest.mark.parametrize("at_step", [2, 5])
def test_a_killed_training_goes_on_as_if_nothing_had_happened(trained, tmp_path, at_step):
    request = replace(trained.request, out=tmp_path / "killed")

    def kill(progress):
        if progress.stage == "fit" and progress.done == at_step:
            raise Killed

    with pytest.raises(Killed):
        train(request, report=kill)
    assert not (request.out / "training.json").exists()
    steps = []
    train(
        replace(request, resume=True),
        report=lambda progress: steps.append(progress.done) if progress.stage == "fit" else None,
    )
    assert steps[0] == (1 if at_step == 2 else 4)  # a finished epoch is not done again
    assert [row.epoch for row in read_history(request.out)] == [1, 2]
    for whole, resumed in zip(read_weights(trained.request.out), read_weights(request.out), strict=True):
        assert np.array_equal(whole, resumed)
    with np.load(trained.request.out / "state-0002.npz") as whole, np.load(request.out / "state-0002.npz") as resumed:
        assert all(np.array_equal(whole[name], resumed[name]) for name in whole.files)


def test_a_damaged_state_is_named(trained, tmp_path):
    shutil.copytree(trained.request.out, tmp_path / "damaged")
    (tmp_path / "damaged/state-0002.npz").write_bytes(b"no state")
    with pytest.raises(TrainingError, match=r"state-0002.npz cannot be read"):
        train(replace(trained.request, out=tmp_path / "damaged", resume=True), report=ignore)


def test_a_finished_training_can_be_given_more_epochs(trained, tmp_path):
    shutil.copytree(trained.request.out, tmp_path / "more")
    settings = replace(trained.request.settings, epochs=3)
    record, _ = train(replace(trained.request, out=tmp_path / "more", settings=settings, resume=True), report=ignore)
    assert record.epochs_done == 3
    assert read_history(tmp_path / "more")[:2] == read_history(trained.request.out)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"shares": "50/25/25"}, "other data"),
        ({"batch_size": 4}, "other batch_size"),
        ({"seed": 6}, "other seed"),
        ({"split_seed": 6}, "other data, split_seed"),
    ],
)
def test_a_folder_of_another_training_is_refused(trained, change, named):
    request = trained.request
    if "shares" in change:
        request = replace(request, shares=parse_shares(change["shares"]))
    else:
        request = replace(request, settings=replace(request.settings, **change))
    with pytest.raises(TrainingError, match=named):
        train(replace(request, resume=True), report=ignore)


def test_a_folder_that_holds_a_training_is_not_gone_on_with_unasked(trained):
    with pytest.raises(TrainingError, match="holds a training: resume it with --resume"):
        train(trained.request, report=ignore)


def test_a_folder_of_something_else_is_refused(trained, tmp_path):
    (tmp_path / "letter.txt").write_text("not a training")
    with pytest.raises(TrainingError, match="is not empty and holds no training"):
        train(replace(trained.request, out=tmp_path), report=ignore)


def test_an_epochs_figures_are_over_all_its_scans(tmp_path):
    import keras

    rng = np.random.default_rng(3)
    architecture = find_architecture("cnn75")
    inputs = rng.random((20, *architecture.input.shape), np.float32)
    targets = (np.arange(20) % 3 == 0).astype(np.int64)
    data = FitData(inputs, targets, np.arange(13), np.arange(13, 20), architecture.input, 1, "digest")
    settings = FitSettings(epochs=1, batch_size=5, learning_rate=0.0)  # so that the weights stay what they are
    (row,) = fit(
        architecture,
        Task(("pneumonia",), "sigmoid"),
        data,
        settings,
        tmp_path,
        resume=False,
        report=lambda done, total, row: None,
    )
    model = keras.models.load_model(tmp_path / "checkpoint.keras", compile=False)
    scores = model.predict(inputs[:13], verbose=0)[:, 0]
    losses = -np.log(np.where(targets[:13] > 0, scores, 1 - scores))
    assert row.loss == pytest.approx(float(losses.mean()), rel=1e-5)
    assert row.accuracy == pytest.approx(float(((scores > 0.5) == targets[:13]).mean()))


def test_a_diverging_training_ends_in_one_line(trained, tmp_path):
    settings = replace(trained.request.settings, learning_rate=1e30)
    with pytest.raises(TrainingError, match=r"the training diverged: lower --learning-rate"):
        train(replace(trained.request, out=tmp_path / "wild", settings=settings), report=ignore)
