"""Evidence: where in a scan a network finds what speaks for a label, computed on demand for one scan.

A network whose graph returns an activation map tells it itself. For any other network parts of the scan are covered in
turn: where covering one lowers the score, it speaks for the label (occlusion: Zeiler and Fergus 2014,
doi:10.1007/978-3-319-10590-1_53).
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image

from nightread.inference.session import OpenSession, open_session
from nightread.model.bundle import Bundle
from nightread.model.card import ACTIVATION_MAP
from nightread.scan.preprocessing import Tensor
from nightread.settings import Device

#: Parts of a scan that are covered in turn, along each side: 36 forward passes take under a second on a CPU.
_PARTS: Final = 6
#: What speaks for a label, and what against it: orange and blue differ for every color vision, in light and dark.
_FOR, _AGAINST = (255, 138, 0), (60, 150, 255)


@dataclass(frozen=True, slots=True)
class Evidence:
    """The evidence of one scan.

    Attributes:
        values: (h, w, labels) float32, in the card's order of labels; above 0 where the scan speaks for the label.
        is_occlusion: whether parts were covered; then a value is by how much the score falls, else the value of the
            activation map, whose mean plus a bias is the score before its activation.
    """

    values: npt.NDArray[np.float32]
    is_occlusion: bool

    def strongest(self, place: int) -> float:
        """Return the largest absolute value for the label at a place of the card's order: the end of the scale."""
        return float(np.abs(self.values[:, :, place]).max())

    def draw(self, place: int, size: tuple[int, int]) -> npt.NDArray[np.uint8]:
        """Return the evidence for a label as a layer: orange speaks for it, blue against it, no evidence is clear.

        Args:
            place: of the label, in the card's order.
            size: (width, height) of the layer, in pixels.

        Returns:
            (height, width, 4) red, green, blue and opacity; the strongest evidence of this scan is opaque.
        """
        shares = self.values[:, :, place] / (self.strongest(place) or 1.0)
        smooth = np.asarray(Image.fromarray(shares.astype(np.float32)).resize(size, Image.Resampling.BICUBIC))
        layer = np.empty((*smooth.shape, 4), np.uint8)
        layer[:, :, :3] = np.where(
            smooth[:, :, np.newaxis] >= 0, np.array(_FOR, np.uint8), np.array(_AGAINST, np.uint8)
        )
        layer[:, :, 3] = np.rint(np.clip(np.abs(smooth), 0, 1) * 255)
        return layer


class EvidenceFinder:
    """A model bundle opened on the CPU to find evidence."""

    def __init__(self, bundle: Bundle, threads: int) -> None:
        """Open a bundle.

        Args:
            bundle: read and checked.
            threads: threads of one operator.

        Raises:
            CardMismatch: ONNX Runtime cannot load the model.
        """
        self.card = bundle.card
        self._session: OpenSession = open_session(bundle.model, Device.CPU, threads)
        self._has_map = any(output.name == ACTIVATION_MAP for output in self._session.session.get_outputs())

    def find(self, tensor: Tensor) -> Evidence:
        """Return the evidence in one prepared scan, (H, W, C) float32."""
        if self._has_map:
            (maps,) = self._session.compute([ACTIVATION_MAP], tensor[np.newaxis])
            return Evidence(maps[0].astype(np.float32), is_occlusion=False)
        rows, columns = (np.array_split(np.arange(side), _PARTS) for side in tensor.shape[:2])
        covered = np.repeat(tensor[np.newaxis], 1 + _PARTS * _PARTS, axis=0)
        for place, (row, column) in enumerate((row, column) for row in rows for column in columns):
            covered[1 + place, row[0] : row[-1] + 1, column[0] : column[-1] + 1] = tensor.mean()
        scores = self._session.score(covered)
        falls = (scores[:1] - scores[1:]).reshape(_PARTS, _PARTS, -1)
        return Evidence(falls.astype(np.float32), is_occlusion=True)
