"""Scoring the scans of a past run with another model, and what would have been different.

Nothing of the past run changes, and no run is made: a run accounts for files, which the past one has done. The scores
are stored as predictions of the other model, keyed on content like all others. So a shadow that was interrupted goes on
where it was, and the first run with that model reuses them.
"""

import functools
import heapq
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, Final

import numpy as np
from sqlalchemy import Connection, Engine

from db.engine import reading, write
from db.job_results import store_predictions
from db.jobs import OpenScan
from db.measurements import store_measurements
from db.model_pairs import ModelKey, Pair, ScoredScan, count_scored, count_unpredicted, load_unpredicted, stream_pairs
from db.registry import StoredModel, find_model, register_model
from db.run_history import find_newest_of
from db.runs import RunInfo
from db.types import ScanStatus
from nightread.errors import NightreadError
from nightread.inference.scorer import Scorer
from nightread.model.bundle import Bundle
from nightread.model.card import Card
from nightread.reasons import Reason
from worker.jobs.pipeline import JobResult, find_under, score_scans
from worker.process import WorkerProcess
from worker.registry.choose import describe_model

#: Why a scan has no score of the other model: its file holds other bytes than in the run.
CHANGED: Final = "changed"
#: The same, where the other model was not asked.
_UNSCORED: Final = "not scored"
#: Scans whose decision differs that are kept, and others that are drawn for a picture.
_MOST_FLIPPED: Final = 1_000
_MOST_DRAWN: Final = 3_000
_SEED: Final = 2018
_QUANTILES: Final = (0.05, 0.25, 0.5, 0.75, 0.95)


@dataclass(slots=True)
class LabelShift:
    """What became of one label's scores and decisions.

    Attributes:
        flips: scans by (decision before, decision after), where they differ.
        shifts: score after minus score before, of each scan.
        moved: the scans whose score moved most, that one first.
        flipped: the scans whose decision differs, the one that moved most first; at most a thousand.
        sample: score before, score after and whether the decision differs, of some scans drawn at random, and of each
            in `flipped`.
    """

    label: str
    agreed: int = 0
    flips: Counter[tuple[str, str]] = field(default_factory=Counter)
    shifts: list[float] = field(default_factory=list)
    moved: list[Pair] = field(default_factory=list)
    flipped: list[Pair] = field(default_factory=list)
    sample: list[tuple[float, float, bool]] = field(default_factory=list)

    @property
    def compared(self) -> int:
        """Scans that both models have scored."""
        return len(self.shifts)

    def describe(self) -> dict[str, Any]:
        """Return the figures for a program; shares are of the scans compared."""
        shifts = np.asarray(self.shifts)
        quantiles = {f"{share:g}": float(np.quantile(shifts, share)) for share in _QUANTILES}
        return {
            "compared": self.compared,
            "agreed": self.agreed,
            "agreement": self.agreed / self.compared,
            "flips": [
                {"before": before, "after": after, "scans": count, "share": count / self.compared}
                for (before, after), count in sorted(self.flips.items(), key=lambda flip: (-flip[1], flip[0]))
            ],
            "shift": {
                "mean": float(shifts.mean()),
                "mean_absolute": float(np.abs(shifts).mean()),
                "largest_absolute": float(np.abs(shifts).max()),
                "quantiles": quantiles,
            },
            "moved": [_describe_pair(pair) for pair in self.moved],
        }


@dataclass(slots=True)
class Shadow:
    """A past run as another model sees it.

    Attributes:
        run: the past run, untouched.
        model: NAME@VERSION of the other model.
        scored: scans that the run has scored.
        reused: of those, how many had a score of the other model before.
        without_score: scans by the reason why the other model has no score for them: their file is gone, holds other
            bytes by now, or cannot be read.
        labels: of the labels that both models have.
    """

    run: RunInfo
    model: str
    scored: int
    reused: int
    without_score: Counter[str]
    labels: list[LabelShift]

    @property
    def compared(self) -> int:
        """Scans that both models have scored."""
        return self.scored - self.without_score.total()


