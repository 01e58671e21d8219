"""A TLS proxy in front of services whose test binaries lack TLS; clients use real TLS."""

import asyncio
import contextlib
import ssl
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import trustme

from tests.loops import end_other_tasks
from tests.services import find_free_port

_POSTGRES_TLS_REQUEST = struct.pack(">II", 8, 80877103)


class Authority:
    """A test certificate authority, which issues server certificates."""

    def __init__(self, folder: Path) -> None:
        self._authority = trustme.CA()
        self.file = folder / f"{id(self)}.pem"
        self._authority.cert_pem.write_to_path(self.file)

    def make_context(self, name: str) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._authority.issue_cert(name).configure_cert(context)
        return context


class TlsProxy:
    """Accepts TLS connections only, and forwards the decrypted bytes.

    Attributes:
        port: port on 127.0.0.1.
        connections: number of clients that sent data after the handshake.
    """

    def __init__(self, context: ssl.SSLContext, target: "int | Path", *, is_postgres: bool) -> None:
        self.port = find_free_port()
        self.connections = 0
        self._context = context
        self._target = target
        self._is_postgres = is_postgres
        self.is_ready = threading.Event()

    async def serve(self) -> None:
        direct = None if self._is_postgres else self._context
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        async with await asyncio.start_server(self._handle, "127.0.0.1", self.port, ssl=direct):
            self.is_ready.set()
            await self._stop.wait()
            await end_other_tasks()

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)

    async def _handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, ssl.SSLError, asyncio.IncompleteReadError), contextlib.closing(writer):
            if self._is_postgres:  # requests TLS before the handshake (protocol 3, section 55.2.11)
                if await reader.readexactly(8) != _POSTGRES_TLS_REQUEST:
                    return  # refuse a connection without TLS
                writer.write(b"S")
                await writer.start_tls(self._context)
            if not (first := await reader.read(65_536)):
                return
            self.connections += 1
            if isinstance(self._target, Path):
                inside = await asyncio.open_unix_connection(self._target)
            else:
                inside = await asyncio.open_connection("127.0.0.1", self._target)
            with contextlib.closing(inside[1]):
                inside[1].write(first)
                await asyncio.gather(_copy(reader, inside[1]), _copy(inside[0], writer))


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError, ssl.SSLError):
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
    writer.close()


@contextlib.contextmanager
def run_tls(context: ssl.SSLContext, target: "int | Path", *, is_postgres: bool = False) -> Iterator[TlsProxy]:
    proxy = TlsProxy(context, target, is_postgres=is_postgres)
    thread = threading.Thread(target=lambda: asyncio.run(proxy.serve()), daemon=True)
    thread.start()
    assert proxy.is_ready.wait(20)
    try:
        yield proxy
    finally:
        proxy.stop()
        thread.join(20)
