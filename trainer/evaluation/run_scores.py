"""Evaluation of a past run by own labels: scores and decisions come from the ledger, no file is scored again."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from sqlalchemy import Engine

from db.engine import reading
from db.registry import read_card
from db.results import ResultFilter, stream_results
from db.runs import RunInfo
from nightread.errors import ScanError, StorageError
from nightread.scan.files import encode_path, read_file
from nightread.scan.preprocessing import InputSpec, read_and_prepare
from trainer.data.labels import LabelRow, match_label, read_labels, refuse_contradictions
from trainer.data.load import MAX_FILE_BYTES, MAX_PIXELS
from trainer.data.split import group_scans
from trainer.errors import DatasetError
from trainer.evaluation.external import SEED, Assessment, read_network
from trainer.evaluation.metrics import PartScores, evaluate, spread_scores
from trainer.evaluation.mistakes import Mistake, rank_mistakes, stretch

#: A labelled scan of the run, its class, its scores in the order of the labels, and its SHA-256.
_Found = tuple[LabelRow, str, list[float], str]


def assess_run(engine: Engine, run: RunInfo, source: Path) -> tuple[dict[str, Any], Assessment]:
    """Judge a past run by own labels.

    Args:
        engine: the database, its schema checked.
        run: the past run.
        source: labels; see `trainer.data.labels.read_labels`. A path is that of a scan of the run.

    Returns:
        The fields of the model's card, and the figures. Labelled scans without a score are counted by their status.

    Raises:
        DatasetError: the labels cannot be read, or no scan with a label of the model has a score in the run.
    """
    with reading(engine) as connection:
        card = read_card(connection, run.model_digest)
    network = read_network(card, _score_nothing)
    rows = {encode_path(row.path): row for row in refuse_contradictions(source, read_labels(source))}
    scores, digests, states = _read_scores(engine, run, rows)
    left_alone: Counter[str] = Counter()
    found: list[_Found] = []
    for path, row in rows.items():
        label, given = match_label(row.label, network.task.classes), scores.get(path, {})
        if path not in states:
            left_alone["not in the run"] += 1
        elif label is None:
            left_alone[f"unknown-label {row.label}"] += 1
        elif not all(name in given for name in network.task.labels):
            left_alone[f"{states[path]} in the run"] += 1
        else:
            found.append((row, label, [given[name] for name in network.task.labels], digests[path]))
    if len({label for _, label, _, _ in found}) < 2:
        counts = ", ".join(f"{count} {reason}" for reason, count in left_alone.items()) or "none left out"
        raise DatasetError(
            f"{len(found)} labelled scans of {source} have a score in run {run.id[:8]} ({counts}); scans of two of the "
            f"labels {', '.join(network.task.classes)} are needed, named by the path that the run has"
        )
    targets = np.array([network.task.classes.index(label) for _, label, _, _ in found], np.int64)
    part = PartScores(
        network.task,
        targets,
        spread_scores(network.task, np.array([given for _, _, given, _ in found])),
        group_scans([row.patient or row.path for row, _, _, _ in found], [digest for _, _, _, digest in found]),
        ("",) * len(found),
        network.threshold,
    )
    evaluation = evaluate(part, majority=int(np.bincount(targets).argmax()), seed=SEED)
    return card, Assessment(part, evaluation, left_alone, (), (), _picture_mistakes(found, part, network.input))


def _score_nothing(inputs: Any) -> Any:
    raise AssertionError("unreachable: the run has its scores")


def _read_scores(
    engine: Engine, run: RunInfo, wanted: dict[str, LabelRow]
) -> tuple[dict[str, dict[str, float]], dict[str, str], dict[str, str]]:
    """Return scores by path and label, and SHA-256 and status by path, of the scans that are wanted."""
    scores: dict[str, dict[str, float]] = {}
    digests: dict[str, str] = {}
    states: dict[str, str] = {}
    columns = ("path", "sha256")
    with reading(engine) as connection:
        for row in stream_results(connection, ResultFilter(run_id=run.id, columns=columns)):
            path = row["path"]
            if path in wanted:
                states[path], digests[path] = row["status"], row["sha256"] or ""
                if row["score"] is not None:
                    scores.setdefault(path, {})[row["label"]] = row["score"]
    return scores, digests, states


def _picture_mistakes(found: Sequence[_Found], part: PartScores, spec: InputSpec) -> list[Mistake]:
    """Return the worst mistakes whose files still hold what was scored."""
    classes, decisions, mistakes = part.task.classes, part.decisions, []
    for place in rank_mistakes(part):
        row, label, _, digest = found[place]
        try:
            data = read_file(row.path, roots=[Path(row.path).resolve().parent], max_bytes=MAX_FILE_BYTES)
            pixels, _ = read_and_prepare(data, spec, max_pixels=MAX_PIXELS)
        except (ScanError, StorageError):
            continue
        if hashlib.sha256(data).hexdigest() == digest:
            score = float(part.class_scores[place, decisions[place]])
            mistakes.append(
                Mistake(stretch(pixels[:, :, 0]), Path(row.path).name, digest, label, classes[decisions[place]], score)
            )
    return mistakes
