"""What the hold-out measures, through the very graph that workers run: `nightread drift` compares nights with it."""

from collections.abc import Collection
from dataclasses import asdict
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from exporter.outputs import SCORES
from exporter.training_folder import TrainingFolder
from nightread.card import Output, Reference
from nightread.drift import name_component, summarise
from nightread.measuring import measure

#: Outputs of a graph with an input gate.
_DISTANCE: Final = "distance"
_COMPONENTS: Final = "components"


def measure_hold_out(model: bytes, trained: TrainingFolder, outputs: Collection[Output]) -> Reference:
    """Measure the hold-out as a worker measures a night.

    Args:
        model: the converted graph, in the precision that is served.
        trained: the training folder, whose scans are the hold-out.
        outputs: of the graph.
    """
    wanted: list[str] = [
        name for name in (SCORES, _DISTANCE, _COMPONENTS) if name in {output.name for output in outputs}
    ]
    computed = dict(zip(wanted, _run(model, wanted, trained), strict=True))
    values = {"score": computed[SCORES][:, 0]}
    if _DISTANCE in computed:
        values["distance"] = computed[_DISTANCE].reshape(-1)
    for place, component in enumerate(computed.get(_COMPONENTS, np.empty((0, 0))).T):
        values[name_component(place)] = component
    statistics = [asdict(measure(scan, trained.input)) for scan in trained.scans]
    values |= {name: np.array([told[name] for told in statistics]) for name in statistics[0]}
    gate = trained.card.get("gate")
    return summarise(values, rejected_share=gate["false_rejection"]["value"] if gate else 0.0)


def _run(model: bytes, names: list[str], trained: TrainingFolder) -> list[npt.NDArray[np.float64]]:
    """Return (N, ...) float64 of each output."""
    import onnxruntime

    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    (taken,) = session.get_inputs()
    at_once = trained.input.scored_at_once
    batches: list[list[npt.NDArray[Any]]] = [
        session.run(names, {taken.name: trained.scans[start : start + at_once]})
        for start in range(0, len(trained.scans), at_once)
    ]
    return [np.concatenate(parts).astype(np.float64) for parts in zip(*batches, strict=True)]
