"""Fitting the input gate: how far a scan's features may be from those of the training scans.

The distance is a Mahalanobis distance of features of several depths: for each of the last resolutions of a network the
output of its narrowest layer, averaged over the picture. The last layer of a network that is fine-tuned on two classes
no longer tells a chest from other pictures; its earlier layers do (docs/gate.md has the figures).

A second term of the distance is a linear classifier of the same features: upright training scans against inverted and
turned ones. It is zero for nearly every upright scan. Without it, chests of other patients would have to lie nearer
than a turned scan of a known one.

A classifier with one logit for each way that a scan may lie says which variants of a doubtful scan are worth measuring.
"""

from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from PIL import Image
from sklearn.linear_model import LogisticRegression

from nightread.model.card import Gate, Metric
from nightread.model.gate import VARIANTS, judge_scans, make_variant
from nightread.model.training_folder import COMPONENTS_COUNT, GATE_FILE
from nightread.scan.preprocessing import InputSpec, Tensor
from trainer.data.split import Divided, Indices, Part
from trainer.fit.augmentation import Crop, crop

#: The chest X-rays of one hospital are 0.94 to 3.2 times as wide as high (240 files of full resolution; the data set
#: itself comes scaled to squares), and those of published cases up to 2.3.
_MAX_ASPECT_RATIO: Final = 4.0

#: Resolutions whose layers are looked at, from the last one on, and the smallest that still shows where things are.
_RESOLUTIONS: Final = 4
_SMALLEST_PX: Final = 4

#: Of directions in which the training scans hardly differ, the variance is taken for this share of the mean one: their
#: own is as much chance as it is truth, and would let a scan that differs there by a little seem to be far away.
_LEAST_VARIANCE: Final = 0.01
#: The same of features, which are scaled before the directions are found.
_LEAST_DEVIATION: Final = 0.1

#: Training scans for each feature, and validation scans: with fewer the distances are chance, and there is no gate.
_LEAST_SCANS: Final = 4
_LEAST_VALIDATION: Final = 100

#: Share of the validation scans beyond the distance that both bounds are multiples of.
_UNUSUAL: Final = 0.01
#: Beyond this multiple of it a scan is measured again inverted and turned, and beyond that one it is rejected in any
#: case. Of published adult chests 6 % lie beyond the first, 3.5 % beyond the second (docs/gate.md).
_DOUBTFUL: Final = 1.45
_FAR: Final = 1.55

#: Of the classifier of misplaced scans: inverse strength of its penalty, and logit below 0 from which it counts.
_PENALTY: Final = 0.001
_MARGIN: Final = 1.0
#: Upright training scans that are inverted and turned for it.
_MISPLACED_SCANS: Final = 900

#: Copies of the training scans as other files and other framings have them.
_COPIES: Final = Crop(least_area=0.25, gamma=0.5, contrast=0.4, brightness=0.12)
_QUALITIES: Final = (30, 96)

_Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Whitening:
    """What turns D features of a scan into its distance and its components.

    Attributes:
        mean: (D,) of the training scans.
        projection: (D, D) to directions in which the training scans vary independently, each with a deviation of 1; the
            one in which they vary most is the first.
        misplaced: (D,) weights of the whitened features, whose sum rises for inverted and turned scans.
        misplaced_at: what is added to that sum; above 0 it counts.
    """

    mean: _Floats
    projection: _Floats
    misplaced: _Floats
    misplaced_at: float = 0.0

    def whiten(self, features: npt.NDArray[Any]) -> _Floats:
        """Return (N, D) whitened features."""
        return (features.astype(np.float64) - self.mean) @ self.projection

    def measure(self, features: npt.NDArray[Any]) -> tuple[_Floats, _Floats]:
        """Return (N,) distances, about 1 for a training scan, and (N, 8) components of (N, D) features."""
        whitened = self.whiten(features)
        misplaced = np.maximum(whitened @ self.misplaced + self.misplaced_at, 0)
        return np.sqrt(np.square(whitened).mean(axis=1) + np.square(misplaced)), whitened[:, :COMPONENTS_COUNT]


