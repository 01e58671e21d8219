"""The networks of the two articles, layer by layer, and the fitting of each."""

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("tensorflow", reason="needs the extra `train`: uv sync --extra train")

from nightread.scan.preprocessing import InputSpec
from trainer.architectures.architecture import Architecture, check_backbone_weights
from trainer.architectures.catalog import ARCHITECTURES, find_architecture
from trainer.data.dataset import Task
from trainer.data.split import parse_shares
from trainer.errors import TrainingError
from trainer.fit.batches import FitData
from trainer.fit.fit import fit
from trainer.fit.history import read_history
from trainer.fit.hyperparameters import Augment, FitSettings, MixedPrecision, Monitor, Optimizer
from trainer.fit.recipes import RECIPES

# Keras 3 on NumPy 2 warns about its own code.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept:DeprecationWarning")

BINARY = Task(("pneumonia",), "sigmoid")
TWELVE = Task(tuple(f"finding {number:02d}" for number in range(12)), "softmax")


def ignore(done, total, row):
    pass


def make_data(architecture, task, count=24):
    """Draw scans whose brightness tells their class."""
    rng = np.random.default_rng(1)
    targets = np.arange(count) % len(task.classes)
    low, high = architecture.input.value_range
    height, width, channels = architecture.input.shape
    gray = rng.normal((targets + 0.5)[:, None, None, None] / len(task.classes), 0.05, (count, height, width, 1))
    inputs = (np.clip(gray, 0, 1) * (high - low) + low).astype(np.float32)
    repeated = np.broadcast_to(inputs, (count, height, width, channels))
    parts = np.arange(count - 6), np.arange(count - 6, count)
    return FitData(repeated, targets, *parts, architecture.input, len(task.labels), "digest")


@pytest.mark.parametrize(
    ("name", "task", "weights"),
    [
        ("cnn75", BINARY, 608_776),
        ("inceptionresnetv2", BINARY, 54_452_087),
        ("lenet", TWELVE, 17_726_952),
        ("inception", TWELVE, 2_972_648),
        ("efficientnetlite0", BINARY, 3_413_729),
    ],
)
def test_networks_have_the_weights_and_the_head_of_their_task(name, task, weights):
    architecture = find_architecture(name)
    model = architecture.build(task, "none")
    assert model.count_params() == weights
    assert model.input_shape == (None, *architecture.input.shape)
    assert model.output_shape == (None, len(task.labels))
    assert model.layers[-1].activation.__name__ == task.activation
    assert all(layer.trainable for layer in model.layers)


def test_architectures_are_found_by_name():
    assert find_architecture("cnn75").input.shape == (75, 75, 3)
    with pytest.raises(TrainingError, match=r"no architecture 'cnn76'; there are: cnn75"):
        find_architecture("cnn76")


def test_every_recipe_names_what_there_is():
    for recipe in RECIPES.values():
        find_architecture(recipe.architecture)
        parse_shares(recipe.shares)


def test_an_inception_module_joins_the_four_branches_of_the_article():
    model = find_architecture("inception").build(TWELVE, "none")
    module = [layer for layer in model.layers if type(layer).__name__ in {"Conv2D", "Concatenate"}][:11]
    branches = sorted((layer.filters, layer.kernel_size) for layer in module if type(layer).__name__ == "Conv2D")
    assert branches == sorted(
        [
            (2, (1, 1)),
            (8, (1, 3)),
            (8, (3, 1)),
            (8, (1, 3)),
            (8, (3, 1)),
            (16, (1, 1)),
            (4, (1, 1)),
            (32, (1, 3)),
            (32, (3, 1)),
            (4, (1, 1)),
        ]
    )
    joined = [layer.output.shape for layer in model.layers if type(layer).__name__ == "Concatenate"]
    assert joined == [(None, side, side, 60 * n) for side, n in ((192, 1), (96, 2), (48, 2), (24, 3), (12, 3), (6, 4))]
    assert {layer.padding for layer in model.layers if type(layer).__name__ in {"Conv2D", "MaxPooling2D"}} == {"same"}


