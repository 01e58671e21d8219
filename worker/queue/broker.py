"""The broker as it is run: one Redis, or several behind Redis Sentinel; and its faults in one line."""

import socket
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import parse_qsl

from redis import exceptions
from redis.sentinel import MasterNotFoundError

from nightread.errors import SettingsError
from nightread.settings import Settings
from nightread.text import hide_password
from worker.errors import BrokerUnavailable

_SENTINEL: Final = "sentinel://"
_SENTINEL_PORT: Final = 26379
_VARIABLE: Final = "NIGHTREAD_BROKER_URL"

#: Parts of Redis' own error texts, each with what was found and what to do.
_REPLIES: Final = {
    "invalid username-password pair": ("refuses the user or the password", "correct them"),
    "WRONGPASS": ("refuses the user or the password", "correct them"),
    "Authentication required": (
        "asks for a password", "write redis://USER:PASSWORD@HOST:PORT/0, or redis://:PASSWORD@HOST:PORT/0 without users"
    ),
    "without any password configured": ("has no password", "leave it out, or set one with requirepass or users.acl"),
    "DB index is out of range": ("has no database of that number", "write /0 at the end"),
    "not an integer or out of range": ("has no database of that number", "write /0 at the end"),
    "unknown command": ("does not know a command: it is no Sentinel, or too old", "correct the port; Redis needs 6.2"),
    "read only replica": (
        "is a replica, which only reads", "name the primary, or Sentinels with sentinel://; a failover ends by itself"
    ),
    "NOREPLICAS": ("has too few replicas to accept writes", "start them"),
    "MASTERDOWN": ("has lost its primary", "start it; a failover ends by itself"),
    "MISCONF": ("cannot write to its disk", "make room, or see its log"),
    "OOM command not allowed": ("has no memory left", "raise maxmemory; messages are refused, and none is lost"),
    "command not allowed when used memory": ("has no memory left", "raise maxmemory; messages are refused, not lost"),
    "has no permissions": ("denies this user a command or key", "give it the rights of docker/users.acl"),
    "is loading the dataset": ("is still loading its data", "wait"),
    "MOVED": ("is part of a Redis Cluster", "use one Redis, or Sentinel"),
    "max number of clients": ("accepts no more connections", "raise maxclients"),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Broker:
    """A broker's address as Celery takes it.

    Attributes:
        url: URL for Celery; for Sentinel one for each of its hosts, separated by ";".
        options: transport options that belong to the address.
    """

    url: str
    options: dict[str, Any]


def read_broker(settings: Settings) -> Broker:
    """Return the broker of the settings; certificates are verified, which kombu leaves out by default.

    Raises:
        SettingsError: the address of a Sentinel lacks the primary's name, or has an unknown parameter.
    """
    url = settings.broker_url.get_secret_value()
    if url.startswith(_SENTINEL):
        return _read_sentinel(url)
    query = url.partition("?")[2]
    if url.startswith("rediss:") and "ssl_cert_reqs=" not in query:
        url = f"{url}{'&' if query else '?'}ssl_cert_reqs=required"
    return Broker(url, {})


def _read_sentinel(url: str) -> Broker:
    """Read `sentinel://USER:PASSWORD@HOST:PORT,HOST:PORT/DATABASE?master_name=NAME`; kombu's own form is accepted.

    kombu separates URLs by ";", each with the password of Redis.
    """
    first, _, query = url.partition("?")
    login, _, rest = first.removeprefix(_SENTINEL).rpartition("@")
    if ";" in first:
        parts = [part.removeprefix(_SENTINEL) for part in first.split(";")]
        login = parts[0].rpartition("@")[0]
        rest = ",".join(part.rpartition("@")[2].partition("/")[0] for part in parts) + f"/{rest.partition('/')[2]}"
    hosts, _, database = rest.partition("/")
    given = dict(parse_qsl(query))
    name = given.pop("master_name", "")
    sentinel_login = {part: given.pop(f"sentinel_{part}", None) for part in ("username", "password")}
    if not name or given:
        fault = f"has the unknown parameter {next(iter(given))[:40]!r}" if given else "lacks the name of the primary"
        raise SettingsError(
            f"{_VARIABLE} {fault}: write sentinel://USER:PASSWORD@HOST:{_SENTINEL_PORT},HOST:{_SENTINEL_PORT}/0"
            "?master_name=NAME, and sentinel_username and sentinel_password if the Sentinels ask for them"
        )
    prefix = f"{_SENTINEL}{login}{'@' if login else ''}"
    urls = [
        f"{prefix}{host if ':' in host else f'{host}:{_SENTINEL_PORT}'}/{database or 0}" for host in hosts.split(",")
    ]
    # A Sentinel that hangs must not hang the worker; the password of Redis is not sent to it.
    asked = {"socket_timeout": 2, "socket_connect_timeout": 2, **{k: v for k, v in sentinel_login.items() if v}}
    return Broker(";".join(urls), {"master_name": name, "sentinel_kwargs": asked})


def explain_broker(error: BaseException, settings: Settings) -> BrokerUnavailable:
    """Return a broker's error in one line, without its password: what was found, and what to do."""
    address = settings.broker_url.get_secret_value()
    host = hide_password(address).rpartition("@")[2].partition("?")[0].removeprefix("redis://")
    found, remedy = _find_fault(error, address)
    return BrokerUnavailable(
        f"the broker {host} {found}; {remedy} ({_VARIABLE}). Jobs stay in the database, and are published when it "
        "answers again"
    )


def _find_fault(error: BaseException, address: str) -> tuple[str, str]:
    causes = list(_find_causes(error))
    said = " ".join(str(cause) for cause in causes)
    for part, explained in _REPLIES.items():
        if part in said:
            return explained
    if "CERTIFICATE_VERIFY_FAILED" in said:
        return "does not answer: its certificate is not accepted", "name its authority with ssl_ca_certs"
    for cause in causes:
        match cause:
            case MasterNotFoundError():
                return "does not answer: no Sentinel that answers knows a primary of that name", (
                    "start it, or correct the hosts or master_name"
                )
            case ssl.SSLError() | exceptions.TimeoutError() | TimeoutError() if _is_handshake(causes):
                return "does not speak TLS", "write redis:// or name its TLS port"
            case socket.gaierror():
                return "does not answer: its host name is unknown", "correct the name"
            case ConnectionRefusedError():
                return "does not answer: nothing listens there", "start it, or correct host and port"
            case FileNotFoundError() | PermissionError() as fault:
                file = "its socket" if address.startswith("redis+socket:") else "a file of its TLS parameters"
                return f"cannot be reached: {file} cannot be opened ({fault.strerror})", "correct the path"
            case exceptions.InvalidResponse():
                return "is not Redis", "correct the port"
            case exceptions.TimeoutError() | TimeoutError():
                return "does not answer: it accepts connections and keeps silent", "restart it, or correct the port"
    if "losed by server" in said or any(
        isinstance(cause, ConnectionResetError) for cause in causes
    ):  # a server of another protocol, or one that expects a TLS handshake
        tls = "" if address.startswith("rediss:") else ", or write rediss:// for a port that speaks TLS only"
        return "closes the connection: it may be another service than Redis", f"correct the port{tls}"
    last = [cause for cause in causes if not isinstance(cause, LookupError)][-1]  # redis-py's pool was empty
    return f"does not answer: {type(last).__name__}", "start it, or correct the address"


def _is_handshake(causes: list[BaseException]) -> bool:
    return any(part in str(cause) for cause in causes for part in ("handshake", "WRONG_VERSION", "RECORD_LAYER"))


def _find_causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and what caused it; contexts that no cause names are accidents of the caller."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or (error.__context__ if isinstance(error, exceptions.RedisError) else None)
