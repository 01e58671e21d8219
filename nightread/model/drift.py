"""Whether a night looks like the training data, without labels: what its scans measure against the card's reference.

Each measurement is compared in two ways. The population stability index (PSI) compares shares of bins, which are the
deciles of the reference: the sum of (q - p) ln(q / p) for the shares p of the reference and q of the night. A bin that
the night leaves empty would make it infinite, so half a scan is added to each bin of the night (the prior of Jeffreys;
Krichevsky and Trofimov 1981, doi:10.1109/TIT.1981.1056331), which hardly matters where there are many. The distance of
Kolmogorov and Smirnov (KS) is the largest difference of the two cumulative distributions.

Both are larger than 0 by chance alone, and the more so the fewer scans there are: the rule of thumb that a PSI of 0.25
is a large shift calls an alarm on most small nights (Yurdakul and Naranjo 2020, Statistical properties of the
population stability index, Journal of Risk Model Validation). So each is held against what chance exceeds in a share
of all nights, `FALSE_ALARMS` for all figures together (Bonferroni): the PSI by simulation, KS by its limit distribution
with the correction for few scans of Stephens (1970, Journal of the Royal Statistical Society B 32). What is beyond
chance must be large enough to matter, too.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from math import exp, lgamma, log, sqrt
from typing import Final

import numpy as np
import numpy.typing as npt

from nightread.model.card import Reference

Values = npt.NDArray[np.float64]

#: Share of nights like the reference that may be called different, all figures together.
FALSE_ALARMS: Final = 0.05
#: A PSI below is "little change" by the rule of thumb, however sure it is; a KS below, a tenth of the scans.
LEAST_PSI: Final = 0.1
LEAST_KS: Final = 0.1
#: To be nearer than the hold-out is no alarm: scans that a network was fitted on are.
_ONLY_ABOVE: Final = frozenset({"distance"})
#: With fewer scans a night that shows nothing unusual tells nothing.
LEAST_SCANS: Final = 10

#: Differences below come from the runtime and the device rather than from the scans.
_DECIMALS: Final = 4
_BINS: Final = 10  # deciles
_QUANTILES: Final = 100
_DRAWS: Final = 20_000
_SEED: Final = 2018
_HALF_A_SCAN: Final = 0.5


@dataclass(frozen=True, slots=True)
class Shift:
    """One measurement of a night against the reference.

    Attributes:
        name: of the measurement.
        scans: how many of the night have it.
        median: of the night.
        reference_median: of the reference.
        psi: population stability index.
        critical_psi: what it would exceed by chance in one of many nights; see `compare`.
        ks: Kolmogorov-Smirnov distance.
        critical_ks: the same.
    """

    name: str
    scans: int
    median: float
    reference_median: float
    psi: float
    critical_psi: float
    ks: float
    critical_ks: float

    @property
    def is_alarm(self) -> bool:
        """Whether a figure is beyond chance, and large enough to matter."""
        if self.name in _ONLY_ABOVE and self.median <= self.reference_median:
            return False
        return self.psi > max(self.critical_psi, LEAST_PSI) or self.ks > max(self.critical_ks, LEAST_KS)


@dataclass(frozen=True, slots=True)
class Rejections:
    """How many scans the input gate rejects, against the reference.

    Attributes:
        rejected: of the night's scans that the gate judged.
        judged: those.
        reference_share: of the reference.
        p_value: that as many or more would be rejected in a night like the reference.
        alpha: the chance at which it is an alarm.
    """

    rejected: int
    judged: int
    reference_share: float
    p_value: float
    alpha: float

    @property
    def is_alarm(self) -> bool:
        """Whether more are rejected than chance explains."""
        return self.p_value < self.alpha


@dataclass(frozen=True, slots=True)
class Drift:
    """A night against the reference.

    Attributes:
        shifts: by measurement, in the reference's order.
        rejections: by the input gate; None where no scan was judged.
        looks_alike: whether nothing is an alarm; None where there are too few scans to tell.
    """

    shifts: tuple[Shift, ...]
    rejections: Rejections | None
    looks_alike: bool | None


def name_component(place: int) -> str:
    """Return the name of a principal component of the embedding, counted from 0."""
    return f"component_{place + 1}"


def summarise(values: Mapping[str, Values], *, rejected_share: float) -> Reference:
    """Return the reference that nights are compared with.

    Args:
        values: by measurement, (N,), the same N scans that are like those of training; N > 0.
        rejected_share: of them by the input gate; 0 without one.
    """
    shares = np.linspace(0, 1, _QUANTILES + 1)
    quantiles = {
        name: tuple(np.quantile(_round(measured), shares, method="inverted_cdf").tolist())
        for name, measured in values.items()
    }
    scans = max(len(measured) for measured in values.values())
    return Reference(scans=scans, rejected_share=rejected_share, quantiles=quantiles)


def compare(reference: Reference, values: Mapping[str, Values], *, rejected: int, judged: int) -> Drift:
    """Compare a night with the reference.

    Args:
        reference: of the model's card.
        values: by measurement, those of the night's scans that have it; names that the reference does not know are
            passed over.
        rejected: scans that the input gate rejects, whether or not it was acted on.
        judged: scans that it judged; 0 without a gate.
    """
    known = {name: values[name] for name in reference.quantiles if name in values and len(values[name])}
    figures = 2 * len(known) + (judged > 0)
    alpha = FALSE_ALARMS / max(figures, 1)
    shifts = tuple(_shift(name, reference, measured, alpha) for name, measured in known.items())
    rejections = None
    if judged:
        share, scans = reference.rejected_share, reference.scans
        chance = compute_fisher_p(rejected, judged, round(share * scans), scans)
        rejections = Rejections(rejected, judged, share, chance, alpha)
    is_alarm = any(shift.is_alarm for shift in shifts) or (rejections is not None and rejections.is_alarm)
    scans = max((shift.scans for shift in shifts), default=0)
    return Drift(shifts, rejections, None if scans < LEAST_SCANS and not is_alarm else not is_alarm)


def compute_psi(quantiles: Values, values: Values) -> float:
    """Return the population stability index of values against the quantiles of a reference.

    Args:
        quantiles: (101,) ascending.
        values: (N,), N > 0.
    """
    edges, expected = _find_bins(quantiles)
    counts = np.bincount(np.searchsorted(edges, _round(values), side="left"), minlength=len(expected))
    return float(_compute_psi(expected, counts[np.newaxis])[0])


def find_critical_psi(quantiles: Values, reference_scans: int, scans: int, alpha: float) -> float:
    """Return the PSI that so many scans of the reference's own kind exceed with a chance of `alpha`.

    The true shares of the bins are as uncertain as deciles of `reference_scans` scans are (Dirichlet), and the night's
    counts are drawn from them (multinomial).
    """
    _, expected = _find_bins(quantiles)
    return _simulate_psi(tuple(np.round(expected, 6).tolist()), reference_scans, scans, alpha)


def compute_ks(quantiles: Values, values: Values) -> float:
    """Return the largest difference of the cumulative distributions of a reference and of values.

    Between two of its quantiles the reference is taken as even; where several are equal, it has a step.

    Args:
        quantiles: (101,) ascending.
        values: (N,), N > 0.
    """
    levels, firsts, lasts = _find_steps(quantiles)
    places, counts = np.unique(_round(values), return_counts=True)
    after = np.cumsum(counts) / counts.sum()
    before = after - counts / counts.sum()
    # Up to a value and including it, and up to it alone: both distributions may have a step there.
    above = np.searchsorted(levels, places, side="right")  # of the level next above
    reference_after = _interpolate(places, above, levels, firsts, lasts)
    is_level = levels[np.clip(above - 1, 0, None)] == places
    reference_before = np.where(is_level, firsts[np.clip(above - 1, 0, None)], reference_after)
    return float(max(np.abs(after - reference_after).max(), np.abs(before - reference_before).max()))


def find_critical_ks(reference_scans: int, scans: int, alpha: float) -> float:
    """Return the KS distance that so many scans of the reference's own kind exceed with a chance of `alpha`."""
    root = sqrt(reference_scans * scans / (reference_scans + scans))
    # The first term of Kolmogorov's series, 2 exp(-2 x^2), is all that counts at a small alpha.
    return min(1.0, sqrt(-log(alpha / 2) / 2) / (root + 0.12 + 0.11 / root))


