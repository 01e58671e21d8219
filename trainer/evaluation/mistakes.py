"""The worst mistakes of a network: wrong decisions with the highest scores, for the report."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from trainer.data.load import PreparedScans
from trainer.data.split import Indices
from trainer.evaluation.metrics import PartScores

#: Most mistakes that a report shows.
_MISTAKES: Final = 12


@dataclass(frozen=True, slots=True)
class Mistake:
    """A scan with a wrong decision.

    Attributes:
        pixels: (H, W) float32 in [0, 1], the network's input.
        name: of the file.
        sha256: of the file.
        label: the true one.
        decision: the wrong one.
        score: of the decision, in [0, 1].
    """

    pixels: npt.NDArray[np.float32]
    name: str
    sha256: str
    label: str
    decision: str
    score: float


def find_mistakes(scans: PreparedScans, places: Indices, part: PartScores) -> list[Mistake]:
    """Return the wrong decisions with the highest scores.

    Args:
        scans: all of them.
        places: (N,) int64, places of the part's scans among them.
        part: scores of those N scans.
    """
    classes, decisions = part.task.classes, part.decisions
    return [
        Mistake(
            stretch(scans.inputs[places[place], :, :, 0]),
            Path(scans.scans[places[place]].path).name,
            scans.sha256[places[place]],
            classes[part.targets[place]],
            classes[decisions[place]],
            float(part.class_scores[place, decisions[place]]),
        )
        for place in rank_mistakes(part)
    ]


def rank_mistakes(part: PartScores) -> list[int]:
    """Return the places of the wrong decisions with the highest scores, at most twelve."""
    decisions = part.decisions
    scores = part.class_scores[np.arange(len(decisions)), decisions]
    wrong = np.flatnonzero(decisions != part.targets)
    ranked: list[int] = wrong[np.argsort(-scores[wrong], kind="stable")][:_MISTAKES].tolist()
    return ranked


def stretch(pixels: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Scale gray levels to [0, 1], whatever the network's value range."""
    low, high = float(pixels.min()), float(pixels.max())
    return (pixels - low) / np.float32((high - low) or 1.0)
