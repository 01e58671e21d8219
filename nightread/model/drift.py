"""Drift: whether a run's scans look like the training data, judged without labels.

Each measurement of a run is compared with the reference in the card by two statistics:

- The population stability index (PSI) over the deciles of the reference is the sum of (q - p) ln(q / p) for the bin
  shares p of the reference and q of the run. Half a scan is added to each bin of the run, since an empty bin would make
  the PSI infinite (Jeffreys prior; Krichevsky and Trofimov 1981, doi:10.1109/TIT.1981.1056331).
- The Kolmogorov-Smirnov (KS) distance is the largest difference of the two cumulative distributions.

Both exceed 0 by chance, the more so the fewer scans there are: the rule of thumb that a PSI of 0.25 is a large shift
raises an alarm on most small runs (Yurdakul and Naranjo 2020, Statistical properties of the population stability index,
Journal of Risk Model Validation). Each statistic is therefore compared with a critical value. `FALSE_ALARMS` is the
significance level of all figures together (Bonferroni). The critical PSI is simulated; the critical KS distance follows
from its limit distribution with the small-sample correction of Stephens (1970, Journal of the Royal Statistical Society
B 32). An alarm also requires a minimum effect size.

Fisher's test and the critical values are a dozen lines here. SciPy has them, but would add 113 MB to every worker image
and 2 s of CPU time to each `nightread drift`; only the extra `train` installs it.
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

#: Significance level: share of runs like the reference that may raise an alarm, all figures together.
FALSE_ALARMS: Final = 0.05
#: Minimum effect sizes: a smaller PSI is "little change" by the rule of thumb; a KS of 0.1 is a tenth of the scans.
LEAST_PSI: Final = 0.1
LEAST_KS: Final = 0.1
#: Measurements for which only an increase raises an alarm: scans that the network was fitted on have smaller ones.
_ONLY_ABOVE: Final = frozenset({"distance"})
#: Fewer scans without an alarm give no answer.
LEAST_SCANS: Final = 10

#: Measurements are rounded to this many decimals; smaller differences come from the runtime and the device.
_DECIMALS: Final = 4
_BINS: Final = 10  # deciles
_QUANTILES: Final = 100
_DRAWS: Final = 20_000
_SEED: Final = 2018
_HALF_A_SCAN: Final = 0.5


@dataclass(frozen=True, slots=True)
class Shift:
    """One measurement of a run, compared with the reference.

    Attributes:
        name: name of the measurement.
        scans: number of scans of the run that have it.
        median: median of the run.
        reference_median: median of the reference.
        psi: population stability index.
        critical_psi: critical value of `psi`.
        ks: Kolmogorov-Smirnov distance.
        critical_ks: critical value of `ks`.
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
        """Whether a statistic exceeds its critical value and the minimum effect size."""
        if self.name in _ONLY_ABOVE and self.median <= self.reference_median:
            return False
        return self.psi > max(self.critical_psi, LEAST_PSI) or self.ks > max(self.critical_ks, LEAST_KS)


@dataclass(frozen=True, slots=True)
class Rejections:
    """Rejections by the input gate, compared with the reference.

    Attributes:
        rejected: number of rejected scans of the run.
        judged: number of scans of the run that the gate judged.
        reference_share: share of rejected scans in the reference.
        p_value: probability of as many or more rejections in a run like the reference.
        alpha: significance level.
    """

    rejected: int
    judged: int
    reference_share: float
    p_value: float
    alpha: float

    @property
    def is_alarm(self) -> bool:
        """Whether significantly more scans are rejected."""
        return self.p_value < self.alpha


@dataclass(frozen=True, slots=True)
class Drift:
    """A run compared with the reference.

    Attributes:
        shifts: one for each measurement, in the reference's order.
        rejections: rejections by the input gate; None if no scan was judged.
        looks_alike: whether nothing raises an alarm; None if there are too few scans for an answer.
    """

    shifts: tuple[Shift, ...]
    rejections: Rejections | None
    looks_alike: bool | None


def name_component(place: int) -> str:
    """Return the name of a principal component of the embedding, given its index from 0."""
    return f"component_{place + 1}"


def summarise(values: Mapping[str, Values], *, rejected_share: float) -> Reference:
    """Return the reference with which runs are compared.

    Args:
        values: (N,) values by measurement, of N > 0 scans that resemble the training scans.
        rejected_share: share of these scans that the input gate rejects; 0 without a gate.
    """
    shares = np.linspace(0, 1, _QUANTILES + 1)
    quantiles = {
        name: tuple(np.quantile(_round(measured), shares, method="inverted_cdf").tolist())
        for name, measured in values.items()
    }
    scans = max(len(measured) for measured in values.values())
    return Reference(scans=scans, rejected_share=rejected_share, quantiles=quantiles)


