"""Where objects are sent: another DICOM application by C-STORE, or a DICOMweb server by STOW-RS."""

import ssl
from typing import Any, Final, Protocol, Self
from urllib.parse import urlsplit

import requests
from dicomweb_client import DICOMwebClient
from pydicom import Dataset
from pydicom.uid import (
    ComprehensiveSRStorage,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    SecondaryCaptureImageStorage,
)
from pynetdicom import AE

from nightread.errors import WrongValue
from nightread.text import hide_password
from pacs.ae_title import Peer, check_title
from pacs.association import NoAssociation, associate
from pacs.quiet_logs import silence_libraries
from pacs.tls import NO_TLS, TlsFiles

CLASSES: Final = (ComprehensiveSRStorage, SecondaryCaptureImageStorage)
SYNTAXES: Final = (ExplicitVRLittleEndian, ImplicitVRLittleEndian)
TIMEOUT_S: Final = 30.0
#: Answers to C-STORE that a repetition may change: out of resources (PS3.4, annex B.2.3).
_NO_ROOM: Final = range(0xA700, 0xA800)
#: Answers to C-STORE with which an object is stored: success, and warnings that elements were coerced or left out.
_STORED: Final = (0x0000, 0xB000, 0xB006, 0xB007)
_TOO_MANY_REQUESTS: Final = 429


class Refused(Exception):
    """The destination did not take an object; the text holds nothing of it.

    Attributes:
        is_final: whether a repetition would change nothing.
    """

    def __init__(self, text: str, *, is_final: bool) -> None:
        super().__init__(text)
        self.is_final = is_final


class Destination(Protocol):
    """A place to send objects to.

    Attributes:
        name: without a password; part of the key of deliveries.
    """

    name: str

    def send(self, made: Dataset) -> None:
        """Send an object.

        Raises:
            Refused: it was not stored.
        """

    def close(self) -> None:
        """End the connection."""


def open_destination(text: str, own_title: str, tls: TlsFiles = NO_TLS) -> Destination:
    """Return the destination that `TITLE@HOST:PORT` or a URL names; connects at the first object.

    Args:
        text: the place.
        own_title: AE title of this application.
        tls: of associations.

    Raises:
        SettingsError: it names none, or a file of TLS cannot be used.
    """
    silence_libraries()
    if is_url(text):
        refuse_tls_files(tls)
        return StowServer(text)
    return StorePeer(Peer.read(text), check_title(own_title), tls.ask())


def is_url(text: str) -> bool:
    """Return whether a place is a DICOMweb server."""
    return text.startswith(("http://", "https://"))


def refuse_tls_files(tls: TlsFiles) -> None:
    """Refuse the files of associations for a URL.

    Raises:
        WrongValue: some are given.
    """
    if tls != NO_TLS:
        raise WrongValue("--tls-cert, --tls-key and --tls-ca are for TITLE@HOST:PORT; for a URL set REQUESTS_CA_BUNDLE")


class StorePeer:
    """A DICOM application that takes objects by C-STORE, over one association at a time."""

    def __init__(self, peer: Peer, own_title: str, tls: ssl.SSLContext | None = None) -> None:
        self.name = str(peer)
        self._peer, self._tls = peer, tls
        self._ae = AE(ae_title=own_title)
        self._ae.acse_timeout = self._ae.dimse_timeout = self._ae.network_timeout = TIMEOUT_S
        self._ae.connection_timeout = TIMEOUT_S
        for storage_class in CLASSES:
            self._ae.add_requested_context(storage_class, list(SYNTAXES))
        self._association: Any = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def send(self, made: Dataset) -> None:
        """Send an object.

        Raises:
            Refused: it was not stored.
        """
        if self._association is None or not self._association.is_established:
            try:
                self._association = associate(self._ae, self._peer, self._tls)
            except NoAssociation as error:
                raise Refused(f"it {error}", is_final=error.is_final) from None
        try:
            answer = self._association.send_c_store(made)
        except ValueError:
            raise Refused("it takes no objects of this class, or not in this transfer syntax", is_final=True) from None
        except RuntimeError:
            raise Refused("the association ended", is_final=False) from None
        status = answer.get("Status")
        if status is None:
            raise Refused("the association ended before it answered", is_final=False)
        if status not in _STORED:
            raise Refused(f"it answered C-STORE with status {status:04X}", is_final=status not in _NO_ROOM)

    def close(self) -> None:
        """Release the association."""
        if self._association is not None and self._association.is_established:
            self._association.release()


class StowServer:
    """A DICOMweb server; login data come from `~/.netrc`."""

    def __init__(self, url: str) -> None:
        self.name = check_url(url, "STOW-RS")
        self._session = TimedSession()
        self._client = DICOMwebClient(self.name, session=self._session)
        self._client.set_http_retry_params(retry=False)  # deliveries have a back-off of their own

    def send(self, made: Dataset) -> None:
        """Send an object.

        Raises:
            Refused: it was not stored.
        """
        try:
            answer = self._client.store_instances([made])
        except requests.HTTPError as error:
            code = error.response.status_code if error.response is not None else 0
            is_final = 400 <= code < 500 and code != _TOO_MANY_REQUESTS
            raise Refused(f"it answered STOW-RS with HTTP status {code}", is_final=is_final) from None
        except (requests.RequestException, OSError) as error:
            raise Refused(f"it does not answer ({type(error).__name__})", is_final=False) from None
        if answer.get("FailedSOPSequence"):
            raise Refused("it answered STOW-RS with a failed instance", is_final=True)

    def close(self) -> None:
        """End the connection."""
        self._session.close()


def check_url(url: str, service: str) -> str:
    """Return the address of a DICOMweb server without a slash at its end.

    Raises:
        WrongValue: it is none, or holds a password.
    """
    parts = urlsplit(url)
    if not parts.hostname or parts.username or parts.password or parts.query or parts.fragment:
        raise WrongValue(
            f"{hide_password(url)[:200]} is no address of {service}: write https://HOST/dicom-web, with user and "
            "password in ~/.netrc"
        )
    return url.rstrip("/")


class TimedSession(requests.Session):
    """A session whose requests end, and that sends an object nowhere else than it was told to."""

    def request(self, *args: Any, **options: Any) -> requests.Response:
        """Send a request with a time limit."""
        return super().request(*args, **{"timeout": TIMEOUT_S} | options)

    def post(self, *args: Any, **options: Any) -> requests.Response:
        """Send an object.

        Raises:
            requests.HTTPError: it was redirected: it would arrive as a request without content, and count as stored, or
                go to another host.
        """
        answer = super().post(*args, **options, allow_redirects=False)
        if answer.is_redirect:
            raise requests.HTTPError(response=answer)
        return answer
