"""Checking a bundle on this machine, step by step, so that a person sees what held and what did not."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np

from nightread.errors import DeviceError, ModelError
from nightread.inference.scorer import Scores, find_allowed_parity, find_graph_faults
from nightread.inference.session import OpenSession, open_session
from nightread.machine import count_cores
from nightread.model.bundle import MODEL_FILE, PARITY_FILE, Bundle, load_bundle
from nightread.model.onnx_file import read_onnx
from nightread.scan.preprocessing import Tensor
from nightread.settings import Settings

#: One scan, a pair, a batch that divides nothing and the default batch.
BATCH_SIZES: Final = (1, 2, 7, 32)


@dataclass(frozen=True, slots=True)
class Measured:
    """The largest absolute difference of scores in one arrangement of a batch."""

    where: str
    difference: float


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the table."""

    check: str
    found: str
    ok: bool
    allowed: str = ""


@dataclass(slots=True)
class Checked:
    """What checking a bundle came to.

    Attributes:
        findings: in the order of the checks; what a failed check leaves no ground for is missing.
        bundle: None where it cannot be read.
        session: None where it cannot be opened.
        parity: largest difference found; None where it was not reached.
        allowed: largest difference at which this machine may serve the model.
    """

    findings: list[Finding] = field(default_factory=list)
    bundle: Bundle | None = None
    session: OpenSession | None = None
    parity: float | None = None
    allowed: float | None = None

    @property
    def ok(self) -> bool:
        """Whether everything held."""
        return all(finding.ok for finding in self.findings)


def check_bundle(folder: Path, settings: Settings) -> Checked:
    """Check every byte, the card, the graph, the device, and the scores in batches of several sizes.

    Args:
        folder: the bundle's.
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
        _check_parity(checked, bundle, session)
    return checked


def measure_batches(score: Callable[[Tensor], Scores], inputs: Tensor, expected: Scores) -> Iterator[Measured]:
    """Compare scores in batches of every size, and of one scan at every place of a batch, with what is expected.

    Args:
        score: (N, H, W, C) float32 to (N, labels) float32.
        inputs: (N, H, W, C) float32; repeated where there are fewer than a batch takes.
        expected: (N, labels) float32.
    """
    for size in BATCH_SIZES:
        batch = np.resize(inputs, (size, *inputs.shape[1:]))
        wanted = np.resize(expected, (size, *expected.shape[1:]))
        yield Measured(f"at batch size {size}", _differ(score(batch), wanted))
    size = BATCH_SIZES[-2]
    worst = 0.0
    others = np.resize(inputs[1:] if len(inputs) > 1 else inputs, (size, *inputs.shape[1:]))
    for position in range(size):
        batch = others.copy()
        batch[position] = inputs[0]
        worst = max(worst, _differ(score(batch)[position], expected[0]))
    yield Measured(f"at every position of {size}", worst)


def _differ(scores: Scores, expected: Scores) -> float:
    if scores.shape != expected.shape:
        return float("inf")
    difference = float(np.abs(scores.astype(np.float64) - expected).max())
    return difference if np.isfinite(difference) else float("inf")


def _check_parity(checked: Checked, bundle: Bundle, session: OpenSession) -> None:
    name, output = session.session.get_inputs()[0].name, session.session.get_outputs()[0].name
    allowed = find_allowed_parity(bundle.card, session.device)

    def score(batch: Tensor) -> Scores:
        scores: Scores = session.session.run([output], {name: batch})[0]
        return scores

    checked.allowed, checked.parity = allowed, 0.0
    for measured in measure_batches(score, bundle.parity_inputs, bundle.parity_scores):
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