def test_the_published_hyperparameters_are_the_defaults():
    assert find_architecture("cnn75").published == FitSettings(
        epochs=50, batch_size=100, optimizer=Optimizer.SGD, learning_rate=0.01, momentum=0.9, monitor=Monitor.ACCURACY
    )
    assert find_architecture("inceptionresnetv2").published.seed == 123
    assert find_architecture("lenet").published.epochs == 10
    inception = find_architecture("inception").published
    assert (inception.epochs, inception.steps_per_epoch, inception.patience) == (12, 120, 3)
    assert inception.monitor is Monitor.LOSS


@pytest.mark.parametrize(
    ("name", "task"), [("cnn75", TWELVE), ("lenet", TWELVE), ("lenet", BINARY), ("inception", TWELVE)]
)
def test_every_network_learns_either_task(name, task, tmp_path):
    architecture = find_architecture(name)
    data = make_data(architecture, task)
    settings = FitSettings(epochs=2, batch_size=6, optimizer=Optimizer.ADAM, learning_rate=0.001, class_weights=True)
    history = fit(architecture, task, data, settings, tmp_path / "out", resume=False, report=ignore)
    assert len(history) == 2
    assert history[1].loss < history[0].loss
    assert all(row.input_wait_s <= row.seconds for row in history)


def assert_equal_states(*paths):
    with np.load(paths[0]) as first, np.load(paths[1]) as second:
        assert first.files == second.files
        assert all(np.array_equal(first[name], second[name]) for name in first.files)


def build_with_dropout(task, backbone_weights):
    from keras import Input, Model, layers

    scans = Input(shape=(16, 16, 1))
    stack = layers.Dropout(0.5)(layers.Flatten()(scans))
    return Model(scans, layers.Dense(len(task.labels), activation="softmax")(stack))


@pytest.mark.parametrize("average", [0.0, 0.9])
def test_dropout_augmentation_and_averages_go_on_where_they_were(tmp_path, average):
    spec = InputSpec(height_px=16, width_px=16, channels=1)
    settings = FitSettings(
        epochs=2,
        batch_size=4,
        augment=Augment.MODERN,
        optimizer=Optimizer.ADAMW,
        learning_rate=1e-3,
        weight_decay=0.05,
        average=average,
    )
    architecture = Architecture("dropout", "Dropout and a dense layer", spec, settings, build_with_dropout)
    data = make_data(architecture, TWELVE, count=14)

    def run(folder, *, epochs, resume=False):
        return fit(architecture, TWELVE, data, replace(settings, epochs=epochs), folder, resume=resume, report=ignore)

    whole = run(tmp_path / "whole", epochs=2)
    run(tmp_path / "parts", epochs=1)
    assert len(run(tmp_path / "parts", epochs=2, resume=True)) == 2
    assert_equal_states(tmp_path / "whole/state-0002.npz", tmp_path / "parts/state-0002.npz")
    assert [row.loss for row in read_history(tmp_path / "parts")] == [row.loss for row in whole]


def test_the_average_of_the_weights_is_kept(tmp_path):
    import keras

    architecture = find_architecture("cnn75")
    data = make_data(architecture, BINARY)
    settings = FitSettings(epochs=2, batch_size=9, monitor=Monitor.LAST, average=0.9)
    fit(architecture, BINARY, data, settings, tmp_path / "out", resume=False, report=ignore)
    kept = keras.models.load_model(tmp_path / "out/checkpoint.keras", compile=False).get_weights()
    with np.load(tmp_path / "out/state-0002.npz") as arrays:
        state = [arrays[name] for name in arrays.files]
    for weight, average in zip(kept, state[-len(kept) :], strict=True):
        np.testing.assert_array_equal(weight, average)
    assert any(not np.array_equal(weight, last) for weight, last in zip(kept, state, strict=False))


