"""Limits on what one connection may send: pynetdicom reads whatever length a header declares into memory."""

from typing import Final

from pynetdicom.transport import AssociationSocket

#: Longest PDU that is accepted, in bytes; announced to the peer, but for an association request, which may be longer.
MAX_PDU_BYTES: Final = 2**17
_HEADER_BYTES: Final = 6


class SocketGuard:
    """Counts the bytes of one connection, and cuts it when a PDU or a message is too long."""

    def __init__(self, guarded: AssociationSocket, max_message_bytes: int) -> None:
        """Guard a connection from now on.

        Args:
            guarded: of an association; its reading method is replaced.
            max_message_bytes: longest message, in bytes on the wire.
        """
        self._recv, self._socket = guarded.recv, guarded.socket
        self._left = self._max = max_message_bytes
        guarded.recv = self._read  # pynetdicom offers no other place

    def begin_message(self) -> None:
        """Count the next message from here."""
        self._left = self._max

    def close(self) -> None:
        """Close the connection, which pynetdicom leaves open when its other side breaks it off."""
        if self._socket is not None:
            self._socket.close()

    def _read(self, nr_bytes: int) -> bytearray:
        self._left -= nr_bytes
        if nr_bytes > MAX_PDU_BYTES + _HEADER_BYTES or self._left < 0:
            raise OSError("the peer sends more than is allowed")  # pynetdicom closes the connection
        return bytearray(self._recv(nr_bytes))