def fit_whitening(features: npt.NDArray[Any]) -> Whitening:
    """Fit a whitening on (N, D) features of the training scans, N > 1, D > 8."""
    features = features.astype(np.float64)
    mean, deviations = features.mean(axis=0), features.std(axis=0)
    scale = 1.0 / (deviations + _LEAST_DEVIATION * np.median(deviations) + 1e-12)
    scaled = (features - mean) * scale
    variances, directions = np.linalg.eigh(scaled.T @ scaled / len(scaled))
    order = np.argsort(-variances)
    variances, directions = variances[order], directions[:, order]
    variances = np.maximum(variances, _LEAST_VARIANCE * variances.mean() + 1e-12)
    # An eigenvector may point either way: fixed, so that components mean the same wherever they are fitted again.
    directions *= np.sign(directions[np.abs(directions).argmax(axis=0), np.arange(len(variances))])
    return Whitening(mean, scale[:, np.newaxis] * directions / np.sqrt(variances), np.zeros(len(mean)))


def fit_misplaced(whitening: Whitening, upright: npt.NDArray[Any], misplaced: npt.NDArray[Any]) -> Whitening:
    """Return a whitening whose distance also rises for inverted and turned scans.

    Args:
        whitening: as fitted.
        upright: (N, D) features of scans as they are.
        misplaced: (M, D) features of inverted and turned scans.
    """
    whitened = whitening.whiten(np.concatenate([upright, misplaced]))
    targets = np.repeat([0, 1], [len(upright), len(misplaced)])
    model = LogisticRegression(C=_PENALTY, class_weight="balanced", max_iter=2000).fit(whitened, targets)
    return replace(
        whitening, misplaced=model.coef_[0].astype(np.float64), misplaced_at=float(model.intercept_[0]) + _MARGIN
    )


def fit_placement(whitened: _Floats, targets: npt.NDArray[np.int64]) -> tuple[_Floats, _Floats]:
    """Fit the classifier of how scans lie.

    Args:
        whitened: (N, D) features.
        targets: (N,) 0 for an upright scan, then the places of `VARIANTS`, counted from 1.

    Returns:
        (D, 5) weights and (5,) of what is added.
    """
    model = LogisticRegression(C=_PENALTY, class_weight="balanced", max_iter=2000).fit(whitened, targets)
    return model.coef_.T.astype(np.float64), model.intercept_.astype(np.float64)


def find_layers(model: Any) -> list[str]:
    """Return the names of the layers whose features the gate looks at, in the order of the network; none without any.

    Of the layers that share a resolution the narrowest is taken, the last one where there are several: what goes on to
    the next resolution passes through it.
    """
    chosen: dict[tuple[int, int], tuple[int, str]] = {}
    for layer in model.layers[1:]:
        shape: tuple[Any, ...] = getattr(getattr(layer, "output", None), "shape", ())
        if len(shape) != 4 or None in shape[1:] or min(shape[1:3]) < _SMALLEST_PX:
            continue
        size, width = (shape[1], shape[2]), shape[3]
        if size not in chosen or width <= chosen[size][0]:
            chosen[size] = (width, layer.name)
    smallest = sorted(chosen, key=lambda size: size[0] * size[1])[:_RESOLUTIONS]
    names = {chosen[size][1] for size in smallest}
    return [layer.name for layer in model.layers if layer.name in names]


class FeatureReader:
    """Reads the gate's features of scans: each layer's channels, averaged over the picture."""

    def __init__(self, model: Any, layers: list[str]) -> None:
        import keras
        import tensorflow as tf

        means = [keras.ops.mean(model.get_layer(name).output, axis=(1, 2)) for name in layers]
        features = keras.Model(model.inputs[0], keras.ops.concatenate(means, axis=-1))
        self._compute = tf.function(lambda scans: features(scans, training=False), autograph=False)

    def read(self, inputs: Tensor, at_once: int) -> npt.NDArray[np.float32]:
        """Return (N, D) features of (N, H, W, C) prepared scans, `at_once` in a batch."""
        # A copy of each batch: three channels may be the same memory.
        starts = range(0, len(inputs), at_once)
        parts = [self._compute(np.ascontiguousarray(inputs[start : start + at_once])).numpy() for start in starts]
        return np.concatenate(parts)