def test_early_stopping_waits_for_its_patience_and_no_longer_after_a_resume(tmp_path):
    architecture = find_architecture("cnn75")
    data = make_data(architecture, BINARY)
    # Without learning, the first epoch stays the best.
    settings = FitSettings(epochs=9, batch_size=9, learning_rate=0.0, monitor=Monitor.LOSS, patience=2)
    history = fit(architecture, BINARY, data, settings, tmp_path / "out", resume=False, report=ignore)
    assert len(history) == 3
    again = fit(architecture, BINARY, data, settings, tmp_path / "out", resume=True, report=ignore)
    assert again == history


@pytest.mark.parametrize("precision", [MixedPrecision.BFLOAT16, MixedPrecision.FLOAT16])
def test_a_mixed_fit_leaves_a_checkpoint_that_computes_in_float32(tmp_path, precision):
    import keras

    architecture = find_architecture("cnn75")
    data = make_data(architecture, BINARY)
    settings = FitSettings(epochs=2, batch_size=9, precision=precision)
    fit(architecture, BINARY, data, replace(settings, epochs=1), tmp_path / "out", resume=False, report=ignore)
    history = fit(architecture, BINARY, data, settings, tmp_path / "out", resume=True, report=ignore)
    assert len(history) == 2
    fit(architecture, BINARY, data, settings, tmp_path / "whole", resume=False, report=ignore)
    assert keras.config.dtype_policy().name == "float32"
    model = keras.models.load_model(tmp_path / "out/checkpoint.keras", compile=False)
    assert {layer.compute_dtype for layer in model.layers} == {"float32"}
    assert_equal_states(tmp_path / "out/state-0002.npz", tmp_path / "whole/state-0002.npz")


def test_backbone_weights_are_loaded_from_a_file_and_wrong_ones_are_refused(tmp_path):
    from keras.applications import InceptionResNetV2

    architecture = find_architecture("inceptionresnetv2")
    backbone = InceptionResNetV2(include_top=False, weights=None, input_shape=architecture.input.shape)
    path = tmp_path / "notop.weights.h5"
    backbone.save_weights(path)
    model = architecture.build(BINARY, str(path))
    kernel = backbone.layers[1].get_weights()[0]
    assert np.array_equal(model.layers[1].get_weights()[0], kernel)
    assert np.array_equal(model.layers[len(backbone.layers) - 3].get_weights()[0], backbone.layers[-3].get_weights()[0])
    wrong = tmp_path / "wrong.weights.h5"
    ARCHITECTURES["cnn75"].build(BINARY, "none").save_weights(wrong)
    with pytest.raises(TrainingError, match="holds no weights of InceptionResNetV2"):
        architecture.build(BINARY, str(wrong))
    (tmp_path / "text.weights.h5").write_text("no weights")
    with pytest.raises(TrainingError, match="holds no weights of InceptionResNetV2"):
        architecture.build(BINARY, str(tmp_path / "text.weights.h5"))


def test_weights_that_cannot_be_fetched_name_the_remedy(monkeypatch):
    from keras.src.applications import inception_resnet_v2 as module

    def refuse(*_args, **_kwargs):
        raise Exception("URL fetch failure on https://example.org/notop.h5: None")  # noqa: TRY002 - as Keras does

    monkeypatch.setattr(module.file_utils, "get_file", refuse)
    with pytest.raises(TrainingError, match=r"could not be fetched .*--backbone-weights none"):
        find_architecture("inceptionresnetv2").build(BINARY, "imagenet")


@pytest.mark.parametrize(
    ("name", "weights", "message"),
    [("cnn75", "imagenet", "has no pretrained part"), ("inceptionresnetv2", "gone.h5", "there is no file gone.h5")],
)
def test_weights_that_make_no_sense_are_refused_before_any_work(name, weights, message):
    with pytest.raises(TrainingError, match=message):
        check_backbone_weights(find_architecture(name), weights)
