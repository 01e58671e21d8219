"""Measure the false alarms of `nightread drift` on samples of hold-out scans.

    uv run --group test python -m studies.drift_alarms TRAINING_FOLDER BUNDLE_FOLDER [NIGHTS]

Nights of 60 to 240 scans are drawn from the hold-out and compared with all of it, as in the card. The harder test draws
them from one half and compares them with the other half. Nights of 20 scans come last.
"""

import sys
from pathlib import Path

import numpy as np

from exporter.drift_reference import measure_scans
from nightread.inference.session import open_session
from nightread.model.bundle import load_bundle
from nightread.model.drift import Values, compare, summarise
from nightread.settings import Device

_SEED = 2018


def main(training_folder: Path, bundle_folder: Path, nights: int) -> None:
    """Print the share of nights that raise an alarm, and the measurements that raise it."""
    bundle = load_bundle(bundle_folder)
    with np.load(training_folder / "prepared.npz", allow_pickle=False) as arrays:
        scans = arrays["inputs"]
    values = measure_scans(open_session(bundle.model, Device.CPU, 1), scans, bundle.card.input, bundle.card.outputs)
    print(f"{bundle.card.reference}: {len(scans)} scans of the hold-out, {len(values)} measurements")
    rng = np.random.default_rng(_SEED)
    for title, least, most, halves in (
        ("60 to 240 scans, against the hold-out", 60, 240, False),
        ("60 to 240 scans of one half, against the other", 60, 240, True),
        ("20 scans, against the hold-out", 20, 20, False),
    ):
        alarms, moved = 0, dict.fromkeys(values, 0)
        for _ in range(nights):
            order = rng.permutation(len(scans))
            count = int(rng.integers(least, most + 1))
            rest = order[len(scans) // 2 :] if halves else np.arange(len(scans))
            drift = compare(
                summarise(_choose(values, rest), rejected_share=0.0),
                _choose(values, order[:count]),
                rejected=0,
                judged=0,
            )
            alarms += drift.looks_alike is False
            for shift in drift.shifts:
                moved[shift.name] += shift.is_alarm
        named = ", ".join(f"{name} {count}" for name, count in moved.items() if count)
        print(f"{title}: {alarms} of {nights} nights ({alarms / nights:.1%}) {named}")


def _choose(values: dict[str, Values], places: Values) -> dict[str, Values]:
    return {name: measured[places] for name, measured in values.items()}


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else 200)
