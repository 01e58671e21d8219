"""Outputs of the graph: scores, the embedding before the last layer, a class activation map, and those of the gate."""

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from exporter.gate import compute_gate, describe_gate
from nightread.model.card import ACTIVATION_MAP, EMBEDDING, SCORES, Output
from nightread.model.training_folder import FittedGate

#: (N, H, W, C) to tensors by output name.
Compute = Callable[[Any], dict[str, Any]]


def find_outputs(model: Any, gate: FittedGate | None = None) -> tuple[Compute, tuple[Output, ...]]:
    """Find the outputs of a Keras model in its last layers and its gate.

    If the last layer is dense, its input is the embedding. If a global average pooling feeds that layer directly, there
    is a class activation map too (Zhou et al. 2016, doi:10.1109/CVPR.2016.319): the weighted sum of the feature maps,
    whose mean, plus the bias, is the label's score before its activation. cnn75 flattens its feature maps and has none.

    Args:
        model: functional or sequential, with one input and one output.
        gate: as the trainer has fitted it.

    Returns:
        A function that computes all outputs, and their descriptions; the scores come first.
    """
    outputs = [Output(name=SCORES, shape=model.output_shape[1:], description="one score a label, in label order")]
    tensors = {SCORES: model.outputs[0]}
    last = _find_producer(model, model.outputs[0])
    if isinstance(last, keras.layers.Activation):
        last = _find_producer(model, last.input)
    if isinstance(last, keras.layers.Dense) and len(last.input.shape) == 2:
        embedding = tensors[EMBEDDING] = last.input
        outputs.append(
            Output(
                name=EMBEDDING, shape=embedding.shape[1:], description="what the last layer computes the scores from"
            )
        )
        features = _find_features(model, embedding)
        if features is not None:
            tensors[ACTIVATION_MAP] = features
            outputs.append(
                Output(
                    name=ACTIVATION_MAP,
                    shape=(*features.shape[1:3], last.units),
                    description="class activation map: (height, width, labels), higher where the scan speaks for the "
                    "label; its mean, plus a bias, is the score before its activation",
                )
            )
    maps = [] if gate is None else [model.get_layer(name).output for name in gate.layers]
    parts = keras.Model(model.inputs[0], [*tensors.values(), *maps])

    def compute(scans: Any) -> dict[str, Any]:
        computed = parts(scans, training=False)
        computed = list(computed) if isinstance(computed, list | tuple) else [computed]
        found = dict(zip(tensors, computed, strict=False))
        if ACTIVATION_MAP in found:
            # (N, h, w, labels); a convolution would add two transposes
            found[ACTIVATION_MAP] = tf.matmul(found[ACTIVATION_MAP], last.kernel)
        return found if gate is None else found | compute_gate(computed[len(tensors) :], gate)

    return compute, (*outputs, *(() if gate is None else describe_gate(gate)))


def _find_features(model: Any, embedding: Any) -> Any:
    """Return the (N, h, w, features) tensor whose mean over h and w is the embedding; None if there is none."""
    layer = _find_producer(model, embedding)
    if isinstance(layer, keras.layers.Dropout):  # the identity outside training
        layer = _find_producer(model, layer.input)
    if not isinstance(layer, keras.layers.GlobalAveragePooling2D) or layer.data_format != "channels_last":
        return None
    return layer.input if len(layer.output.shape) == 2 else None


def _find_producer(model: Any, tensor: Any) -> Any:
    """Return the layer of this model that produces a tensor; None if a layer of a nested model does."""
    return next((layer for layer in reversed(model.layers) if getattr(layer, "output", None) is tensor), None)