def compare(reference: Reference, values: Mapping[str, Values], *, rejected: int, judged: int) -> Drift:
    """Compare a run with the reference.

    Args:
        reference: reference of the model's card.
        values: (N,) values by measurement, of the run's scans that have it; names without a reference are ignored.
        rejected: number of scans that the input gate rejects, even if it was switched off.
        judged: number of scans that the gate judged; 0 without a gate.
    """
    known = {name: values[name] for name in reference.quantiles if name in values and len(values[name])}
    figures = 2 * len(known) + (judged > 0)
    alpha = FALSE_ALARMS / max(figures, 1)
    shifts = tuple(_shift(name, reference, measured, alpha) for name, measured in known.items())
    rejections = None
    if judged:
        share, scans = reference.rejected_share, reference.scans
        p_value = compute_fisher_p(rejected, judged, round(share * scans), scans)
        rejections = Rejections(rejected, judged, share, p_value, alpha)
    is_alarm = any(shift.is_alarm for shift in shifts) or (rejections is not None and rejections.is_alarm)
    scans = max((shift.scans for shift in shifts), default=0)
    return Drift(shifts, rejections, None if scans < LEAST_SCANS and not is_alarm else not is_alarm)


def compute_psi(quantiles: Values, values: Values) -> float:
    """Return the population stability index of values relative to the quantiles of a reference.

    Args:
        quantiles: (101,) ascending.
        values: (N,), N > 0.
    """
    edges, expected = _find_bins(quantiles)
    counts = np.bincount(np.searchsorted(edges, _round(values), side="left"), minlength=len(expected))
    return float(_compute_psi(expected, counts[np.newaxis])[0])


def find_critical_psi(quantiles: Values, reference_scans: int, scans: int, alpha: float) -> float:
    """Return the critical value of the PSI: scans like the reference's exceed it with probability `alpha`.

    Simulated: the true bin shares are drawn from a Dirichlet distribution, as uncertain as deciles of `reference_scans`
    scans are, and the counts of `scans` scans from a multinomial distribution with these shares.
    """
    _, expected = _find_bins(quantiles)
    return _simulate_psi(tuple(np.round(expected, 6).tolist()), reference_scans, scans, alpha)


def compute_ks(quantiles: Values, values: Values) -> float:
    """Return the Kolmogorov-Smirnov distance between a reference and values.

    The reference is interpolated linearly between its quantiles, with a step where several are equal.

    Args:
        quantiles: (101,) ascending.
        values: (N,), N > 0.
    """
    levels, firsts, lasts = _find_steps(quantiles)
    places, counts = np.unique(_round(values), return_counts=True)
    after = np.cumsum(counts) / counts.sum()
    before = after - counts / counts.sum()
    # Compare the distributions at each value and just below it: both may have a step there.
    above = np.searchsorted(levels, places, side="right")  # index of the next level above
    reference_after = _interpolate(places, above, levels, firsts, lasts)
    is_level = levels[np.clip(above - 1, 0, None)] == places
    reference_before = np.where(is_level, firsts[np.clip(above - 1, 0, None)], reference_after)
    return float(max(np.abs(after - reference_after).max(), np.abs(before - reference_before).max()))


def find_critical_ks(reference_scans: int, scans: int, alpha: float) -> float:
    """Return the critical value of the KS distance: scans like the reference's exceed it with probability `alpha`."""
    root = sqrt(reference_scans * scans / (reference_scans + scans))
    # At a small alpha the first term of Kolmogorov's series, 2 exp(-2 x^2), suffices.
    return min(1.0, sqrt(-log(alpha / 2) / 2) / (root + 0.12 + 0.11 / root))


def compute_fisher_p(rejected: int, judged: int, reference_rejected: int, reference_judged: int) -> float:
    """Return the one-sided p-value of Fisher's exact test for more rejections in the run than in the reference.

    The test conditions on the total number of rejections, so that a reference without rejections does not imply a rate
    of exactly zero.
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
    """Return (B - 1,) inner edges, which are upper bounds of their bins, and (B,) shares of the reference.

    The edges are the distinct deciles, so that no bin is empty.
    """
    step = _QUANTILES // _BINS
    edges = np.unique(quantiles[step:-1:step])
    edges = edges[edges < quantiles[-1]]
    reached = (np.searchsorted(quantiles, edges, side="right") - 1) / _QUANTILES
    return edges, np.diff(reached, prepend=0.0, append=1.0)


def _compute_psi(expected: Values, counts: npt.NDArray[np.int64]) -> Values:
    """Return (R,) stability indices of (R, B) counts."""
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
    """Return the distinct quantiles, and the shares of the reference below each and up to each."""
    levels, firsts, counts = np.unique(quantiles, return_index=True, return_counts=True)
    return levels, firsts / _QUANTILES, (firsts + counts - 1) / _QUANTILES


def _interpolate(places: Values, above: npt.NDArray[np.intp], levels: Values, firsts: Values, lasts: Values) -> Values:
    """Return the share of the reference up to and including each value in `places`."""
    below = np.clip(above - 1, 0, None)
    upper = np.clip(above, None, len(levels) - 1)
    width = np.where(upper > below, levels[upper] - levels[below], 1.0)
    part = np.clip((places - levels[below]) / width, 0, 1)
    inside: Values = lasts[below] + part * (firsts[upper] - lasts[below])
    return np.where(above == 0, 0.0, np.where(above == len(levels), 1.0, inside))


def _log_choose(count: int, chosen: int) -> float:
    return lgamma(count + 1) - lgamma(chosen + 1) - lgamma(count - chosen + 1)
