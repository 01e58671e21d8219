"""Measure what `nightread calibrate` is worth: some scans of a site calibrate, the others judge.

    uv run --group test python -m studies.site_calibration DATA/next-hospital --table docs/how-to/calibrate.md

Each draw divides the patients by chance and calls the code of the command. Figures are means over the draws, with
their standard deviation.
"""

import argparse
import statistics
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np

from nightread.model.bundle import Bundle, find_bundle
from nightread.model.card import Card
from studies.page_part import write_part
from trainer.calibrate import calibrate_bundle, make_part, open_bundle
from trainer.data.dataset import Task
from trainer.data.pediatric import parse_patient
from trainer.data.split import Indices
from trainer.evaluation.calibration import PlattScaling
from trainer.evaluation.metrics import evaluate
from trainer.evaluation.operating_points import BALANCED, DECIDED, UNCERTAIN_SHARE, measure_band
from trainer.evaluation.site_scores import SiteScores, list_site, score_site

_SEED = 2018
_RESAMPLES = 2  # intervals are not shown
_FIGURES = {
    "balanced_accuracy": "balanced accuracy at one threshold",
    "ece": "calibration error",
    UNCERTAIN_SHARE: "uncertain",
    DECIDED: "balanced accuracy of the decided",
}


def main() -> None:
    """Measure every model and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("site", type=Path, help="folder of the pediatric collection, with a folder for each label")
    parser.add_argument("--models", nargs="+", default=["pneumonia-cnn75", "pneumonia-lite0"])
    parser.add_argument("--scans", type=int, default=100, help="that calibrate")
    parser.add_argument("--draws", type=int, default=10)
    parser.add_argument("--table", type=Path, help="page in which the table is replaced")
    arguments = parser.parse_args()
    rows = ["| model | | before | after |", "|---|---|---|---|"]
    for model in arguments.models:
        bundle = open_bundle(find_bundle(model, Path()))
        site = _score(bundle, arguments.site)
        draws = [measure_draw(bundle, site, arguments.scans, seed) for seed in range(arguments.draws)]
        rows += make_rows(bundle.card.reference, draws)
    table = "\n".join(rows)
    print(table)
    if arguments.table:
        write_part(arguments.table, "studies/site_calibration.py", table)


def _score(bundle: Bundle, folder: Path) -> SiteScores:
    scans = [
        replace(scan, patient=(parse_patient(scan.path.stem) or (scan.patient,))[0])
        for scan in list_site(folder, bundle.card)
    ]
    return score_site(bundle, scans, report=lambda _, __: None)


def measure_draw(bundle: Bundle, site: SiteScores, count: int, seed: int) -> tuple[dict[str, float], dict[str, float]]:
    """Return the figures of a bundle and of one calibrated on about `count` of the scans, both on the other scans."""
    drawn = _draw(site.groups, count, seed)
    with tempfile.TemporaryDirectory() as folder:
        calibrating = _choose(site, drawn)
        new = calibrate_bundle(bundle, calibrating, Path(folder) / "new", site_name="site", version="new")
    others = _choose(site, ~drawn)
    if new.card.scaling is None:
        raise RuntimeError("a calibrated bundle has no scaling on its card")
    scores = PlattScaling(new.card.scaling.slope, new.card.scaling.intercept).apply(others.scores)
    return _judge(bundle.card, others), _judge(new.card, replace(others, scores=scores))


def _draw(groups: Indices, count: int, seed: int) -> np.ndarray:
    """Return (N,) bool, true for `count` scans or a few more, those of whole patients."""
    order = np.random.default_rng(seed).permutation(np.unique(groups))
    sizes = np.bincount(groups)[order]
    return np.isin(groups, order[: int(np.searchsorted(sizes.cumsum(), count)) + 1])


def _choose(site: SiteScores, chosen: np.ndarray) -> SiteScores:
    return SiteScores(site.targets[chosen], site.scores[chosen], site.groups[chosen])


def _judge(card: Card, site: SiteScores) -> dict[str, float]:
    label = card.labels[0]
    part = make_part(Task(card.labels, "sigmoid", card.negative_decision), site, site.scores)
    band = card.thresholds[label]
    points = card.operating_points.get(label, {})
    part = replace(part, threshold=points[BALANCED].threshold if BALANCED in points else band.high)
    told = evaluate(part, majority=1, seed=_SEED, resamples=_RESAMPLES).figures
    told = {**told, **measure_band(part, band, seed=_SEED, resamples=_RESAMPLES)}
    return {name: told[name].value for name in _FIGURES}


def make_rows(model: str, draws: list[tuple[dict[str, float], dict[str, float]]]) -> list[str]:
    """Return the rows of one model."""
    rows: list[str] = []
    for figure, words in _FIGURES.items():
        cells = [_tell(figure, [draw[place][figure] for draw in draws]) for place in (0, 1)]
        rows.append(f"| {'' if rows else f'`{model}`'} | {words} | {' | '.join(cells)} |")
    return rows


def _tell(figure: str, values: list[float]) -> str:
    mean, spread = statistics.mean(values), statistics.stdev(values)
    return f"{mean:.0%} ({spread:.0%})" if figure == UNCERTAIN_SHARE else f"{mean:.3f} ({spread:.3f})"


if __name__ == "__main__":
    main()
