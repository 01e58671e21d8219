"""Associations with other applications, as the one that asks."""

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


def associate(ae: AE, peer: Peer) -> Any:
    """Return an established association.

    Raises:
        NoAssociation: there is none.
    """
    association = ae.associate(peer.host, peer.port, ae_title=peer.title)
    if association.is_established:
        return association
    if association.is_rejected:
        raise NoAssociation("refuses the association: check AE titles", is_final=False)
    if association.rejected_contexts:
        raise NoAssociation("takes no objects of this class, or not in this transfer syntax", is_final=True)
    raise NoAssociation("does not answer: check host and port", is_final=False)
