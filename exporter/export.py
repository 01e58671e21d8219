"""Export: the steps from a training folder to a model bundle that a worker accepts."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version as package_version
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from keras.models import load_model

from exporter.accuracy import Accuracy, check_accuracy
from exporter.conversion import INPUT_NAME, OPSET, Converted, convert
from exporter.drift_reference import measure_hold_out
from exporter.file_check import check_files
from exporter.gate import check_gate
from exporter.parity import Parity, Scorer, check_independence, check_parity, choose_batch_sizes, open_converted
from exporter.precision import LIMITS, change_precision
from exporter.same_pixels import compare_ways
from nightread.errors import ExportError
from nightread.model.bundle import Bundle, find_new_folder, write_bundle
from nightread.model.card import Conversion, Gate, Precision
from nightread.model.floor import CHANCE_AUC
from nightread.model.training_folder import TrainingFolder, read_training_folder
from nightread.scan.preprocessing import Tensor

#: Scans that travel with the bundle for the worker's own parity check.
PARITY_SCANS: Final = 8


@dataclass(frozen=True, slots=True)
class Exported:
    """A bundle and the figures of its export.

    Attributes:
        bundle: read back from its folder.
        folder: of the bundle.
        parity: Keras against ONNX Runtime.
        accuracy: AUC and decisions on the hold-out.
        conversion: as on the card.
    """

    bundle: Bundle
    folder: Path
    parity: Parity
    accuracy: Accuracy
    conversion: Conversion


def export(
    training_folder: Path,
    models_dir: Path,
    name: str,
    version: str,
    *,
    precision: Precision = Precision.FLOAT32,
    data: Path | None = None,
    full_resolution: Path | None = None,
    report: Callable[[str], None],
) -> Exported:
    """Convert a trained network, check it against its source and write its bundle to `<models_dir>/<name>/<version>`.

    Nothing is written unless every check passes.

    Args:
        training_folder: as the trainer left it.
        models_dir: folder of bundles.
        name: of the bundle: lower-case letters, digits, `.`, `_`, `-`. A precision other than float32 is added to it: a
            name alone means its newest version, which must never be of another precision.
        version: of the bundle, in the same characters; a bundle never changes, so each export needs a new one.
        precision: of the graph.
        data: folder of the data set, to read hold-out scans from their files again; None to skip that.
        full_resolution: folder of scans to score from several kinds of files each; see `same_pixels`.
        report: called with the name of each stage as it begins.

    Raises:
        ExportError: not a finished training, its checkpoint cannot be opened, or the precision costs too much.
        ParityMismatch: the converted model gives other scores.
        CardMismatch: the card is invalid, or the bundle exists already.
    """
    name = name if precision is Precision.FLOAT32 else f"{name}-{precision}"
    folder = find_new_folder(models_dir, name, version)  # checked before the work
    trained = read_training_folder(training_folder)
    _check_precision(trained, precision)
    report("open the checkpoint")
    score_keras = _open_checkpoint(trained)
    report("convert")
    converted = convert(score_keras.model, trained.input, trained.gate)
    calibration = trained.scans[:0] if trained.calibration is None else trained.calibration
    model = change_precision(converted.model, precision, calibration, input_name=INPUT_NAME)
    session = open_converted(model)
    report("check parity")
    expected = _score_all(score_keras, trained.scans, trained.input.scored_at_once)
    limits = LIMITS[precision]
    parity, accuracy = _check(score_keras, session.score, expected, trained, precision)
    files = 0
    if data is not None:
        report("check from the files")
        files = check_files(trained, data, score_keras, session.score, limits.parity)
    same_pixels = {}
    if full_resolution is not None:
        report("score the same scans from other files")
        same_pixels = compare_ways(full_resolution, data, trained.input, session.score, trained.thresholds)
    if trained.gate is not None:
        report("check the input gate")
        gate = Gate.model_validate(trained.card["gate"])
        exact = precision is Precision.FLOAT32
        gate = check_gate(session, trained.gate, trained.scans, trained.input, gate, exact=exact)
        trained.card["gate"] = gate.model_dump(mode="json")
    report("measure the hold-out")
    reference = measure_hold_out(session, trained, converted.outputs)
    report("write the bundle")
    calibrated = len(calibration) if precision is Precision.INT8 else 0
    conversion = _describe(converted, parity, accuracy, files=files, calibration_scans=calibrated)
    chosen = _choose_parity_scans(expected, trained.scans)
    bundle = write_bundle(
        folder,
        model=model,
        parity_inputs=chosen,
        parity_scores=score_keras(chosen),
        card={
            **trained.card,
            "name": name,
            "version": version,
            "limitations": [*_warn_of_chance(trained.card), *trained.card["limitations"]],
            "created_at": datetime.now(UTC).replace(microsecond=0),
            "parity_tolerance": limits.parity,
            "training": _add_packages(trained.card["training"]),
            "precision": precision,
            "outputs": converted.outputs,
            "conversion": conversion,
            "same_pixels": same_pixels,
            "drift_reference": reference,
        },
    )
    return Exported(bundle, folder, parity, accuracy, conversion)


class _KerasScorer:
    """A Keras model as a function of numpy arrays."""

    def __init__(self, model: Any) -> None:
        self.model = model

    def __call__(self, scans: Tensor) -> npt.NDArray[Any]:
        """Return (N, labels) scores."""
        return np.asarray(self.model(scans, training=False))


def _open_checkpoint(trained: TrainingFolder) -> _KerasScorer:
    try:
        # safe_mode refuses files whose layers would run code.
        model = load_model(trained.checkpoint, compile=False, safe_mode=True)
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


def _check_precision(trained: TrainingFolder, precision: Precision) -> None:
    """Refuse a lower precision that cannot be judged: it needs targets of the hold-out, and training scans."""
    if precision is Precision.FLOAT32:
        return
    if trained.targets is None or trained.calibration is None:
        raise ExportError(
            f"the training folder holds no labels of the hold-out and no training scans, which {precision} needs; "
            "repeat `nightread train --resume` on it, which trains nothing again"
        )


def _check(
    score_keras: Scorer, compute: Scorer, expected: npt.NDArray[Any], trained: TrainingFolder, precision: Precision
) -> tuple[Parity, Accuracy]:
    """Check parity, independence of the batch, and accuracy at each label's upper threshold."""
    limits = LIMITS[precision]
    thresholds = [threshold.high for threshold in trained.thresholds]
    exact = precision is Precision.FLOAT32

    def check_costs() -> Accuracy:
        computed = _score_all(compute, trained.scans, trained.input.scored_at_once)
        return check_accuracy(
            expected, computed, trained.targets, thresholds=thresholds, labels=trained.labels, limits=limits
        )

    # A lower precision is refused by its cost, so that is computed first; a float32 graph that differs is a bug.
    accuracy = None if exact else check_costs()
    parity = check_parity(
        score_keras,
        compute,
        trained.scans,
        thresholds,
        tolerance=limits.parity,
        batch_sizes=choose_batch_sizes(trained.input.scored_at_once),
        same_decisions=exact,
    )
    check_independence(compute, trained.scans, at_once=trained.input.scored_at_once, tolerance=limits.batch)
    return parity, accuracy or check_costs()


