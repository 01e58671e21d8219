"""URLs of database and broker, as far as they can be checked without connecting. No message shows a part of a login."""

import re
from difflib import get_close_matches
from typing import Final
from urllib.parse import SplitResult, parse_qsl, urlsplit

_SCHEME: Final = re.compile(r"([a-z][a-z0-9+.-]{0,31})://")
_LAST_PORT: Final = 65_535
#: Parameters of a broker's URL; kombu fails on any other one.
_BROKER_PARAMETERS: Final = (
    "ssl_cert_reqs", "ssl_ca_certs", "ssl_ca_path", "ssl_certfile", "ssl_keyfile", "ssl_password",
    "ssl_check_hostname", "virtual_host",
)  # fmt: skip
_CERT_REQS: Final = ("required", "optional", "none", "CERT_REQUIRED", "CERT_OPTIONAL", "CERT_NONE")
_UNREADABLE: Final = (
    "the address cannot be read: a port is no number up to 65535, a host is no name, or the password holds a special "
    "character; write it percent-encoded: @ as %40, # as %23, / as %2F, : as %3A, ? as %3F, [ as %5B, ] as %5D"
)
_NO_NUMBER: Final = "the part after the host must be the number of a database; write /0"


def check_database_url(url: str) -> None:
    """Check the URL of a database.

    Raises:
        ValueError: it is none of Nightread's; the text says what is allowed.
    """
    scheme = _read_scheme(url)
    if scheme.partition("+")[0] not in {"sqlite", "postgresql"}:
        msg = f"the scheme is {scheme or 'missing'}; allowed are sqlite:///FILE and postgresql://USER@HOST/DATABASE"
        raise ValueError(msg)
    if not scheme.startswith("sqlite"):
        _split(url)
    elif "?" in url:
        raise ValueError("the URL has parameters, and SQLite takes none; write sqlite:///FILE, of a name without '?'")


def check_broker_url(url: str) -> None:
    """Check the URL of a broker.

    Raises:
        ValueError: it is none of Nightread's; the text says what is allowed.
    """
    scheme = _read_scheme(url)
    if scheme not in {"redis", "rediss", "redis+socket", "sentinel", "memory"}:
        msg = (
            f"the scheme is {scheme or 'missing'}; allowed are redis://HOST:PORT/0, rediss:// (TLS), "
            "redis+socket:///FILE, sentinel://HOST:PORT,HOST:PORT/0?master_name=NAME, memory://"
        )
        raise ValueError(msg)
    if scheme == "sentinel":  # whose parameters are read with its hosts
        for one in url.partition("?")[0].split(";"):  # kombu's own form is several URLs
            _check_number(_split(f"{scheme}://{one.removeprefix('sentinel://')}").path[1:])
        return
    if scheme in {"redis", "rediss"}:
        parts = _split(url)
        if "," in parts.netloc.rpartition("@")[2]:
            raise ValueError("the URL names several hosts; write one, or Sentinels with sentinel://")
        _check_number(parts.path[1:])
    elif scheme == "redis+socket" and not urlsplit(url).path.strip("/"):
        raise ValueError("the URL names no socket; write redis+socket:///FILE")
    for name, value in parse_qsl(urlsplit(url).query, keep_blank_values=True):
        if name not in _BROKER_PARAMETERS:
            raise ValueError(f"the URL has the unknown parameter {name[:40]!r}; {_suggest(name, _BROKER_PARAMETERS)}")
        if name == "ssl_cert_reqs" and value not in _CERT_REQS:
            raise ValueError(f"the URL has ssl_cert_reqs={value[:40]!r}; allowed are {', '.join(_CERT_REQS[:3])}")
        if name == "virtual_host" and not _is_number(value.strip("/")):
            raise ValueError("the URL has a virtual_host that is no number of a database; write virtual_host=0")


def _read_scheme(url: str) -> str:
    """Return the part before "://", or "" if it is no scheme: it may be a password."""
    if url[:1] in {"'", '"'}:  # as in a file for `docker run --env-file`, which keeps them
        raise ValueError("the value is in quotes; leave them out")
    match = _SCHEME.match(url)
    return match[1] if match else ""


def _split(url: str) -> SplitResult:
    """Return the parts of a URL of one host or several; refuse one whose password cuts it into other parts."""
    try:
        parts = urlsplit(url)
        is_cut = "@" in parts.path or parts.netloc.count("@") > 1 or bool(parts.fragment)
        for host in parts.netloc.rpartition("@")[2].split(","):
            name, bracket, rest = host.rpartition("]")  # [::1]:6379 is an IPv6 address with a port
            name, _, port = (name, "", rest.removeprefix(":")) if bracket else rest.partition(":")
            name.encode("idna")
            is_cut |= bool(port) and not (_is_number(port) and int(port) <= _LAST_PORT)
    except ValueError:  # of urlsplit, it may quote the password
        raise ValueError(_UNREADABLE) from None
    if is_cut:
        raise ValueError(_UNREADABLE)
    return parts


def _check_number(text: str) -> None:
    if text and not _is_number(text):
        raise ValueError(_NO_NUMBER)


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal()


def _suggest(name: str, known: tuple[str, ...]) -> str:
    near = get_close_matches(name, known, n=1)
    return f"did you mean {near[0]}?" if near else f"allowed are {', '.join(known)}"