def compute_fisher_p(rejected: int, judged: int, reference_rejected: int, reference_judged: int) -> float:
    """Return the chance of so many rejections or more where both sets of scans have the same rate.

    Fisher's exact test: the binomial distribution, given how many are rejected in both sets together, so that a
    reference in which none was rejected does not stand for a rate of exactly zero.
    """
    total, all_rejected = judged + reference_judged, rejected + reference_rejected
    most = min(judged, all_rejected)
    ways = [
        _log_choose(all_rejected, count) + _log_choose(total - all_rejected, judged - count)
        for count in range(rejected, most + 1)
    ]
    return min(1.0, sum(exp(way - _log_choose(total, judged)) for way in ways))


def _shift(name: str, reference: Reference, measured: Values, alpha: float) -> Shift:
    quantiles = np.array(reference.quantiles[name])
    scans = len(measured)
    return Shift(
        name=name,
        scans=scans,
        median=float(np.median(measured)),
        reference_median=float(quantiles[_QUANTILES // 2]),
        psi=compute_psi(quantiles, measured),
        critical_psi=find_critical_psi(quantiles, reference.scans, scans, alpha),
        ks=compute_ks(quantiles, measured),
        critical_ks=find_critical_ks(reference.scans, scans, alpha),
    )


def _round(values: Values) -> Values:
    return np.asarray(values, np.float64).round(_DECIMALS)


def _find_bins(quantiles: Values) -> tuple[Values, Values]:
    """Return (B - 1,) inner edges, to each of which its bin reaches, and (B,) shares of the reference.

    They are the deciles, fewer where several of them are equal; no bin is empty.
    """
    step = _QUANTILES // _BINS
    edges = np.unique(quantiles[step:-1:step])
    edges = edges[edges < quantiles[-1]]
    reached = (np.searchsorted(quantiles, edges, side="right") - 1) / _QUANTILES
    return edges, np.diff(reached, prepend=0.0, append=1.0)


def _compute_psi(expected: Values, counts: npt.NDArray[np.int64]) -> Values:
    """Return (R,) indices of (R, B) counts."""
    bins = len(expected)
    shares = (counts + _HALF_A_SCAN) / (counts.sum(axis=1, keepdims=True) + _HALF_A_SCAN * bins)
    indices: Values = ((shares - expected) * np.log(shares / expected)).sum(axis=1)
    return indices


@lru_cache(maxsize=64)
def _simulate_psi(expected: tuple[float, ...], reference_scans: int, scans: int, alpha: float) -> float:
    if len(expected) == 1:
        return 0.0
    rng = np.random.default_rng(_SEED)
    shares = rng.dirichlet(reference_scans * np.array(expected), _DRAWS)
    counts = rng.multinomial(scans, shares)
    return float(np.quantile(_compute_psi(np.array(expected), counts), 1 - alpha))


def _find_steps(quantiles: Values) -> tuple[Values, Values, Values]:
    """Return the different quantiles, and the shares of the reference below each and up to each."""
    levels, firsts, counts = np.unique(quantiles, return_index=True, return_counts=True)
    return levels, firsts / _QUANTILES, (firsts + counts - 1) / _QUANTILES


def _interpolate(places: Values, above: npt.NDArray[np.intp], levels: Values, firsts: Values, lasts: Values) -> Values:
    """Return the share of the reference up to each place and including it."""
    below = np.clip(above - 1, 0, None)
    upper = np.clip(above, None, len(levels) - 1)
    width = np.where(upper > below, levels[upper] - levels[below], 1.0)
    part = np.clip((places - levels[below]) / width, 0, 1)
    inside: Values = lasts[below] + part * (firsts[upper] - lasts[below])
    return np.where(above == 0, 0.0, np.where(above == len(levels), 1.0, inside))


def _log_choose(count: int, chosen: int) -> float:
    return lgamma(count + 1) - lgamma(chosen + 1) - lgamma(count - chosen + 1)
