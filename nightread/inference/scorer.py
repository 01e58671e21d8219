"""A model opened on one device, checked against its card and its parity file before the first scan."""

import threading
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from nightread.errors import CardMismatch, DeviceFull, ParityMismatch
from nightread.inference.batch_tuner import BatchTuner
from nightread.inference.session import ORT_ERRORS, is_out_of_memory, open_session, show_error
from nightread.model.bundle import Bundle
from nightread.model.card import ACTIVATION_MAP, COMPONENTS, DISTANCE, PLACEMENT, Card
from nightread.model.gate import VARIANTS
from nightread.scan.preprocessing import Tensor
from nightread.settings import Device

#: A machine's own rounding on top of what the export allowed: other processors and providers order sums differently.
_MACHINE_TOLERANCE = {"cpu": 1e-5, "cuda": 1e-3}

Scores = npt.NDArray[np.float32]

#: What the graph of a model with a gate returns besides its scores, by name, with the shape of one scan.
_GATE_OUTPUTS: Final = {DISTANCE: (1,), COMPONENTS: (8,)}
#: The same of a graph that tells the placement of a scan; those of older exports do not.
_PLACEMENT_SHAPE: Final = (1 + len(VARIANTS),)


@dataclass(frozen=True, slots=True)
class Inferred:
    """What the graph says of N scans.

    Attributes:
        scores: (N, labels) float32 in the order of the card's labels, not checked for range.
        distances: (N,) float32 distances of the features from the training scans'; None without a gate.
        components: (N, 8) float32 components of the features; None without a gate.
        placements: (N, 5) float32 logits of an upright scan and of its variants; None where the graph does not tell.
    """

    scores: Scores
    distances: Scores | None = None
    components: Scores | None = None
    placements: Scores | None = None


class Scorer:
    """One model on one device.

    Attributes:
        card: the bundle's card.
        digest: the bundle's digest.
        provider: execution provider really used.
        device: cpu or cuda.
        runtime: inference runtime and version.
        allowed_parity: largest difference at which this machine may serve the model.
        parity: largest absolute difference found to the scores that the bundle was exported with.
        tuner: finds how many scans one thread of a CPU scores fastest at once.
    """

    def __init__(self, bundle: Bundle, device: Device, threads: int) -> None:
        """Open the model and make sure that it is the one the card describes.

        Raises:
            CardMismatch: the graph's input or output does not fit the card.
            ParityMismatch: this machine does not reproduce the bundle's scores.
            DeviceError: the device that was asked for is not active.
        """
        opened = open_session(bundle.model, device, threads)
        self._session = opened.session
        self.card: Card = bundle.card
        self.digest = bundle.digest
        self.provider = opened.provider
        self.device = opened.device
        self.runtime = opened.runtime
        if faults := find_graph_faults(self._session, self.card):
            raise CardMismatch(f"the graph of {self.card.reference} {'; it '.join(faults)}")
        # Several threads may score at once; what that would take of a GPU was never measured: one at a time there.
        self._turn: AbstractContextManager[Any] = nullcontext() if self.device == "cpu" else threading.Lock()
        self._input_name: str = self._session.get_inputs()[0].name
        self._output_names: list[str] = [self._session.get_outputs()[0].name]
        if self.card.gate is not None:
            self._output_names += [*_GATE_OUTPUTS, *([PLACEMENT] if _tells_placement(self._session) else [])]
        self.tuner = BatchTuner()
        self.allowed_parity = find_allowed_parity(self.card, self.device)
        try:
            self.parity = self._check_parity(bundle)
        except ORT_ERRORS as error:
            raise CardMismatch(
                f"the graph of {self.card.reference} does not score its parity inputs: {show_error(error)}"
            ) from None

    def score_batch(self, batch: Tensor) -> Scores:
        """Score prepared scans; see `infer_batch`."""
        return self.infer_batch(batch).scores

    def infer_batch(self, batch: Tensor) -> Inferred:
        """Score prepared scans, and compute what the gate needs; several threads may do so at once.

        Args:
            batch: (N, H, W, C) float32, as `prepare` made them.

        Raises:
            DeviceFull: there is not enough memory for so many scans at once.
        """
        try:
            with self._turn:
                outputs: list[Scores] = self._session.run(self._output_names, {self._input_name: batch})
        except ORT_ERRORS as error:
            if not is_out_of_memory(error):
                raise
            raise DeviceFull(
                f"the memory of the device ({self.device}) does not suffice for {len(batch)} scans at once: free some, "
                "or set NIGHTREAD_BATCH_SIZE lower"
            ) from None
        scores, *of_gate = outputs
        if not of_gate:
            return Inferred(scores)
        return Inferred(scores, of_gate[0].reshape(-1), of_gate[1], of_gate[2] if len(of_gate) > 2 else None)

    def map_activation(self, batch: Tensor) -> Scores | None:
        """Return the class activation maps of prepared scans.

        Args:
            batch: (N, H, W, C) float32, as `prepare` made them.

        Returns:
            (N, h, w, labels) float32, h and w much smaller than H and W; None if the graph computes none.
        """
        if all(output.name != ACTIVATION_MAP for output in self._session.get_outputs()):
            return None
        with self._turn:
            maps: list[Scores] = self._session.run([ACTIVATION_MAP], {self._input_name: batch})
        return maps[0]

    def _check_parity(self, bundle: Bundle) -> float:
        whole = self.score_batch(bundle.parity_inputs)
        one = self.score_batch(bundle.parity_inputs[:1])  # a score must not depend on the batch around it
        worst = float(max(np.abs(whole - bundle.parity_scores).max(), np.abs(one - bundle.parity_scores[:1]).max()))
        if not worst <= self.allowed_parity:  # also where it is not a number
            raise ParityMismatch(
                f"{self.card.reference} on {self.provider} differs by {worst:.2g} from the scores that it was exported "
                f"with; allowed is {self.allowed_parity:.2g}: set NIGHTREAD_DEVICE=cpu, or export the bundle again"
            )
        return worst


