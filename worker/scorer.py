"""A model bundle that scores: checked against its card and its parity file before the first scan."""

import numpy as np
import numpy.typing as npt

from nightread.bundle import Bundle
from nightread.card import Card
from nightread.errors import CardMismatch, ParityMismatch
from nightread.preparing import Tensor
from nightread.settings import Device
from worker.runtime import open_session

#: A machine's own rounding on top of what the export allowed: other processors and providers order sums differently.
_MACHINE_TOLERANCE = {"cpu": 1e-5, "cuda": 1e-3}

Scores = npt.NDArray[np.float32]


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
        self._input_name = self._check_graph()
        self._output_name: str = self._session.get_outputs()[0].name
        self.allowed_parity = self.card.parity_tolerance + _MACHINE_TOLERANCE[self.device]
        self.parity = self._check_parity(bundle)

    def score_batch(self, batch: Tensor) -> Scores:
        """Score prepared scans.

        Args:
            batch: (N, H, W, C) float32, as `prepare` made them.

        Returns:
            (N, labels) float32 in the order of the card's labels; not checked for range.
        """
        scores: Scores = self._session.run([self._output_name], {self._input_name: batch})[0]
        return scores

    def _check_graph(self) -> str:
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        found_input, found_output = tuple(inputs[0].shape[1:]), tuple(outputs[0].shape[1:])
        if len(inputs) != 1 or found_input != self.card.input.shape or inputs[0].type != "tensor(float)":
            raise CardMismatch(
                f"the graph of {self.card.reference} takes {inputs[0].type} (N, {found_input}); its card says float32 "
                f"(N, {self.card.input.shape})"
            )
        if found_output != (len(self.card.labels),) or outputs[0].type != "tensor(float)":
            raise CardMismatch(
                f"the graph of {self.card.reference} returns {outputs[0].type} (N, {found_output}); its card names "
                f"{len(self.card.labels)} labels"
            )
        name: str = inputs[0].name
        return name

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
