"""TLS of associations: one certificate of its own, and one authority for the other side, whoever of both asks."""

import socket
import ssl
from dataclasses import dataclass
from typing import Any, Final

from nightread.errors import SettingsError, WrongValue


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files, by their paths; none: no TLS.

    Attributes:
        certificate: own certificate and its chain.
        key: its private key; None: in the certificate's file.
        authority: signs the certificates of the other side.
    """

    certificate: str | None = None
    key: str | None = None
    authority: str | None = None

    def listen(self) -> ssl.SSLContext | None:
        """Return the context of a listener; clients must show a certificate where there is an authority.

        Raises:
            SettingsError: a file is missing or no PEM, or the certificate is not given.
        """
        if self.certificate is None:
            if self.key or self.authority:
                raise WrongValue("--tls-key and --tls-ca need --tls-cert")
            return None
        context = PatientContext(ssl.PROTOCOL_TLS_SERVER)
        self._load(context)
        if self.authority:
            context.verify_mode = ssl.CERT_REQUIRED
        return context

    def ask(self) -> ssl.SSLContext | None:
        """Return the context of who asks for an association; the other side's certificate must name its host.

        Raises:
            SettingsError: a file is missing or no PEM, or the authority is not given.
        """
        if self.authority is None:
            if self.certificate or self.key:
                raise WrongValue("--tls-cert and --tls-key need --tls-ca, the authority of the other side")
            return None
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._load(context)
        return context

    def _load(self, context: ssl.SSLContext) -> None:
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        try:
            if self.certificate:
                context.load_cert_chain(self.certificate, self.key)
            elif self.key:
                raise WrongValue("--tls-key needs --tls-cert")
            if self.authority:
                context.load_verify_locations(self.authority)
        except OSError as error:  # as are errors of TLS
            cause = error.strerror or error
            raise SettingsError(f"the certificate, key or authority cannot be read: {cause}") from None


NO_TLS: Final = TlsFiles()


class PatientContext(ssl.SSLContext):
    """TLS whose handshake is made by the association's own thread, so that a silent client delays no other."""

    def wrap_socket(self, sock: socket.socket, *args: Any, **options: Any) -> ssl.SSLSocket:
        """Wrap a socket; the handshake follows with the first byte that is read."""
        return super().wrap_socket(sock, *args, **options | {"do_handshake_on_connect": False})
