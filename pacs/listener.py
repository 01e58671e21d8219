"""The listener: takes instances by C-STORE into the spool, and answers C-ECHO.

Only named applications may associate. When the spool is full, associations are refused with "temporary congestion", so
that the sender keeps its instances and comes again.
"""

import logging
import ssl
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pydicom import uid
from pynetdicom import AE, _config, evt
from pynetdicom.sop_class import Verification

from nightread import __version__
from nightread.errors import SettingsError
from nightread.scan.dicom_file import SYNTAXES
from pacs.quiet_logs import silence_libraries
from pacs.socket_guard import MAX_PDU_BYTES, SocketGuard
from pacs.spool import Filed, Spool, WrongInstance

_log = logging.getLogger(__name__)

#: Storage classes that hold radiographs; no other is accepted.
STORAGE_CLASSES: Final = (
    uid.ComputedRadiographyImageStorage,
    uid.DigitalXRayImageStorageForPresentation,
    uid.DigitalXRayImageStorageForProcessing,
    uid.XRayRadiofluoroscopicImageStorage,
    uid.XRayAngiographicImageStorage,
    uid.SecondaryCaptureImageStorage,
)
#: What the decoder reads, but for deflated data sets: their attributes could only be read by inflating the pixels, too.
TRANSFER_SYNTAXES: Final = tuple(sorted(SYNTAXES - {uid.DeflatedExplicitVRLittleEndian}))

#: Answers to C-STORE (PS3.4, annex B.2.3).
_SUCCESS: Final = 0x0000
_NO_ROOM: Final = 0xA700
_NOT_UNDERSTOOD: Final = 0xC000
#: Answer to an association: rejected for now, by the service provider, for congestion (PS3.8, 9.3.4).
_CONGESTED: Final = (0x02, 0x03, 0x01)
#: A message is longer than its file by the headers of its PDUs.
_WIRE_FACTOR: Final = 1.05
IDLE_S: Final = 60
#: For which a connection that asks for nothing takes the place of an association.
SILENT_S: Final = 10
#: Connections beyond the associations that are allowed; each may be told that it is one too many.
_MORE_CONNECTIONS: Final = 16


@dataclass(frozen=True, slots=True)
class ListenerOptions:
    """What a listener accepts.

    Attributes:
        title: its own AE title; another called title is refused.
        host: address that it listens on.
        port: TCP port; 0: any free one.
        allowed: AE titles that may associate.
        associations: how many at the same time.
        max_file_bytes: largest instance, in bytes.
        tls: makes connections private, and may ask clients for certificates; None: no TLS.
    """

    title: str
    host: str
    port: int
    allowed: Sequence[str]
    associations: int = 8
    max_file_bytes: int = 256 * 2**20
    tls: ssl.SSLContext | None = None


