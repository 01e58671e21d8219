"""Archives that a night's radiographs are fetched from: by QIDO-RS and WADO-RS, or by C-FIND and C-MOVE."""

import ssl
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any, Final, Protocol

import requests
from dicomweb_client import DICOMwebClient
from pydicom import Dataset
from pynetdicom import AE

from nightread.errors import NightreadError
from pacs.ae_title import Peer
from pacs.association import NoAssociation, associate
from pacs.destination import TIMEOUT_S, TimedSession, check_url
from pacs.spool import Filed, Spool, is_uid

#: Parts of bodies that hold a chest, and "": many devices leave it out, and the input gate decides.
_CHEST: Final = ("", "CHEST", "THORAX", "CHESTABDOMEN", "LUNG")
#: Instances in one answer of QIDO-RS; further ones are asked for.
_PAGE: Final = 500
_PENDING: Final = (0xFF00, 0xFF01)
_FIND: Final = "1.2.840.10008.5.1.4.1.2.2.1"
_MOVE: Final = "1.2.840.10008.5.1.4.1.2.2.2"


class ArchiveFailed(NightreadError):
    """An archive does not answer, or refuses; what was fetched stays, and the next command continues."""


@dataclass(frozen=True, slots=True)
class FoundInstance:
    """An instance in an archive, by its UIDs."""

    study_date: str
    study: str
    series: str
    instance: str


class Archive(Protocol):
    """A place that instances are fetched from."""

    def find(self, day: date, modalities: Sequence[str]) -> Iterator[FoundInstance]:
        """Yield the chest radiographs of the studies of a day.

        Raises:
            ArchiveFailed: it does not answer.
        """

    def bring(self, found: FoundInstance) -> None:
        """Bring an instance into the spool.

        Raises:
            ArchiveFailed: it does not answer, or has it no more.
        """

    def close(self) -> None:
        """End the connection."""


class WebArchive:
    """A DICOMweb server; login data come from `~/.netrc`."""

    def __init__(self, url: str, spool: Spool, on_filed: Callable[[Filed], object]) -> None:
        self._session = TimedSession()
        self._client = DICOMwebClient(check_url(url, "DICOMweb"), session=self._session)
        self._client.set_http_retry_params(retry=False)
        self._spool, self._on_filed = spool, on_filed

    def find(self, day: date, modalities: Sequence[str]) -> Iterator[FoundInstance]:
        """Yield the chest radiographs of the studies of a day; see `Archive`."""
        for modality in modalities:
            wanted = {"StudyDate": f"{day:%Y%m%d}", "Modality": modality}
            for series in self._list(self._client.search_for_series, wanted, ["BodyPartExamined"]):
                if _read(series, "BodyPartExamined").upper() not in _CHEST:
                    continue
                uids = _read(series, "StudyInstanceUID"), _read(series, "SeriesInstanceUID")
                if not all(map(is_uid, uids)):
                    continue
                for one in self._list(self._client.search_for_instances, {}, [], *uids):
                    yield FoundInstance(f"{day:%Y%m%d}", *uids, _read(one, "SOPInstanceUID"))

    def bring(self, found: FoundInstance) -> None:
        """Bring an instance into the spool; see `Archive`."""
        written = self._spool.incoming / "fetched.dcm"  # what the archive says names no file
        try:
            dataset = self._client.retrieve_instance(found.study, found.series, found.instance)
            dataset.save_as(written, enforce_file_format=True)
        except Exception as error:  # noqa: BLE001  # any answer may come, and pydicom raises whatever it leads to
            raise ArchiveFailed(f"the archive does not give an instance ({type(error).__name__})") from None
        self._on_filed(self._spool.file(written, found.instance))

    def close(self) -> None:
        """End the connection."""
        self._session.close()

    def _list(
        self, search: Callable[..., Any], wanted: dict[str, str], fields: Sequence[str], *uids: str
    ) -> Iterator[Dataset]:
        offset, before = 0, list[Any]()
        while True:
            try:
                page = search(*uids, search_filters=wanted, fields=fields, limit=_PAGE, offset=offset)
                listed = [Dataset.from_json(one) for one in page]
            except requests.HTTPError as error:
                code = error.response.status_code if error.response is not None else 0
                raise ArchiveFailed(f"the archive answered a search with HTTP status {code}") from None
            except (requests.RequestException, OSError) as error:
                raise ArchiveFailed(f"the archive does not answer ({type(error).__name__})") from None
            except Exception as error:  # noqa: BLE001  # as in `bring`
                raise ArchiveFailed(
                    f"the archive's answer to a search cannot be read ({type(error).__name__})"
                ) from None
            if page and page == before:  # it knows no `offset`, and gave everything at once
                return
            yield from listed
            if len(page) < _PAGE:
                return
            offset, before = offset + len(page), page


