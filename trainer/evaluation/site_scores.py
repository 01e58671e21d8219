"""Labelled scans of one site, and their scores by a model bundle."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from nightread.errors import CardMismatch, ScanError, StorageError
from nightread.inference.session import open_session
from nightread.model.bundle import Bundle
from nightread.model.card import Card, Precision
from nightread.scan.files import read_file
from nightread.scan.preprocessing import Tensor, read_and_prepare
from nightread.settings import Device
from trainer.data.labels import match_label, read_labels, refuse_contradictions
from trainer.data.load import MAX_FILE_BYTES, MAX_PIXELS
from trainer.data.split import Indices, Targets, group_scans
from trainer.errors import DatasetError

#: Labelled scans that are needed, in all and of each label: with fewer, thresholds are chance.
LEAST_SCANS: Final = 50
LEAST_OF_A_LABEL: Final = 15

_Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class SiteScan:
    """One labelled scan of a site; scans with one `patient` stay together where figures are computed."""

    path: Path
    label: str
    patient: str


@dataclass(frozen=True, slots=True)
class SiteScores:
    """Scores of a site's scans by a bundle.

    Attributes:
        targets: (N,) int64, 1 where the label is present.
        scores: (N,) float64.
        groups: (N,) int64, whose scans belong together.
        unreadable: scans that could not be read.
    """

    targets: Targets
    scores: _Floats
    groups: Indices
    unreadable: int = 0


def list_site(source: Path, card: Card) -> list[SiteScan]:
    """List the labelled scans of a site.

    Args:
        source: see `trainer.data.labels.read_labels`.
        card: whose label and negative decision the labels are; upper and lower case are alike.

    Raises:
        DatasetError: nothing is labelled so, or a scan has two labels.
    """
    check_card(card)
    known = (card.labels[0], card.negative_decision)
    scans = []
    for row in refuse_contradictions(source, read_labels(source)):
        label = match_label(row.label, known)
        if label is not None:
            scans.append(SiteScan(Path(row.path), label, row.patient or row.path))
        elif not source.is_dir():  # another folder beside those of the labels does no harm
            raise DatasetError(
                f"{source}, {row.place}: the label is {row.label!r}; the model knows {' and '.join(known)}"
            )
    if not scans:
        raise DatasetError(f"{source} has no folder of a label that the model knows: {' and '.join(known)}")
    return scans


def score_site(bundle: Bundle, scans: Sequence[SiteScan], *, report: Callable[[int, int], None]) -> SiteScores:
    """Score the scans of a site with a bundle, on the CPU.

    Raises:
        DatasetError: too few scans can be read.
    """
    card, names, tensors, digests, kept = bundle.card, list[str](), list[Tensor](), list[str](), list[SiteScan]()
    for done, scan in enumerate(scans, start=1):
        try:
            data = read_file(str(scan.path), roots=[scan.path.resolve().parent], max_bytes=MAX_FILE_BYTES)
            tensor, _ = read_and_prepare(data, card.input, max_pixels=MAX_PIXELS)
        except (ScanError, StorageError):
            continue
        finally:
            report(done, len(scans))
        tensors.append(tensor)
        names.append(scan.patient)
        digests.append(hashlib.sha256(data).hexdigest())
        kept.append(scan)
    targets = np.array([scan.label == card.labels[0] for scan in kept], np.int64)
    check_count(targets, card)
    scores = compute_scores(bundle.model, np.stack(tensors))
    return SiteScores(targets, scores, group_scans(names, digests), len(scans) - len(kept))


def check_card(card: Card) -> None:
    """Refuse a bundle that cannot be calibrated.

    Raises:
        CardMismatch: several labels, or another precision than float32.
    """
    if len(card.labels) != 1 or card.activation != "sigmoid" or card.precision is not Precision.FLOAT32:
        raise CardMismatch(
            f"{card.reference} has {len(card.labels)} labels and computes in {card.precision}; a bundle with one label "
            "in float32 can be calibrated"
        )


def check_count(targets: Targets, card: Card) -> None:
    """Refuse too few labelled scans.

    Raises:
        DatasetError: too few; the message says how many are missing.
    """
    present = int(targets.sum())
    counts = {card.labels[0]: present, card.negative_decision: len(targets) - present}
    lacking = {label: LEAST_OF_A_LABEL - count for label, count in counts.items() if count < LEAST_OF_A_LABEL}
    missing = max(LEAST_SCANS - len(targets), sum(lacking.values()))
    if missing > 0:
        found = ", ".join(f"{count} {label}" for label, count in counts.items())
        among = ", ".join(f"{count} {label}" for label, count in lacking.items())
        raise DatasetError(
            f"{len(targets)} labelled scans can be read ({found}); at least {LEAST_SCANS} are needed, "
            f"{LEAST_OF_A_LABEL} of each label: add {missing}" + (f", {among} among them" if among else "")
        )


def compute_scores(model: bytes, tensors: Tensor) -> _Floats:
    """Return (N,) scores."""
    session = open_session(model, Device.CPU, 1).session
    (taken,), output = session.get_inputs(), session.get_outputs()[0].name
    batches = [tensors[start : start + 32] for start in range(0, len(tensors), 32)]
    scores = [session.run([output], {taken.name: batch})[0][:, 0] for batch in batches]
    return np.concatenate(scores).astype(np.float64)
