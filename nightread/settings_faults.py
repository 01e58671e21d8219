"""Wrong settings in words: the setting, what was found, what is allowed."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Literal, get_args, get_origin

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from nightread.field_faults import describe_value
from nightread.settings_sources import ENVIRONMENT, PREFIX, FoundSetting


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


def _explain(fault: Any, visible: Mapping[str, FieldInfo], found: Mapping[str, FoundSetting]) -> str:
    if not fault["loc"]:  # of several settings together
        return str(fault["ctx"]["error"])
    name = str(fault["loc"][0])
    source = found[name].source if name in found else ENVIRONMENT
    start = f"{PREFIX}{name.upper()}{'' if source == ENVIRONMENT else f' (in {source})'}: "
    if fault["type"] == "value_error":
        return f"{start}{fault['ctx']['error']}"
    if name not in visible:
        return f"{start}the value is not allowed"
    return f"{start}{describe_value(fault)}{_describe_allowed(visible[name])}"


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
