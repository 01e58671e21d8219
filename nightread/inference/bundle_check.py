"""Check of a bundle on this machine: one finding for each step, and the one comparison of scores in batches."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from nightread.errors import DeviceError, ModelError
from nightread.inference.scorer import find_allowed_parity, find_graph_faults
from nightread.inference.session import ORT_ERRORS, OpenSession, open_session, show_error
from nightread.inference.trial import try_model
from nightread.machine import count_cores
from nightread.model.bundle import MODEL_FILE, PARITY_FILE, Bundle, load_bundle
from nightread.model.onnx_file import read_onnx
from nightread.scan.preprocessing import Tensor
from nightread.settings import Settings

#: One scan, a pair, a prime and the default batch: converters have been wrong for all sizes but the one that they were
#: tried with.
BATCH_SIZES: Final = (1, 2, 7, 32)
#: Size of the batch in which scans change places.
_TURNED: Final = 7


@dataclass(frozen=True, slots=True)
class Measured:
    """Largest absolute difference of scores in one arrangement of a batch."""

    where: str
    difference: float


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the table of `nightread models check`."""

    check: str
    found: str
    ok: bool
    allowed: str = ""


@dataclass(slots=True)
class Checked:
    """Outcome of a check.

    Attributes:
        findings: in the order of the checks; steps that need a failed one are missing.
        bundle: None if it cannot be read.
        session: None if it cannot be opened.
        parity: largest difference found; None if the check ended before.
        allowed: largest difference at which this machine may serve the model.
    """

    findings: list[Finding] = field(default_factory=list)
    bundle: Bundle | None = None
    session: OpenSession | None = None
    parity: float | None = None
    allowed: float | None = None

    @property
    def ok(self) -> bool:
        """Whether every check passed."""
        return all(finding.ok for finding in self.findings)


def check_bundle(folder: Path, settings: Settings) -> Checked:
    """Check every byte, the card, the graph, the device, and the scores in batches of several sizes.

    Args:
        folder: of the bundle.
        settings: device and threads.
    """
    checked = Checked()
    try:
        bundle = load_bundle(folder)
    except ModelError as error:
        checked.findings.append(Finding("bytes and card", str(error), ok=False))
        return checked
    checked.bundle = bundle
    checked.findings += _tell_bundle(bundle)
    if faults := try_model(bundle.model, bundle.card):
        checked.findings.append(Finding("graph", "; ".join(faults), ok=False))
        return checked
    try:
        session = open_session(bundle.model, settings.device, settings.threads or count_cores())
    except DeviceError as error:
        checked.findings.append(Finding("device", str(error), ok=False))
        return checked
    except ModelError as error:
        checked.findings.append(Finding("graph", str(error), ok=False))
        return checked
    checked.session = session
    faults = find_graph_faults(session.session, bundle.card)
    checked.findings.append(Finding("graph", "; ".join(faults) or _tell_graph(bundle), ok=not faults))
    device = f"{session.provider}, {session.runtime}"
    checked.findings.append(Finding("device", device, ok=True, allowed=settings.device.value))
    if not faults:
        try:
            _check_parity(checked, bundle, session)
        except ORT_ERRORS as error:
            checked.findings.append(Finding("parity", show_error(error), ok=False))
    return checked


def measure_batches(
    score: Callable[[Tensor], npt.NDArray[Any]],
    inputs: Tensor,
    expected: npt.NDArray[Any],
    sizes: Sequence[int] = BATCH_SIZES,
) -> Iterator[Measured]:
    """Compare scores with the expected ones in batches of every size, and with each scan at every place of a batch.

    Args:
        score: maps (N, H, W, C) float32 to (N, labels) float32.
        inputs: (N, H, W, C) float32; repeated if a batch takes more.
        expected: (N, labels) float32.
        sizes: of the batches.
    """
    for size in sizes:
        places = spread_places(len(inputs), size)
        yield Measured(f"at batch size {size}", _differ(score(inputs[places]), expected[places]))
    size = min(_TURNED, max(sizes))
    turns = [np.roll(spread_places(len(inputs), size), by) for by in range(size)]
    worst = max(_differ(score(inputs[places]), expected[places]) for places in turns)
    yield Measured(f"at every position of {size}", worst)


def spread_places(count: int, wanted: int) -> npt.NDArray[np.int64]:
    """Return (wanted,) places among `count` scans, repeated if there are fewer.

    They are evenly spread: scans are listed label by label or score by score, and a batch needs all kinds.
    """
    if wanted > count:
        return np.resize(np.arange(count), wanted)
    return np.linspace(0, count - 1, wanted).astype(np.int64)


def _differ(scores: npt.NDArray[Any], expected: npt.NDArray[Any]) -> float:
    """Return the largest absolute difference; infinite for another shape and for scores that are not finite."""
    if scores.shape != expected.shape:
        return float("inf")
    difference = float(np.abs(scores.astype(np.float64) - expected).max())
    return difference if np.isfinite(difference) else float("inf")


def _check_parity(checked: Checked, bundle: Bundle, session: OpenSession) -> None:
    allowed = find_allowed_parity(bundle.card, session.device)
    checked.allowed, checked.parity = allowed, 0.0
    for measured in measure_batches(session.score, bundle.parity_inputs, bundle.parity_scores):
        checked.parity = max(checked.parity, measured.difference)
        is_within = measured.difference <= allowed
        checked.findings.append(
            Finding(f"parity {measured.where}", f"{measured.difference:.2g}", is_within, f"{allowed:.2g}")
        )


def _tell_bundle(bundle: Bundle) -> list[Finding]:
    card = bundle.card
    sizes = ", ".join(f"{name} {digest[:12]}" for name, digest in sorted(card.files.items()))
    height, width, channels = card.input.shape
    return [
        Finding("bytes", sizes, ok=True, allowed=f"the digests of {MODEL_FILE} and {PARITY_FILE} in the card"),
        Finding(
            "card",
            f"{card.reference}, {card.digest[:12]}, {', '.join(card.labels)}, {height} x {width} x {channels}, "
            f"preprocessing {card.preprocessing_version}",
            ok=True,
        ),
    ]


def _tell_graph(bundle: Bundle) -> str:
    found = read_onnx(bundle.model)
    opsets = ", ".join(f"{domain or 'ai.onnx'} {version}" for domain, version in sorted(found.opsets.items()))
    return f"{sum(found.operators.values())} operators, opset {opsets}, all tensors inside"
