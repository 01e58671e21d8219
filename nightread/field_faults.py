"""Faults that pydantic finds in words: the field, what was found, what is allowed."""

from typing import Any, Final

from pydantic import ValidationError

#: The name of a fault of pydantic, or how it begins, and what it is.
_FAULTS: Final = {
    "int": "is not a whole number", "float": "is not a number",
    "bool": "is neither true nor false", "enum": "is not known", "literal_error": "is not known",
    "finite": "is not a finite number", "greater": "is too small", "less": "is too large",
    "string": "is not text", "string_pattern_mismatch": "does not match {pattern}",
    "string_too_long": "has more than {max_length} characters", "string_unicode": "is not valid Unicode",
    "string_too_short": "has fewer than {min_length} characters",
    "path": "is not a path", "tuple": "is not a list", "list": "is not a list",
    "dict": "is not an object", "model": "is not an object",
    "dataclass": "is not an object",
    "datetime": "is not a time; write it like 2026-11-20T10:00:00Z",
    "timezone": "has no time zone; write it like 2026-11-20T10:00:00Z",
}  # fmt: skip
#: Faults whose words do not name the value.
_BARE: Final = {
    "json_invalid": "is not JSON: {error}", "missing": "is missing", "extra_forbidden": "is not a known field",
    "too_short": "has too few items; the least is {min_length}",
    "too_long": "has too many items; the most is {max_length}",
}  # fmt: skip
#: Characters of a wrong value or of a field's name that are shown.
_SHOWN: Final = 60
#: Faults that are named; a list of numbers may have as many faults as numbers.
_MOST_FAULTS: Final = 10


def list_faults(error: ValidationError, whole: str) -> list[str]:
    """Return the words for each fault, of many the first ones and a count.

    Args:
        error: of a model.
        whole: name of what was read, for a fault that lies in no field.
    """
    faults = [tell_fault(fault, whole) for fault in error.errors(include_url=False)]
    more = len(faults) - _MOST_FAULTS
    return [*faults[:_MOST_FAULTS], f"and {more} more"] if more > 0 else faults


def tell_fault(fault: Any, whole: str) -> str:
    """Return the field of a fault, with those that it lies in, and the fault in words."""
    field = ".".join(str(part)[:_SHOWN] for part in fault["loc"] if part != "[key]") or whole
    return f"{field}{' ' if fault['type'] in _BARE else ': '}{describe_fault(fault)}"


def describe_fault(fault: Any) -> str:
    """Return a fault of pydantic in words: the value, what is wrong with it, and its limit if the fault knows it."""
    context = fault.get("ctx", {})
    if fault["type"] == "value_error":
        return str(context["error"]).rstrip(".")
    words = {"ge": "the least is", "le": "the most is", "gt": "it must be above", "lt": "it must be below"}
    limits = [f"; {word} {context[side]:.15g}" for side, word in words.items() if side in context]
    expected = context.get("expected", "")
    allowed = f"; allowed {'are' if ' or ' in expected else 'is'} {expected}" if expected else ""
    return f"{describe_value(fault)}{''.join(limits)}{allowed}"


def describe_value(fault: Any) -> str:
    """Return the value of a fault and what is wrong with it."""
    kind, context = fault["type"], fault.get("ctx", {})
    if kind in _BARE:
        return _BARE[kind].format(**context)
    what = _FAULTS.get(kind) or _FAULTS.get(kind.partition("_")[0], "is not allowed")
    return f"{_show(fault['input'])} {what.format(**context)}"


def _show(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list | tuple):
        return "a list"
    return repr(value[:_SHOWN]) if isinstance(value, str) else str(value)[:_SHOWN]
