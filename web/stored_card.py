"""What pages read of a stored card, which may be of another release."""

from collections.abc import Sequence
from typing import Any


def read_labels(card: dict[str, Any]) -> list[str]:
    """Return the labels of a stored card, which may be of another release, in its order."""
    labels = card.get("labels")
    return [str(label) for label in labels] if isinstance(labels, list) else []


def read_thresholds(card: dict[str, Any]) -> dict[str, tuple[float, float]]:
    """Return the thresholds (low, high) of a stored card, which may be of another release, by label."""
    stored = card.get("thresholds")
    return {
        label: (float(threshold["low"]), float(threshold["high"]))
        for label, threshold in (stored.items() if isinstance(stored, dict) else ())
        if isinstance(threshold, dict) and {"low", "high"} <= threshold.keys()
    }


def read_choices(card: dict[str, Any]) -> list[str]:
    """Return the labels that a scan may have: those of the card, and the decision that stands for none of them."""
    return list(dict.fromkeys([*read_labels(card), str(card.get("negative_decision") or "normal")]))


def list_alternatives(decisions: Sequence[str], choices: Sequence[str]) -> list[str]:
    """Return the labels with which a user can disagree with decisions."""
    return [choice for choice in choices if choice not in decisions] if decisions else []
