"""Who may use the page, and with which role: users by token, users whom others name, or everybody on this host.

A trusted proxy names the user of each request in a header, an identity provider the one who logs in.
"""

import hashlib
import hmac
import ipaddress
import logging
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final
from urllib.parse import urlsplit

from nightread.errors import SettingsError
from nightread.machine import name_user
from nightread.page_settings import is_loopback
from nightread.settings import Settings

_log = logging.getLogger(__name__)

#: Shorter tokens and secrets could be guessed; `openssl rand -hex 32` makes one of 64 characters.
_SHORTEST_SECRET: Final = 32
_LONGEST_NAME: Final = 64
#: Stands for every user whom a proxy or an identity provider names, in the list of users.
_EVERYBODY: Final = "*"
_FORM: Final = "write NAME ROLE TOKEN, with ROLE view, mark or operate and TOKEN from `openssl rand -hex 32`"

_Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class Role(StrEnum):
    """What a user may do; each role may do what those before it may."""

    VIEW = "view"  # look
    MARK = "mark"  # mark scans
    OPERATE = "operate"  # retry and cancel runs, read the audit

    def allows(self, needed: "Role") -> bool:
        """Return whether this role may do what `needed` may."""
        roles = list(Role)
        return roles.index(self) >= roles.index(needed)


@dataclass(frozen=True, slots=True)
class User:
    """Who makes a request."""

    name: str
    role: Role


@dataclass(frozen=True, slots=True)
class Access:
    """Who may use the page.

    Attributes:
        by_token: users by the SHA-256 of their token.
        by_name: the same users by name.
        named: roles of users whom a proxy or an identity provider names; `*` is everybody else.
        has_provider: whether users of an identity provider may log in.
        proxies: networks whose header is believed.
        header: the header in which they name the user.
        local: the user of every request from this host, while there are no others; None: a login is needed.
        address: the page's public address, SCHEME://HOST/PREFIX; "" on this host alone.
        key: signs sessions; it changes with any token and with the secret of the identity provider, so that a removed
            token ends its sessions. Without a token or a long secret it is random.
    """

    by_token: Mapping[bytes, User]
    by_name: Mapping[str, User]
    named: Mapping[str, Role]
    has_provider: bool
    proxies: Sequence[_Network]
    header: str
    local: User | None
    address: str
    key: bytes

    @property
    def host(self) -> str:
        """Host and port of the public address; "" without one."""
        return urlsplit(self.address).netloc.lower()

    @property
    def origin(self) -> str:
        """Origin of the public address as browsers send it; "" without one."""
        return f"{urlsplit(self.address).scheme}://{self.host}" if self.address else ""

    @property
    def prefix(self) -> str:
        """Path of the public address, which a proxy strips; "" without one."""
        return urlsplit(self.address).path

    @property
    def is_encrypted(self) -> bool:
        """Whether browsers reach the page over TLS."""
        return self.address.startswith("https:")

    @property
    def has_login(self) -> bool:
        """Whether somebody can log in here."""
        return bool(self.by_token) or self.has_provider

    def find_by_token(self, token: str) -> User | None:
        """Return the user of a token; the time it takes says nothing of the tokens."""
        digest = _digest(token)
        found = None
        for known, user in self.by_token.items():
            if hmac.compare_digest(known, digest):
                found = user
        return found

    def trusts(self, address: str | None) -> bool:
        """Return whether the peer of a connection is a trusted proxy."""
        try:
            peer = ipaddress.ip_address(address or "")
        except ValueError:
            return False
        return any(peer in network for network in self.proxies)

    def find_named(self, name: str) -> User | None:
        """Return the user whom a proxy or an identity provider named; None: the list of users gives no role.

        A user with a token is not found, so that nobody becomes that user by bearing the same name elsewhere.
        """
        if name in self.by_name or not 0 < len(name) <= _LONGEST_NAME or not name.isprintable():
            return None
        role = self.named.get(name) or self.named.get(_EVERYBODY)
        return User(name, role) if role else None

    def find_logged_in(self, name: str) -> User | None:
        """Return the user of a session; None: the user is not in the list any more."""
        return self.by_name.get(name) or (self.find_named(name) if self.has_provider else None)


