"""What the hold-out measures, through the very graph that workers run: `nightread drift` compares nights with it."""

from collections.abc import Collection
from dataclasses import asdict
from typing import Any

import numpy as np
import numpy.typing as npt

from exporter.gate import COMPONENTS, DISTANCE
from exporter.outputs import SCORES
from nightread.model.card import Output, Reference
from nightread.model.drift import Values, name_component, summarise
from nightread.model.training_folder import TrainingFolder
from nightread.scan.pixel_statistics import measure
from nightread.scan.preprocessing import InputSpec, Tensor


def measure_hold_out(model: bytes, trained: TrainingFolder, outputs: Collection[Output]) -> Reference | None:
    """Return the reference: what the hold-out measures, and the share of it that the input gate rejects.

    None where the card has no gate: workers then measure nothing that could be compared.

    Args:
        model: the converted graph, in the precision that is served.
        trained: the training folder, whose scans are the hold-out.
        outputs: of the graph.
    """
    gate = trained.card.get("gate")
    if gate is None:
        return None
    values = measure_scans(model, trained.scans, trained.input, outputs)
    return summarise(values, rejected_share=gate["false_rejection"]["value"])


def measure_scans(model: bytes, scans: Tensor, spec: InputSpec, outputs: Collection[Output]) -> dict[str, Values]:
    """Measure prepared scans as a worker does.

    Args:
        model: a bundle's graph.
        scans: (N, H, W, C) float32, N > 0.
        spec: what they were prepared for.
        outputs: of the graph.

    Returns:
        By measurement, (N,) float64.
    """
    there = {output.name for output in outputs}
    wanted: list[str] = [name for name in (SCORES, DISTANCE, COMPONENTS) if name in there]
    computed = dict(zip(wanted, _run(model, wanted, scans, spec.scored_at_once), strict=True))
    values = {"score": computed[SCORES][:, 0]}
    if DISTANCE in computed:
        values["distance"] = computed[DISTANCE].reshape(-1)
    for place, component in enumerate(computed.get(COMPONENTS, np.empty((0, 0))).T):
        values[name_component(place)] = component
    statistics = [asdict(measure(scan, spec)) for scan in scans]
    return values | {name: np.array([told[name] for told in statistics]) for name in statistics[0]}


def _run(model: bytes, names: list[str], scans: Tensor, at_once: int) -> list[npt.NDArray[np.float64]]:
    """Return (N, ...) float64 of each output."""
    import onnxruntime

    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    (taken,) = session.get_inputs()
    batches: list[list[npt.NDArray[Any]]] = [
        session.run(names, {taken.name: scans[start : start + at_once]}) for start in range(0, len(scans), at_once)
    ]
    return [np.concatenate(parts).astype(np.float64) for parts in zip(*batches, strict=True)]
