"""Result rows as text: the columns that are handed out, and how their values are written."""

from typing import Any

#: The columns of a row that leaves Nightread, in this order; only ever added to.
COLUMNS = (
    "run_id", "run", "path", "study", "label", "score", "decision", "status", "reason", "reason_text", "model",
    "sha256", "reused", "provider", "time",
)  # fmt: skip
#: One more where the decisions were derived anew, so that a file tells by itself whose they are.
OPERATING_POINT = "operating_point"


def to_text(value: Any) -> str:
    """Write a value so that it reads back as the same one: scores are never rounded, times are ISO 8601."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return repr(value)
    return value.isoformat() if hasattr(value, "isoformat") else str(value)
