"""Wrong settings and options in words: the setting, what was found, what is allowed."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Final, Literal, get_args, get_origin

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from nightread.settings_sources import ENVIRONMENT, PREFIX, FoundSetting

#: The name of a fault of pydantic, or how it begins, and what it is.
_FAULTS: Final = {
    "int": "is not a whole number", "float": "is not a number",
    "bool": "is neither true nor false", "enum": "is not known", "literal_error": "is not known",
    "finite": "is not a finite number", "greater": "is too small", "less": "is too large",
    "string": "is not text", "string_pattern_mismatch": "does not match {pattern}",
    "string_too_long": "has more than {max_length} characters",
    "path": "is not a path", "tuple": "is not a list of paths",
}  # fmt: skip
#: Characters of a wrong value that are shown.
_SHOWN: Final = 60


def explain_faults(
    error: ValidationError, visible: Mapping[str, FieldInfo], found: Mapping[str, FoundSetting]
) -> list[str]:
    """Return a sentence for each fault.

    Args:
        error: of `Settings`.
        visible: fields whose values may be shown; those of secrets are not.
        found: where a value comes from, unless it was given on the command line.
    """
    return [_explain(fault, visible, found) for fault in error.errors(include_url=False)]


def describe_fault(fault: Any) -> str:
    """Return a fault of pydantic in words: the value, what is wrong with it, and its limit if the fault knows it."""
    context = fault.get("ctx", {})
    if fault["type"] == "value_error":
        return str(context["error"]).rstrip(".")
    least, most, expected = (context.get(name) for name in ("ge", "le", "expected"))
    allowed = f"; the least is {least:.15g}" if least is not None else ""
    allowed += f"; the most is {most:.15g}" if most is not None else ""
    allowed += f"; allowed are {expected}" if expected else ""
    return f"{_describe_value(fault)}{allowed}"


def _describe_value(fault: Any) -> str:
    kind = fault["type"]
    what = _FAULTS.get(kind) or _FAULTS.get(kind.partition("_")[0], "is not allowed")
    return f"{str(fault['input'])[:_SHOWN]!r} {what.format(**fault.get('ctx', {}))}"


def _explain(fault: Any, visible: Mapping[str, FieldInfo], found: Mapping[str, FoundSetting]) -> str:
    if not fault["loc"]:  # of several settings together
        return f"{PREFIX}SETTINGS: {fault['ctx']['error']}"
    name = str(fault["loc"][0])
    source = found[name].source if name in found else ENVIRONMENT
    start = f"{PREFIX}{name.upper()}{'' if source == ENVIRONMENT else f' (in {source})'}: "
    if fault["type"] == "value_error":
        return f"{start}{fault['ctx']['error']}"
    if name not in visible:
        return f"{start}the value is not allowed"
    return f"{start}{_describe_value(fault)}{_describe_allowed(visible[name])}"


def _describe_allowed(field: FieldInfo) -> str:
    kind = field.annotation
    if isinstance(kind, type) and issubclass(kind, StrEnum):
        return f"; allowed are {', '.join(kind)}"
    if get_origin(kind) is Literal:
        return f"; allowed are {', '.join(filter(None, get_args(kind)))}"
    if kind is bool:
        return "; write true or false"
    limits = {side: getattr(limit, side) for limit in field.metadata for side in ("ge", "le") if hasattr(limit, side)}
    if "ge" not in limits:
        return ""
    if "le" not in limits:
        return f"; allowed is {limits['ge']:.15g} or more"
    return f"; allowed are {limits['ge']:.15g} to {limits['le']:.15g}"