class PeerArchive:
    """A DICOM application that is asked by C-FIND, and sends by C-STORE to a listener of this process."""

    def __init__(self, peer: Peer, own_title: str, tls: ssl.SSLContext | None = None) -> None:
        self._peer, self._own_title, self._tls = peer, own_title, tls
        self._ae = AE(ae_title=own_title)
        self._ae.acse_timeout = self._ae.network_timeout = self._ae.connection_timeout = TIMEOUT_S
        self._ae.dimse_timeout = 4 * TIMEOUT_S  # it answers C-MOVE once the instance has gone
        for model in (_FIND, _MOVE):
            self._ae.add_requested_context(model)
        self._association: Any = None

    def find(self, day: date, modalities: Sequence[str]) -> Iterator[FoundInstance]:
        """Yield the chest radiographs of the studies of a day; see `Archive`."""
        for study in self._ask("STUDY", StudyDate=f"{day:%Y%m%d}", StudyInstanceUID="", ModalitiesInStudy=""):
            uid = _read(study, "StudyInstanceUID")
            for series in self._ask(
                "SERIES", StudyInstanceUID=uid, SeriesInstanceUID="", Modality="", BodyPartExamined=""
            ):
                part = _read(series, "BodyPartExamined").upper()
                if _read(series, "Modality") not in modalities or part not in _CHEST:
                    continue
                uids = uid, _read(series, "SeriesInstanceUID")
                for one in self._ask("IMAGE", StudyInstanceUID=uid, SeriesInstanceUID=uids[1], SOPInstanceUID=""):
                    yield FoundInstance(f"{day:%Y%m%d}", *uids, _read(one, "SOPInstanceUID"))

    def bring(self, found: FoundInstance) -> None:
        """Let the archive send an instance to the listener; see `Archive`."""
        wanted = _make_query(
            "IMAGE",
            StudyInstanceUID=found.study,
            SeriesInstanceUID=found.series,
            SOPInstanceUID=found.instance,
        )
        for answer, _ in self._associate().send_c_move(wanted, self._own_title, _MOVE):
            status = answer.get("Status")
            if status not in (0x0000, *_PENDING):
                said = "breaks off" if status is None else f"answered C-MOVE with status {status:04X}"
                raise ArchiveFailed(f"the archive {said}: does it know the AE title {self._own_title} and its address?")

    def close(self) -> None:
        """Release the association."""
        if self._association is not None and self._association.is_established:
            self._association.release()

    def _ask(self, level: str, **keys: str) -> list[Dataset]:
        found = []
        for answer, one in self._associate().send_c_find(_make_query(level, **keys), _FIND):
            status = answer.get("Status")
            if status in _PENDING and one is not None:
                found.append(one)
            elif status != 0x0000:
                said = "breaks off" if status is None else f"answered C-FIND with status {status:04X}"
                raise ArchiveFailed(f"the archive {said}")
        return found

    def _associate(self) -> Any:
        if self._association is None or not self._association.is_established:
            try:
                self._association = associate(self._ae, self._peer, self._tls)
            except NoAssociation as error:
                raise ArchiveFailed(f"the archive {error}") from None
        return self._association


def _make_query(level: str, **keys: str) -> Dataset:
    query = Dataset()
    query.QueryRetrieveLevel = level
    for keyword, value in keys.items():
        setattr(query, keyword, value)
    return query


def _read(dataset: Dataset, keyword: str) -> str:
    return str(dataset.get(keyword) or "").strip()