def find_allowed_parity(card: Card, device: str) -> float:
    """Return the largest difference at which a device, `cpu` or `cuda`, may serve a model."""
    return card.parity_tolerance + _MACHINE_TOLERANCE[device]


def find_graph_faults(session: Any, card: Card | None) -> list[str]:
    """Return what of a graph's input and scores does not fit its card, each as words that go on after "the graph".

    A graph may have more outputs: the first one holds the scores, and none but those of a gate is asked for.

    Args:
        session: `onnxruntime.InferenceSession`.
        card: the bundle's card; None where it is at fault itself, and the graph is looked at alone.
    """
    inputs, outputs = session.get_inputs(), session.get_outputs()
    if len(inputs) != 1 or not outputs:
        return [f"has {len(inputs)} inputs and {len(outputs)} outputs; it must have one input, and scores come first"]
    taken, returned = inputs[0], outputs[0]
    faults = []
    if card is not None and (tuple(taken.shape[1:]) != card.input.shape or taken.type != "tensor(float)"):
        faults.append(f"takes {_show(taken)}; its card says tensor(float) (N, {', '.join(map(str, card.input.shape))})")
    if card is not None and (tuple(returned.shape[1:]) != (len(card.labels),) or returned.type != "tensor(float)"):
        faults.append(f"returns {_show(returned)}; its card names {len(card.labels)} labels, so tensor(float) "
                      f"(N, {len(card.labels)})")  # fmt: skip
    if card is not None and card.gate is not None:
        found = {output.name: tuple(output.shape[1:]) for output in outputs if output.type == "tensor(float)"}
        faults += [
            f"has no output {name} of shape {('N', *shape)}, which the gate of its card needs"
            for name, shape in _GATE_OUTPUTS.items()
            if found.get(name) != shape
        ]
    if taken.shape and isinstance(taken.shape[0], int):
        faults.append(f"takes batches of {taken.shape[0]} only: export it again with a batch axis of any size")
    return faults


def _tells_placement(session: Any) -> bool:
    return any(
        output.name == PLACEMENT and tuple(output.shape[1:]) == _PLACEMENT_SHAPE for output in session.get_outputs()
    )


def _show(value: Any) -> str:
    return f"{value.type} ({', '.join(['N', *map(str, value.shape[1:])])})"
