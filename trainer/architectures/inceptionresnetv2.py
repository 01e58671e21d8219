"""The large network of the pediatric article: a pretrained backbone, all of whose layers are trained."""

from typing import Any, Final
from urllib.error import URLError

from keras import Model, layers
from keras.applications import InceptionResNetV2

from nightread.scan.preprocessing import InputSpec
from trainer.architectures.architecture import Architecture, add_output
from trainer.data.dataset import Task
from trainer.errors import TrainingError
from trainer.fit.hyperparameters import FitSettings

#: The range that the ImageNet weights were trained on.
_INPUT: Final = InputSpec(height_px=75, width_px=75, channels=3, value_range=(-1.0, 1.0))


def _build(task: Task, backbone_weights: str) -> Any:
    """Build InceptionResNetV2 without its top, then two dense layers; no layer is frozen; 54,452,087 weights."""
    backbone = _build_backbone(backbone_weights)
    stack = layers.Flatten()(backbone.output)  # (N, 1536): 75 x 75 pixels are reduced to one place
    stack = layers.Dense(75, activation="relu")(stack)
    return Model(backbone.input, add_output(stack, task), name="inceptionresnetv2")


def _build_backbone(weights: str) -> Any:
    try:
        if weights == "imagenet":
            return InceptionResNetV2(include_top=False, weights="imagenet", input_shape=_INPUT.shape)
        backbone = InceptionResNetV2(include_top=False, weights=None, input_shape=_INPUT.shape)
        if weights != "none":
            backbone.load_weights(weights)
    except (URLError, OSError) as error:
        # Keras' loader raises a plain Exception for a failed download; that case is below.
        raise TrainingError(_explain(weights, error)) from None
    except Exception as error:
        if weights == "none":
            raise
        raise TrainingError(_explain(weights, error)) from None
    return backbone


def _explain(weights: str, error: Exception) -> str:
    said = " ".join(str(error).split())[:200]
    if weights == "imagenet":
        return (
            f"the ImageNet weights could not be fetched ({said}): fetch the file without top elsewhere and name it "
            "with --backbone-weights, or train without: --backbone-weights none"
        )
    return f"{weights} holds no weights of InceptionResNetV2 without top: {said}"


INCEPTIONRESNETV2: Final = Architecture(
    "inceptionresnetv2",
    "InceptionResNetV2 trained as a whole, then a dense layer of 75, on 75 x 75 pixels",
    _INPUT,
    FitSettings(seed=123, split_seed=123, backbone_weights="imagenet"),
    _build,
    has_backbone=True,
)
