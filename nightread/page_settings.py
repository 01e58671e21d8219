"""Settings of the worklist page, a part of `Settings`: who may use it, its address, its thumbnails and its looks."""

import ipaddress
from typing import Final, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, Field, SecretStr, field_validator

_SCHEMES: Final = ("http", "https")
#: Stands for the Study Instance UID in the address of another viewer.
STUDY_FIELD: Final = "{study}"


class PageSettings(BaseModel):
    """Settings of the worklist page."""

    web_users: SecretStr = Field(
        SecretStr(""), description="users of the page, one a line: NAME ROLE TOKEN; without TOKEN for a proxy's users"
    )
    web_role: Literal["view", "mark", "operate"] = Field(
        "mark", description="role of everybody on this host while the page has no users: view, mark or operate"
    )
    web_proxy: str = Field(
        "", description="addresses or networks of proxies whose header names the user, separated by ','"
    )
    web_proxy_header: str = Field(
        "X-Remote-User", pattern=r"^[A-Za-z0-9-]{1,64}$", description="header in which a trusted proxy names the user"
    )
    web_oidc_issuer: str = Field(
        "",
        description="address of an OpenID Connect identity provider whose users may log in, such as https://HOST/realms/NAME",
    )
    web_oidc_client: str = Field("", description="id under which the identity provider knows the page")
    web_oidc_secret: SecretStr = Field(SecretStr(""), description="secret of that id; empty for a public client")
    web_oidc_claim: str = Field(
        "preferred_username", pattern=r"^[A-Za-z0-9_.:/-]{1,64}$", description="claim that names the user"
    )
    web_address: str = Field("", description="address under which browsers reach the page, such as https://HOST/PREFIX")
    web_cache_dir: str = Field("", description="folder of the page's thumbnails; empty: in your cache folder")
    web_cache_bytes: int = Field(256 * 2**20, ge=0, description="size of all thumbnails; 0: none are kept")

    web_name: str = Field("", max_length=32, description="name of this environment in the page's bar, such as TEST")
    web_color: Literal["", "red", "orange", "green", "blue", "violet"] = Field(
        "", description="color of the page's bar: red, orange, green, blue or violet"
    )
    web_viewer: str = Field(
        "", description="address of a study in another viewer, such as https://HOST/viewer?StudyInstanceUIDs={study}"
    )

    @field_validator("web_viewer")
    @classmethod
    def _check_web_viewer(cls, template: str) -> str:
        try:
            parts = urlsplit(template)
            is_address = parts.scheme in _SCHEMES and bool(parts.hostname) and STUDY_FIELD not in parts.netloc
        except ValueError:  # brackets that are no IPv6 address
            is_address = False
        if template and not (is_address and template.count(STUDY_FIELD) == 1 and template.isprintable()):
            raise ValueError(f"it is no address of a viewer; write https://HOST/viewer?StudyInstanceUIDs={STUDY_FIELD}")
        return template

    @field_validator("web_oidc_issuer")
    @classmethod
    def _check_web_oidc_issuer(cls, address: str) -> str:
        if address and not is_protected(address):
            raise ValueError("it is no address of an identity provider; write https://HOST or https://HOST/realms/NAME")
        return address.rstrip("/")

    @field_validator("web_address")
    @classmethod
    def _check_web_address(cls, address: str) -> str:
        if not address:
            return address
        try:
            parts = urlsplit(address)
            is_address = bool(parts.scheme in _SCHEMES and parts.hostname and parts.port != 0)
            is_bare = "@" not in parts.netloc and not parts.query and not parts.fragment
        except ValueError:  # a port that is no number
            is_address = is_bare = False
        if not is_address or not is_bare:
            raise ValueError("it is no address of a page; write https://HOST, https://HOST:PORT or https://HOST/PREFIX")
        return address.rstrip("/")


def is_loopback(host: str) -> bool:
    """Return whether only this host reaches an address, `localhost` or an IP address."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name
        return False


def is_protected(address: str) -> bool:
    """Return whether nobody on the way to an address reads or changes what is sent: it has TLS, or is on this host."""
    try:
        parts = urlsplit(address)
        host = parts.hostname or ""
    except ValueError:  # brackets that are no IPv6 address
        return False
    return bool(host) and (parts.scheme == "https" or (parts.scheme == "http" and is_loopback(host)))