class Listener:
    """Accepts associations until it is closed.

    Attributes:
        port: TCP port that it listens on.
        counts: since the start: instances `stored`, `known` before, `refused`, or refused for want of room (`no-room`),
            and associations `rejected`.
    """

    def __init__(self, spool: Spool, options: ListenerOptions, on_filed: Callable[[Filed], object]) -> None:
        """Begin to listen.

        Args:
            spool: where instances go.
            options: what is accepted.
            on_filed: called after an instance is on disk and before its sender is told, by several threads.

        Raises:
            SettingsError: the address cannot be listened on.
        """
        silence_libraries()
        _config.STORE_RECV_CHUNKED_DATASET = True  # an instance is never in memory as a whole
        self._tempdir, tempfile.tempdir = tempfile.tempdir, str(spool.incoming)  # where pynetdicom writes it
        self._spool, self._options, self._on_filed = spool, options, on_filed
        self._guards: dict[int, SocketGuard] = {}
        self._refusals: set[str] = set()
        self.counts: Counter[str] = Counter()
        self._counting = threading.Lock()
        self._ae = AE(ae_title=options.title)
        self._ae.implementation_version_name = f"NIGHTREAD_{__version__}"[:16]
        self._ae.require_called_aet = True
        self._ae.require_calling_aet = list(options.allowed)
        self._ae.maximum_associations = options.associations
        self._ae.maximum_pdu_size = MAX_PDU_BYTES
        self._ae.acse_timeout = SILENT_S
        self._ae.network_timeout = self._ae.dimse_timeout = IDLE_S
        self._ae.add_supported_context(Verification)
        for storage_class in STORAGE_CLASSES:
            self._ae.add_supported_context(storage_class, list(TRANSFER_SYNTAXES))
        handlers = [
            (evt.EVT_CONN_OPEN, self._guard),
            (evt.EVT_CONN_CLOSE, self._clean),
            (evt.EVT_REQUESTED, self._refuse_when_full),
            (evt.EVT_REJECTED, self._note_rejection),
            (evt.EVT_C_STORE, self._store),
        ]
        try:
            self._server = self._ae.start_server(
                (options.host, options.port), block=False, evt_handlers=handlers, ssl_context=options.tls
            )
        except OSError as error:
            raise SettingsError(f"cannot listen on {options.host}:{options.port}: {error.strerror}") from None
        self._server.verify_request = self._has_room  # the base class's own hook
        self.port = int(self._server.server_address[1])

    def close(self) -> None:
        """Stop; open associations are aborted, and their senders come again."""
        self._server.shutdown()
        for association in self._ae.active_associations:
            if association.is_established:
                association.abort()
            else:  # a connection that has asked for nothing yet: pynetdicom cannot abort it
                association.kill()
        for guard in list(self._guards.values()):
            guard.close()
        tempfile.tempdir = self._tempdir

    @property
    def open_associations(self) -> int:
        """Established associations."""
        return sum(one.is_established for one in self._ae.active_associations)

    def _count(self, what: str) -> None:
        with self._counting:
            self.counts[what] += 1

    def _has_room(self, *_: object) -> bool:
        return len(self._ae.active_associations) < self._options.associations + _MORE_CONNECTIONS

    def _guard(self, event: evt.Event) -> None:
        connection = event.assoc.dul.socket
        if connection.socket is not None:
            connection.socket.settimeout(IDLE_S)
        longest = int(self._options.max_file_bytes * _WIRE_FACTOR) + MAX_PDU_BYTES
        self._guards[id(event.assoc)] = SocketGuard(connection, longest)

    def _clean(self, event: evt.Event) -> None:
        if (guard := self._guards.pop(id(event.assoc), None)) is not None:
            guard.close()
        message = event.assoc.dimse.message
        cut = getattr(message, "_data_set_file", None)
        if cut is not None:  # the connection ended within an instance
            cut.close()
            Path(cut.name).unlink(missing_ok=True)
        self._spool.clean_incoming()  # where pynetdicom failed, nobody knows of its file any more

    def _refuse_when_full(self, event: evt.Event) -> None:
        if self._spool.is_full:
            self._say_once("full", "the spool is full: associations are refused until there is room")
            self._count("rejected")
            event.assoc.acse.send_reject(*_CONGESTED)
            event.assoc.is_rejected = True
            event.assoc.kill()
        else:
            self._refusals.discard("full")

    def _note_rejection(self, _event: evt.Event) -> None:
        self._count("rejected")
        self._say_once(
            "rejected", "an association was refused: its AE titles are not allowed, or there are too many (told once)"
        )

    def _store(self, event: evt.Event) -> int:
        if (guard := self._guards.get(id(event.assoc))) is not None:
            guard.begin_message()
        written = event.dataset_path
        try:
            if self._spool.is_full:
                self._say_once("full", "the spool is full: instances are refused until there is room")
                self._count("no-room")
                return _NO_ROOM
            filed = self._spool.file(written, str(event.request.AffectedSOPInstanceUID or ""))
        except WrongInstance as error:
            _log.warning("an instance was refused: %s", error)
            self._count("refused")
            return _NOT_UNDERSTOOD
        except OSError as error:
            _log.error("an instance was refused, it cannot be stored: %s", error.strerror)
            self._count("no-room")
            return _NO_ROOM
        self._count("stored" if filed.is_new else "known")
        self._on_filed(filed)
        return _SUCCESS

    def _say_once(self, what: str, line: str) -> None:
        """Log a line unless it was logged before: a sender that is refused comes again and again."""
        if what not in self._refusals:
            self._refusals.add(what)
            _log.warning("%s", line)
