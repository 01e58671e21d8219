"""Scoring inside another engine: Ray Data, Dask, Spark or Daft hand bytes over and get rows back, without a queue.

    rows = nightread.score_batches(batches)          # {"id": [...], "bytes": [...]} in, columns out

The engine splits, retries and stores. Nightread's promise that no scan is lost or doubled ends where its ledger ends.
"""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

from nightread.api import Model, ScanResult, open_model


def score_batches(
    batches: Iterable[Mapping[str, Sequence[Any]]],
    *,
    model: str = "",
    device: str | None = None,
    threads: int | None = None,
    gate: bool = True,
) -> Iterator[dict[str, list[Any]]]:
    """Score batches of scans; yields one batch of rows for each, in order.

    A model is opened once in a process, however many batches and calls there are.

    Args:
        batches: each with the columns `id` (any value) and `bytes` (a whole JPEG, PNG, TIFF or DICOM file), of equal
            length: lists, NumPy arrays or pandas columns.
        model: see `open_model`.
        device: see `open_model`.
        threads: see `open_model`; an engine that runs several tasks on a host gives each its share of the cores.
        gate: see `open_model`.

    Yields:
        Columns of equal length: `id` as given; `status`, `reason`, `text` and `sha256` as in `ScanResult`; for each
        label of the model `score_LABEL` (float or None) and `decision_LABEL`; `model` as NAME@VERSION and
        `model_digest`.

    Raises:
        ValueError: a batch lacks a column, or its columns differ in length.
        TypeError: `batches` is a single batch, or a content is not bytes.
        NightreadError: the model cannot be opened here; a fault of a scan is a row instead.
    """
    if isinstance(batches, Mapping):
        raise TypeError("batches is a single batch; put it into a list")
    opened = _open_once(os.getpid(), model, device, threads, gate)
    for batch in batches:
        yield _score(opened, batch)


@lru_cache(maxsize=4)
def _open_once(_pid: int, model: str, device: str | None, threads: int | None, gate: bool) -> Model:  # noqa: FBT001  # part of the key
    """Return a model of this process; a fork inherits the cache, but may not use the session in it."""
    return open_model(model, device=device, threads=threads, gate=gate)


def _score(model: Model, batch: Mapping[str, Sequence[Any]]) -> dict[str, list[Any]]:
    if missing := [name for name in ("id", "bytes") if name not in batch]:
        raise ValueError(f"a batch lacks the column {missing[0]!r}; it needs id and bytes")
    ids, contents = list(batch["id"]), [_to_bytes(content) for content in batch["bytes"]]
    if len(ids) != len(contents):
        raise ValueError(f"a batch has {len(ids)} ids and {len(contents)} contents; it needs one id for each")
    rows = list(model.predict(contents))
    columns: dict[str, list[Any]] = {"id": ids}
    columns |= {
        "status": [row.status for row in rows],
        "reason": [None if row.reason is None else row.reason.value for row in rows],
        "text": [row.text for row in rows],
        "sha256": [row.sha256 for row in rows],
    }
    for label in model.card.labels:
        columns[f"score_{label}"] = [row.scores.get(label) for row in rows]
        columns[f"decision_{label}"] = [row.decisions.get(label) for row in rows]
    return columns | {
        "model": [_name(row) for row in rows],
        "model_digest": [row.provenance.digest for row in rows],
    }


def _to_bytes(content: Any) -> bytes:
    try:
        return bytes(memoryview(content))  # `bytes` alone would make zeros of a number
    except TypeError:
        raise TypeError(f"a content is a {type(content).__name__}; it must be the bytes of a whole file") from None


def _name(row: ScanResult) -> str:
    return f"{row.provenance.model}@{row.provenance.version}"
