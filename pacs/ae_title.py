"""Names and addresses of DICOM applications: `TITLE@HOST:PORT`."""

import re
from dataclasses import dataclass
from typing import Final, Self

from nightread.errors import WrongValue

#: 1 to 16 characters of the default repertoire without backslash and control characters (PS3.5, VR AE).
_TITLE: Final = re.compile(r"(?! )[\x20-\x5b\x5d-\x7e]{1,16}(?<! )")
_HOST: Final = re.compile(r"[A-Za-z0-9.-]{1,253}|\[[0-9a-fA-F:.]{2,45}\]")


@dataclass(frozen=True, slots=True)
class Peer:
    """Another DICOM application.

    Attributes:
        title: its AE title.
        host: name or address, an IPv6 address without brackets.
        port: TCP port.
    """

    title: str
    host: str
    port: int

    @classmethod
    def read(cls, text: str) -> Self:
        """Return the application that `TITLE@HOST:PORT` names.

        Raises:
            WrongValue: it names none.
        """
        title, at, address = text.rpartition("@")
        host, port = read_address(address) if at else ("", 0)
        if not at or not host or port == 0:
            raise WrongValue(f"{text[:80]!r} is no DICOM application; write TITLE@HOST:PORT, such as PACS@10.0.0.5:104")
        return cls(check_title(title), host, port)

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.title}@{host}:{self.port}"


def check_title(title: str) -> str:
    """Return an AE title.

    Raises:
        WrongValue: it is none.
    """
    if not _TITLE.fullmatch(title):
        raise WrongValue(f"{title[:40]!r} is no AE title; it has 1 to 16 ASCII characters and no backslash")
    return title


def read_address(text: str) -> tuple[str, int]:
    """Return host and port of `HOST:PORT`; ("", 0) if it is no address."""
    host, _, port = text.rpartition(":")
    if not _HOST.fullmatch(host) or not port.isdecimal() or int(port) > 65_535:
        return "", 0
    return host.removeprefix("[").removesuffix("]"), int(port)
