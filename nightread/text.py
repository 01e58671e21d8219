"""Text for a terminal: text of unknown origin, durations and sizes."""

import re
from typing import Final

_DURATION: Final = re.compile(r"(\d{1,9}(?:\.\d{1,6})?)\s*([smhdw])")
_SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_PASSWORD_PARAMETER: Final = re.compile(r"(?i)(\w*password=)[^&]*")


def show_text(text: str | None) -> str:
    """Return text of unknown origin, such as a file name, with control characters escaped."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text or "")


def hide_password(url: str) -> str:
    """Return a URL for people: passwords before the host and in parameters are replaced by stars."""
    address, mark, query = url.partition("?")
    user, at, host = address.rpartition("@")
    scheme, colons, name = user.partition("://")
    shown = f"{scheme}{colons}{name.partition(':')[0]}{':***' if ':' in name else ''}{at}{host}"
    return shown + mark + _PASSWORD_PARAMETER.sub(r"\1***", query)


def show_duration(seconds: float) -> str:
    """Return a duration for people."""
    if seconds < 100:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"


def show_size(count: float) -> str:
    """Return a number of bytes for people."""
    for unit in ("B", "KiB", "MiB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1024
    return f"{count:,.1f} GiB"


def read_duration(text: str) -> float:
    """Return a duration such as 90d, 12h or 10m, in seconds.

    Raises:
        ValueError: it is none; the message says what is allowed.
    """
    match = _DURATION.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is no duration; write a number and its unit, s, m, h, d or w: 90d, 12h, 10m")
    return float(match[1]) * _SECONDS[match[2]]