def _score_all(score: Scorer, scans: Tensor, at_once: int) -> npt.NDArray[Any]:
    """Return (N, labels) scores of all scans."""
    return np.concatenate([score(scans[start : start + at_once]) for start in range(0, len(scans), at_once)])


def _describe(converted: Converted, parity: Parity, accuracy: Accuracy, **counts: int) -> Conversion:
    return Conversion(
        opset=OPSET,
        transposes=converted.transposes,
        parity=parity.largest_difference,
        scans=parity.scans,
        decisions_changed=accuracy.decisions_changed,
        source_auc={label: round(auc, 6) for label, auc in accuracy.source_auc.items()},
        auc={label: round(auc, 6) for label, auc in accuracy.auc.items()},
        **counts,
    )


def _choose_parity_scans(scores: npt.NDArray[Any], scans: Tensor) -> Tensor:
    """Return at most `PARITY_SCANS` scans, spread evenly from the lowest to the highest score of the first label."""
    order = np.argsort(scores[:, 0], kind="stable")
    places = np.linspace(0, len(order) - 1, min(PARITY_SCANS, len(order))).astype(np.int64)
    return scans[order[places]]


def _warn_of_chance(card: dict[str, Any]) -> list[str]:
    """Return the limit of a network whose hold-out figures are no better than chance; the card begins with it."""
    auc = card["metrics"].get("hold-out", {}).get("auc")
    if auc is None or auc["low"] > CHANCE_AUC:
        return []
    interval = f"95 % interval {auc['low']:.3f} to {auc['high']:.3f}"
    return [f"Not for use: on the hold-out it is no better than chance (AUC {auc['value']:.3f}, {interval})."]


def _add_packages(training: dict[str, Any]) -> dict[str, Any]:
    exporting = {name: package_version(name) for name in ("tf2onnx", "onnx")}
    return {**training, "packages": {**training["packages"], **exporting}}
