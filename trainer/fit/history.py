"""The history of a fit: one row for each epoch in `history.csv`, the best epoch, and early stopping."""

import csv
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Final

from trainer.fit.hyperparameters import FitSettings, Monitor

HISTORY_FILE: Final = "history.csv"


@dataclass(frozen=True, slots=True)
class EpochRow:
    """One row of `history.csv`.

    Attributes:
        epoch: from 1.
        loss: mean cross-entropy in nats; with class weights, of weighted training scans.
        accuracy: share of training scans.
        val_loss: mean cross-entropy of the validation part in nats.
        val_accuracy: share of scans of the validation part.
        seconds: duration.
        input_wait_s: how long steps waited for their batches.
    """

    epoch: int
    loss: float
    accuracy: float
    val_loss: float
    val_accuracy: float
    seconds: float
    input_wait_s: float = 0.0


def find_best(history: list[EpochRow], monitor: Monitor) -> EpochRow:
    """Return the epoch whose weights are kept: the first of equals."""
    if monitor is Monitor.LAST:
        return history[-1]

    def rank(row: EpochRow) -> tuple[float, ...]:
        return (-row.val_loss,) if monitor is Monitor.LOSS else (row.val_accuracy, -row.val_loss)

    return max(history, key=rank)


def should_stop(history: list[EpochRow], settings: FitSettings) -> bool:
    """Return whether early stopping ends the fit; it depends on the history alone, so resuming changes nothing."""
    if not (settings.patience and history) or settings.monitor is Monitor.LAST:
        return False
    return len(history) - find_best(history, settings.monitor).epoch >= settings.patience


def write_history(folder: Path, history: list[EpochRow]) -> None:
    """Write `history.csv` into a training folder; the file is replaced as a whole."""
    partial = folder / f"partial-{HISTORY_FILE}"
    with partial.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([field.name for field in fields(EpochRow)])
        writer.writerows(asdict(row).values() for row in history)
    partial.replace(folder / HISTORY_FILE)


def read_history(folder: Path) -> list[EpochRow]:
    """Read `history.csv` of a training folder."""
    with (folder / HISTORY_FILE).open(newline="") as file:
        return [
            EpochRow(int(row["epoch"]), *(float(row.get(field.name, 0.0)) for field in fields(EpochRow)[1:]))
            for row in csv.DictReader(file)
        ]