def shadow_run(
    process: WorkerProcess, run: RunInfo, bundle: Bundle, *, most_moved: int, on_progress: Callable[[int, int], None]
) -> Shadow:
    """Score a past run's scans with another model and compare; an interruption keeps what is scored.

    Args:
        process: settings, database and threads.
        run: the past run.
        bundle: the other model.
        most_moved: how many of the scans that moved most are kept for each label.
        on_progress: is called with the scans done and all scans to do.

    Raises:
        NightreadError: the models have no label in common, it is the run's own model, or nothing can be compared.
        ModelError: this machine must not serve the model.
        DatabaseError: the database went away, or knows the model's name and version with another digest.
    """
    card = bundle.card
    before, labels = _find_common(process, run, card)
    scorer = process.open_bundle(bundle)
    write(process.engine, lambda connection: register_model(connection, describe_model(bundle)))
    after = ModelKey(bundle.digest, card.preprocessing_version, card.labels[0])
    with reading(process.engine) as connection:
        scored = count_scored(connection, run.id)
        to_do = count_unpredicted(connection, run.id, after)
    on_progress(0, to_do)
    reasons = _score_missing(process, run, scorer, after, lambda done: on_progress(done, to_do))
    on_progress(to_do, to_do)  # scans of one content are done together
    without_score = Counter(
        reasons.get(scan.id, Reason.INTERNAL_ERROR.value)
        for part in _read_unpredicted(process, run, after)
        for scan in part
    )
    with reading(process.engine) as connection:
        shifts = compare_pairs(stream_pairs(connection, run.id, before, after, labels), labels, most_moved)
    shadow = Shadow(run, card.reference, scored, scored - to_do, without_score, shifts)
    if not shadow.compared or not all(shift.compared for shift in shifts):
        causes = ", ".join(f"{count} {reason}" for reason, count in without_score.most_common()) or "none was scored"
        raise NightreadError(
            f"no scan of run {run.id[:8]} can be compared: {causes}; mount the folder that it was made from, or name "
            "another run"
        )
    return shadow


def read_shadow(engine: Engine, before: StoredModel, after: StoredModel, *, most_scans: int) -> Shadow | None:
    """Return the newest finished run of a model as another one sees it, of what both have scored; nothing is scored.

    Args:
        engine: the database, its schema checked.
        before: the model of the run.
        after: the other model.
        most_scans: number of scored scans above which a run is not compared.

    Returns:
        The comparison; None if the models have no label in common, or there is no such run of this size.
    """
    labels = [label for label in before.card["labels"] if label in after.card["labels"]]
    old, new = (ModelKey(model.digest, model.preprocessing, model.card["labels"][0]) for model in (before, after))
    with reading(engine) as connection:
        run = find_newest_of(connection, before.digest)
        scored = 0 if run is None else count_scored(connection, run.id)
        if run is None or not labels or not 0 < scored <= most_scans:
            return None
        missing = count_unpredicted(connection, run.id, new)
        shifts = compare_pairs(stream_pairs(connection, run.id, old, new, labels), labels, 0)
    if not all(shift.compared for shift in shifts):
        return None
    return Shadow(
        run, after.reference, scored, scored - missing, Counter({_UNSCORED: missing} if missing else {}), shifts
    )


def _score_missing(
    process: WorkerProcess, run: RunInfo, scorer: Scorer, model: ModelKey, on_progress: Callable[[int], None]
) -> dict[int, str]:
    """Score what has no prediction of `model` yet; returns the reasons of the scans that get none, by scan id."""
    limits = process.make_limits(run, scorer)
    reasons: dict[int, str] = {}
    done = 0
    for part in _read_unpredicted(process, run, model):
        result = score_scans(
            [OpenScan(scan.id, scan.path, scan.size_bytes) for scan in part],
            scorer,
            limits,
            decoder=process.decoder,
            find_stored=find_under(process.engine, model.digest, scorer.card),
            check_lease=lambda: None,
            worker=process.name,
        )
        expected = {scan.id: scan.sha256 for scan in part}
        write(process.engine, functools.partial(_store, result, set(expected.values())))
        for outcome in result.outcomes:
            if outcome.sha256 is not None and outcome.sha256 != expected[outcome.scan_id]:
                reasons[outcome.scan_id] = CHANGED
            elif outcome.status is not ScanStatus.SCORED:
                reasons[outcome.scan_id] = outcome.reason_code or Reason.INTERNAL_ERROR.value
        reasons.update((scan.id, reason.value) for scan, reason, _ in result.put_off)
        done += len(part)
        on_progress(done)
    return reasons