def read_access(settings: Settings) -> Access:
    """Return who may use the page.

    Raises:
        SettingsError: a user, a proxy or the combination of them is wrong; no message holds a token.
    """
    by_token: dict[bytes, User] = {}
    named: dict[str, Role] = {}
    tokens: list[str] = []
    for place, line in enumerate(settings.web_users.get_secret_value().splitlines(), 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        user, token = _read_user(place, words)
        if user.name in named or user.name in {known.name for known in by_token.values()}:
            raise SettingsError(f"NIGHTREAD_WEB_USERS: line {place} repeats the name of another; each has one role")
        if token is None:
            named[user.name] = user.role
            continue
        if _digest(token) in by_token:
            raise SettingsError(f"NIGHTREAD_WEB_USERS: line {place} repeats the token of another; give each their own")
        by_token[_digest(token)] = user
        tokens.append(token)
    proxies = _read_proxies(settings.web_proxy)
    has_provider = bool(settings.web_oidc_issuer)
    if named and not (proxies or has_provider):
        raise SettingsError(
            "NIGHTREAD_WEB_USERS: a user has no token, and no NIGHTREAD_WEB_PROXY or NIGHTREAD_WEB_OIDC_ISSUER is "
            f"there to name users: {_FORM}"
        )
    if (proxies or has_provider) and not named:
        raise SettingsError(
            f"NIGHTREAD_WEB_{'PROXY' if proxies else 'OIDC_ISSUER'}: no user may do anything; give them roles in "
            "NIGHTREAD_WEB_USERS, one a line: NAME ROLE, or * ROLE for everybody"
        )
    _check_provider(settings)
    return Access(
        by_token=by_token,
        by_name={user.name: user for user in by_token.values()},
        named=named,
        has_provider=has_provider,
        proxies=proxies,
        header=settings.web_proxy_header.lower(),
        local=None if by_token or named else User(name_user(), Role(settings.web_role)),
        address=settings.web_address,
        key=_make_key(tokens, settings.web_oidc_secret.get_secret_value()),
    )


def _make_key(tokens: Sequence[str], secret: str) -> bytes:
    """Return the key that signs sessions. A user could try short secrets against the signature of an own session."""
    if not tokens and len(secret) < _SHORTEST_SECRET:
        if secret:
            _log.warning(
                "NIGHTREAD_WEB_OIDC_SECRET has fewer than %d characters, too few to sign sessions: a restart ends them "
                "all, until the identity provider gives a longer one",
                _SHORTEST_SECRET,
            )
        return secrets.token_bytes(32)
    joined = "\n".join(["nightread page", *sorted(tokens), secret])
    return hashlib.sha256(joined.encode()).digest()


def check_listening(access: Access, host: str) -> None:
    """Check that a page that others reach knows who they are, and under which name they ask.

    Raises:
        SettingsError: it does not.
    """
    if is_loopback(host):
        return
    if access.local:
        raise SettingsError(
            f"others reach {host}, and the page has no users: set NIGHTREAD_WEB_USERS_FILE to a file of users, one a "
            f"line ({_FORM}), and NIGHTREAD_WEB_PROXY or NIGHTREAD_WEB_OIDC_ISSUER to who names users without a token; "
            "or listen on 127.0.0.1"
        )
    if not access.address:
        raise SettingsError(
            f"others reach {host}: set NIGHTREAD_WEB_ADDRESS to the address in their browsers, such as "
            "https://nightread.example; requests for other names are refused"
        )


def _read_user(place: int, words: list[str]) -> tuple[User, str | None]:
    if len(words) not in {2, 3} or words[1] not in list(Role):
        raise SettingsError(f"NIGHTREAD_WEB_USERS: line {place} is no user; {_FORM}")
    name, token = words[0], words[2] if len(words) == 3 else None
    if len(name) > _LONGEST_NAME or not name.isprintable() or (token and name == _EVERYBODY):
        raise SettingsError(f"NIGHTREAD_WEB_USERS: line {place} has no name of up to {_LONGEST_NAME} characters")
    if token is not None and len(token) < _SHORTEST_SECRET:
        raise SettingsError(
            f"NIGHTREAD_WEB_USERS: the token of line {place} has fewer than {_SHORTEST_SECRET} characters: create one "
            "with `openssl rand -hex 32`"
        )
    return User(name, Role(words[1])), token


def _check_provider(settings: Settings) -> None:
    """Check what an identity provider must know.

    Raises:
        SettingsError: something is missing.
    """
    given = (settings.web_oidc_client, settings.web_oidc_secret.get_secret_value())
    if not settings.web_oidc_issuer:
        if any(given):
            raise SettingsError("NIGHTREAD_WEB_OIDC_ISSUER is missing: the address of the identity provider")
        return
    if not settings.web_oidc_client:
        raise SettingsError("NIGHTREAD_WEB_OIDC_CLIENT is missing: the page's id at the identity provider")
    if not settings.web_address:
        raise SettingsError(
            "NIGHTREAD_WEB_ADDRESS is missing: the identity provider sends browsers back to ADDRESS/login/return"
        )


def _read_proxies(text: str) -> list[_Network]:
    try:
        return [ipaddress.ip_network(part.strip()) for part in text.split(",") if part.strip()]
    except ValueError:
        raise SettingsError(
            f"NIGHTREAD_WEB_PROXY is {text[:60]!r}; write addresses or networks such as 10.0.0.5 or 10.0.0.0/28, "
            "separated by ','"
        ) from None


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "replace")).digest()