def fit_gate(folder: Path, model: Any, divided: Divided, spec: InputSpec) -> Gate | None:
    """Fit the gate of a trained network on the training part, and write `gate.npz` for the exporter.

    The distances that count are chosen on the validation part; how many real scans the gate rejects is counted on the
    hold-out.

    Args:
        folder: the training folder.
        model: its network.
        divided: the data set.
        spec: the network's input.

    Returns:
        The gate as the card tells it; None, and no file, for a network without feature maps, or with too few scans.
    """
    (folder / GATE_FILE).unlink(missing_ok=True)  # of a training that was resumed
    layers = find_layers(model)
    if not layers:
        return None
    reader = FeatureReader(model, layers)
    features = {part: reader.read(divided.scans.inputs[divided.split[part]], spec.scored_at_once) for part in Part}
    count, width = features[Part.TRAIN].shape
    if width <= COMPONENTS_COUNT or count < _LEAST_SCANS * width or len(features[Part.VALIDATION]) < _LEAST_VALIDATION:
        return None
    train, rng = divided.split[Part.TRAIN], np.random.default_rng(0)
    copies = copy_scans(divided, train, spec, rng)
    upright = np.concatenate([features[Part.TRAIN], reader.read(copies, spec.scored_at_once)])
    some = rng.permutation(len(train))[:_MISPLACED_SCANS]
    varied = (*divided.scans.inputs[train[some]], *copies[some])
    variants = np.stack([make_variant(scan, name, spec) for name in VARIANTS for scan in varied])
    misplaced = reader.read(variants, spec.scored_at_once)
    whitening = fit_misplaced(fit_whitening(upright), upright, misplaced)
    placement, placement_at = fit_placement(
        whitening.whiten(np.concatenate([upright, misplaced])),
        np.concatenate([np.zeros(len(upright), np.int64), np.repeat(np.arange(len(VARIANTS)) + 1, len(varied))]),
    )
    unusual = float(np.quantile(whitening.measure(features[Part.VALIDATION])[0], 1 - _UNUSUAL))
    doubtful = round(_DOUBTFUL * unusual, 4)
    hold_out, _ = whitening.measure(features[Part.HOLD_OUT])
    np.savez(
        folder / GATE_FILE,
        layers=np.array(layers),
        mean=whitening.mean.astype(np.float32),
        projection=whitening.projection.astype(np.float32),
        misplaced=whitening.misplaced.astype(np.float32),
        misplaced_at=np.float32(whitening.misplaced_at),
        placement=placement.astype(np.float32),
        placement_at=placement_at.astype(np.float32),
        distances=hold_out.astype(np.float32),
    )
    gate = Gate(
        max_distance=round(_FAR * unusual, 4),
        doubtful_distance=doubtful,
        max_aspect_ratio=_MAX_ASPECT_RATIO,
        false_rejection=_measure_share(0, len(hold_out)),
    )

    def measure(scans: Tensor) -> list[float]:
        return list(whitening.measure(reader.read(scans, spec.scored_at_once))[0].tolist())

    findings = judge_scans(
        list(divided.scans.inputs[divided.split[Part.HOLD_OUT]]),
        hold_out.tolist(),
        (whitening.whiten(features[Part.HOLD_OUT]) @ placement + placement_at).tolist(),
        spec=spec,
        gate=gate,
        measure=measure,
    )
    rejected = sum(finding is not None for finding in findings)
    return gate.model_copy(update={"false_rejection": _measure_share(rejected, len(hold_out))})


def copy_scans(divided: Divided, places: Indices, spec: InputSpec, rng: np.random.Generator) -> Tensor:
    """Return scans as other files and framings have them: compressed again, cropped, and with other gray levels.

    Args:
        divided: the data set.
        places: of the scans.
        spec: the network's input.
        rng: decides.
    """
    sources = divided.scans.sources
    if sources is None:
        low, high = spec.value_range
        gray = (divided.scans.inputs[..., 0] - np.float32(low)) / np.float32(high - low)
        sources = np.rint(gray * 255).astype(np.uint8)
    compressed = np.stack([_compress(source, int(rng.integers(*_QUALITIES))) for source in sources[places]])
    return crop(compressed, spec, rng, _COPIES)


def _compress(pixels: npt.NDArray[np.uint8], quality: int) -> npt.NDArray[np.uint8]:
    """Return (H, W) as a JPEG of this quality has it."""
    file = BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file))


def _measure_share(count: int, trials: int) -> Metric:
    """Return a share with its Clopper-Pearson interval."""
    from scipy.stats import binomtest

    interval = binomtest(count, trials).proportion_ci(method="exact")
    return Metric(value=round(count / trials, 4), low=round(interval.low, 4), high=round(interval.high, 4))