def _store(result: JobResult, wanted: set[str], connection: Connection) -> None:
    """Store what was found of the contents of the run; what else a file holds by now is no scan of it."""
    store_predictions(connection, [new for new in result.predictions if new.sha256 in wanted])
    store_measurements(connection, [new for new in result.measurements if new.sha256 in wanted])


def compare_pairs(pairs: Iterator[Pair], labels: Sequence[str], most_moved: int) -> list[LabelShift]:
    """Sum up pairs of predictions, label by label.

    Args:
        pairs: of any of `labels`, in any order.
        labels: in the order of the outcome.
        most_moved: how many of the scans that moved most are kept for each label.
    """
    shifts = {label: LabelShift(label) for label in labels}
    heaps: dict[str, list[tuple[float, int, Pair]]] = {label: [] for label in labels}
    flipped: dict[str, list[tuple[float, int, Pair]]] = {label: [] for label in labels}
    random = Random(_SEED)  # noqa: S311  # draws dots of a picture
    for number, pair in enumerate(pairs):
        shift = shifts[pair.label]
        moved = pair.score_after - pair.score_before
        shift.shifts.append(moved)
        if pair.decision_before == pair.decision_after:
            shift.agreed += 1
            _draw(shift, pair, random)
        else:
            shift.flips[pair.decision_before, pair.decision_after] += 1
            _keep(flipped[pair.label], (abs(moved), -number, pair), _MOST_FLIPPED)
        _keep(heaps[pair.label], (abs(moved), -number, pair), most_moved)
    for label, shift in shifts.items():
        shift.moved, shift.flipped = _sort(heaps[label]), _sort(flipped[label])
        shift.sample += [(pair.score_before, pair.score_after, True) for pair in shift.flipped]
    return list(shifts.values())


def _keep(heap: list[tuple[float, int, Pair]], entry: tuple[float, int, Pair], most: int) -> None:
    """Keep the entries that moved most; of two that moved the same way, the first one stays."""
    heapq.heappush(heap, entry)
    if len(heap) > most:
        heapq.heappop(heap)


def _sort(heap: list[tuple[float, int, Pair]]) -> list[Pair]:
    return [pair for _, _, pair in sorted(heap, key=lambda entry: entry[:2], reverse=True)]


def _draw(shift: LabelShift, pair: Pair, random: Random) -> None:
    """Keep a scan whose decision agrees in the sample, each with the same chance."""
    drawn = (pair.score_before, pair.score_after, False)
    if len(shift.sample) < _MOST_DRAWN:
        shift.sample.append(drawn)
    elif (place := random.randrange(shift.agreed)) < _MOST_DRAWN:
        shift.sample[place] = drawn


def _find_common(process: WorkerProcess, run: RunInfo, card: Card) -> tuple[ModelKey, list[str]]:
    """Return what the run's own predictions are stored under, and the labels that both models have."""
    if card.digest == run.model_digest:
        raise NightreadError(
            f"run {run.id[:8]} was scored with {run.model} itself: name another model, or another run with --model"
        )
    name, _, version = run.model.partition("@")
    with reading(process.engine) as connection:
        stored = find_model(connection, name, version)
    own = list(stored.card["labels"]) if stored is not None else []
    labels = [label for label in own if label in card.labels]
    if not labels:
        raise NightreadError(
            f"{run.model} and {card.reference} have no label in common ({', '.join(own)}; {', '.join(card.labels)}): "
            "there is nothing to compare"
        )
    return ModelKey(run.model_digest, run.preprocessing, own[0]), labels


def _read_unpredicted(process: WorkerProcess, run: RunInfo, model: ModelKey) -> Iterator[list[ScoredScan]]:
    """Yield the scans without a prediction of `model`, as many at a time as a job has."""
    last = 0
    while True:
        with reading(process.engine) as connection:
            part = load_unpredicted(connection, run.id, model, after_id=last, limit=process.settings.job_size)
        if not part:
            return
        yield part
        last = part[-1].id


def _describe_pair(pair: Pair) -> dict[str, Any]:
    return {
        "path": pair.path, "score_before": pair.score_before, "score_after": pair.score_after,
        "shift": pair.score_after - pair.score_before, "decision_before": pair.decision_before,
        "decision_after": pair.decision_after,
    }  # fmt: skip
