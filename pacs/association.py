"""Associations with other applications, as the one that asks."""

import ssl
from typing import Any

from pynetdicom import AE

from pacs.ae_title import Peer


class NoAssociation(Exception):
    """An association was not made; the text says why, without the peer's name.

    Attributes:
        is_final: whether a repetition would change nothing.
    """

    def __init__(self, text: str, *, is_final: bool) -> None:
        super().__init__(text)
        self.is_final = is_final


def associate(ae: AE, peer: Peer, tls: ssl.SSLContext | None = None) -> Any:
    """Return an established association.

    Args:
        ae: this application.
        peer: the other one.
        tls: makes it private; None: no TLS.

    Raises:
        NoAssociation: there is none.
    """
    options = {} if tls is None else {"tls_args": (tls, peer.host)}
    association = ae.associate(peer.host, peer.port, ae_title=peer.title, **options)
    if association.is_established:
        return association
    if association.dul.socket is not None:
        association.dul.socket.close()  # pynetdicom leaves it to the garbage collector
    if association.is_rejected:
        raise NoAssociation("refuses the association: check AE titles", is_final=False)
    if association.rejected_contexts:
        raise NoAssociation("takes no objects of this class, or not in this transfer syntax", is_final=True)
    raise NoAssociation("does not answer: check host, port and TLS", is_final=False)
