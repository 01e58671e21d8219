"""From a training folder to a model bundle that a worker accepts."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version as package_version
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from exporter.conversion import Converted, convert
from exporter.errors import ExportError
from exporter.parity import BATCH_SIZES, TOLERANCE, Parity, check_parity, open_session
from exporter.training_folder import TrainingFolder, read_training_folder
from nightread.bundle import Bundle, write_bundle
from nightread.preparing import Tensor

#: Scans that travel with the bundle for the worker's own parity check.
PARITY_SCANS: Final = 8


@dataclass(frozen=True, slots=True)
class Exported:
    """A bundle and what its export found.

    Attributes:
        bundle: read back from its folder.
        folder: where it is.
        parity: Keras against ONNX Runtime.
        transposes: Transpose nodes left in the graph.
    """

    bundle: Bundle
    folder: Path
    parity: Parity
    transposes: int


def export(
    training_folder: Path,
    models_dir: Path,
    name: str,
    version: str,
    *,
    report: Callable[[str], None],
) -> Exported:
    """Convert a trained network, check it against its source and write its bundle to `<models_dir>/<name>/<version>`.

    Nothing is written unless everything holds.

    Args:
        training_folder: as the trainer left it.
        models_dir: folder of bundles.
        name: of the bundle: lower-case letters, digits, `.`, `_`, `-`.
        version: of the bundle, the same; a bundle never changes, so each export needs a new one.
        report: is told each stage as it begins.

    Raises:
        ExportError: not a finished training, or its checkpoint cannot be opened.
        ParityMismatch: the converted model gives other scores.
        CardMismatch: the card does not hold, or there is such a bundle already.
    """
    folder = models_dir / name / version
    if folder.exists() and any(folder.iterdir()):  # told before the work, not after it
        raise ExportError(f"there is a model bundle {name}@{version} in {models_dir} already; bundles never change: "
                          "name another --version")  # fmt: skip
    trained = read_training_folder(training_folder)
    report("open the checkpoint")
    score_keras = _open_checkpoint(trained)
    report("convert")
    converted = convert(score_keras.model, trained.input)
    report("check parity")
    parity = _check(score_keras, converted, trained)
    report("write the bundle")
    chosen = _choose_parity_scans(score_keras(trained.scans), trained.scans)
    bundle = write_bundle(
        folder,
        model=converted.model,
        parity_inputs=chosen,
        parity_scores=score_keras(chosen),
        card={
            **trained.card,
            "name": name,
            "version": version,
            "created_at": datetime.now(UTC).replace(microsecond=0),
            "parity_tolerance": TOLERANCE,
            "training": _add_packages(trained.card["training"]),
        },
    )
    return Exported(bundle, folder, parity, converted.transposes)


class _KerasScorer:
    """A Keras model as a function of numpy arrays."""

    def __init__(self, model: Any) -> None:
        self.model = model

    def __call__(self, scans: Tensor) -> npt.NDArray[Any]:
        """Return (N, labels) scores."""
        return np.asarray(self.model(scans, training=False))


def _open_checkpoint(trained: TrainingFolder) -> _KerasScorer:
    import keras

    try:
        # safe_mode refuses what would run code from the file.
        model = keras.models.load_model(trained.checkpoint, compile=False, safe_mode=True)
    except (OSError, ValueError, TypeError) as error:
        cause = (str(error).splitlines() or [type(error).__name__])[0]
        raise ExportError(f"Keras cannot open {trained.checkpoint}: {cause}; train again") from None
    shapes = (tuple(model.input_shape[1:]), tuple(model.output_shape[1:]))
    if shapes != (trained.input.shape, (len(trained.labels),)):
        raise ExportError(
            f"{trained.checkpoint} maps {shapes[0]} to {shapes[1]}; training.json says {trained.input.shape} to "
            f"{len(trained.labels)} labels: train again"
        )
    return _KerasScorer(model)


def _check(score_keras: _KerasScorer, converted: Converted, trained: TrainingFolder) -> Parity:
    """Check parity at the upper threshold of each label, where a decision would turn."""
    thresholds = [threshold.high for threshold in trained.thresholds]
    return check_parity(score_keras, open_session(converted.model), trained.scans, thresholds, batch_sizes=BATCH_SIZES)


def _choose_parity_scans(scores: npt.NDArray[Any], scans: Tensor) -> Tensor:
    """Return at most `PARITY_SCANS` scans, spread evenly from the lowest to the highest score of the first label."""
    order = np.argsort(scores[:, 0], kind="stable")
    places = np.linspace(0, len(order) - 1, min(PARITY_SCANS, len(order))).astype(np.int64)
    return scans[order[places]]


def _add_packages(training: dict[str, Any]) -> dict[str, Any]:
    exporting = {name: package_version(name) for name in ("tf2onnx", "onnx")}
    return {**training, "packages": {**training["packages"], **exporting}}
