"""Text for a terminal: text of unknown origin, durations and sizes."""

import re
from typing import Final

_DURATION: Final = re.compile(r"(\d{1,9}(?:\.\d{1,6})?)\s*([smhdw])")
_SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
#: Fifty years: seconds that every column holds, and a date before today that every database and Python can show.
_LONGEST_S: Final = 2_600 * _SECONDS["w"]
#: Stands for a secret, and for what may be a part of one.
HIDDEN: Final = "***"
_SCHEME: Final = re.compile(r"[a-z][a-z0-9+.-]{0,31}")
_USER: Final = re.compile(r"[\w.%-]{0,64}")
_REDIS_SCHEMES: Final = ("redis", "sentinel", "unix")
_HOST: Final = re.compile(r"(?:[\w.-]*|\[[0-9a-fA-F:.]*\])(?::\d{0,5})?", re.ASCII)
_HARMLESS_PARAMETERS: Final = frozenset(
    {
        "application_name", "connect_timeout", "host", "keepalives", "master_name", "options", "port",
        "prepare_threshold", "sentinel_username", "socket_timeout", "ssl_ca_certs", "ssl_cert_reqs", "sslcert",
        "sslmode", "sslrootcert", "target_session_attrs", "user", "virtual_host",
    }
)  # fmt: skip
_SECRET_PARAMETERS: Final = frozenset({"passfile", "password", "sentinel_password", "sslkey", "sslpassword"})


def show_text(text: str | None) -> str:
    """Return text of unknown origin, such as a file name, with control characters escaped."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text or "")


def hide_password(url: str) -> str:
    """Return a URL for people, without secrets: the one redactor for messages, tables and logs.

    Of parameters, only values that are known to be harmless are shown; of an address that is ambiguous, nothing.
    """
    scheme, mark, rest = url.partition("://")
    if not mark or not _SCHEME.fullmatch(scheme):
        return HIDDEN
    if scheme.startswith("sqlite"):
        return url.partition("?")[0]
    login, at, address = rest.rpartition("@")
    if set("/?#") & set(login):  # a special character in a password, or "@" in a parameter: what is what is unknown
        return f"{scheme}://{HIDDEN}"
    place, query_mark, query = address.partition("?")
    hosts, slash, path = place.partition("/")
    user = login.partition(":")[0]
    # Redis knows no user without a password: a word alone is a password in the wrong place.
    is_user = _USER.fullmatch(user) and (":" in login or not scheme.startswith(_REDIS_SCHEMES))
    shown_user = (user if is_user else HIDDEN) + (f":{HIDDEN}" if ":" in login else "")
    shown_hosts = ",".join(host if _HOST.fullmatch(host) else HIDDEN for host in hosts.split(","))
    parameters = [parameter.partition("=") for parameter in query.split("&")]
    shown = "&".join(
        f"{name}={value}"
        if name in _HARMLESS_PARAMETERS
        else f"{name if name in _SECRET_PARAMETERS else HIDDEN}={HIDDEN}"
        for name, _, value in parameters
    )
    return (
        f"{scheme}://{shown_user if at else ''}{at}{shown_hosts}{slash}{path}{query_mark}{shown if query_mark else ''}"
    )


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
    duration_s = float(match[1]) * _SECONDS[match[2]]
    if duration_s > _LONGEST_S:
        raise ValueError(f"{text!r} is longer than the longest duration, {_LONGEST_S / _SECONDS['w']:,.0f}w")
    return duration_s
