"""The drift reference: measurements of the hold-out, computed with the session and the graph that workers run.

`nightread drift` compares runs with it.
"""

from collections.abc import Collection
from dataclasses import asdict

import numpy as np

from nightread.inference.session import OpenSession
from nightread.model.card import COMPONENTS, DISTANCE, SCORES, Output, Reference
from nightread.model.drift import Values, name_component, summarise
from nightread.model.training_folder import TrainingFolder
from nightread.scan.pixel_statistics import measure
from nightread.scan.preprocessing import InputSpec, Tensor


def measure_hold_out(session: OpenSession, trained: TrainingFolder, outputs: Collection[Output]) -> Reference | None:
    """Return the drift reference, with the share of the hold-out that the input gate rejects.

    None for a card without a gate: workers then store no measurements to compare.

    Args:
        session: of the converted graph, in the precision that is served.
        trained: the training folder, whose scans are the hold-out.
        outputs: of the graph.
    """
    gate = trained.card.get("gate")
    if gate is None:
        return None
    values = measure_scans(session, trained.scans, trained.input, outputs)
    return summarise(values, rejected_share=gate["false_rejection"]["value"])


def measure_scans(
    session: OpenSession, scans: Tensor, spec: InputSpec, outputs: Collection[Output]
) -> dict[str, Values]:
    """Measure prepared scans as a worker does.

    Args:
        session: of a bundle's graph.
        scans: (N, H, W, C) float32, N > 0.
        spec: input that they were prepared for.
        outputs: of the graph.

    Returns:
        (N,) float64 by measurement.
    """
    names = [name for name in (SCORES, DISTANCE, COMPONENTS) if name in {output.name for output in outputs}]
    arrays = session.compute(names, scans, spec.scored_at_once)
    computed = {name: array.astype(np.float64) for name, array in zip(names, arrays, strict=True)}
    values = {"score": computed[SCORES][:, 0]}
    if DISTANCE in computed:
        values["distance"] = computed[DISTANCE].reshape(-1)
    for place, component in enumerate(computed.get(COMPONENTS, np.empty((0, 0))).T):
        values[name_component(place)] = component
    statistics = [asdict(told) for told in measure(scans, spec)]
    return values | {name: np.array([told[name] for told in statistics]) for name in statistics[0]}
