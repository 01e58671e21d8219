"""A TCP proxy between a worker and a service that injects network faults."""

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Iterator

from tests.loops import end_other_tasks

_CHUNK = 65_536
#: SO_LINGER value with which closing sends RST and drops unsent data.
_RESET = struct.pack("ii", 1, 0)


class _Link:
    """One connection through the proxy."""

    def __init__(self, client: asyncio.StreamWriter, is_open: bool) -> None:
        self.client = client
        self.server: asyncio.StreamWriter | None = None
        self.flows = asyncio.Event()
        if is_open:
            self.flows.set()

    def reset(self) -> None:
        for writer in (self.client, self.server):
            if writer is not None:
                raw = writer.get_extra_info("socket")
                with contextlib.suppress(OSError):
                    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                writer.transport.abort()


class Proxy:
    """Forwards bytes between `host`:`port` and a service, and injects faults on request.

    Attributes:
        port: port for clients.
        connections: number of client connections so far.
    """

    def __init__(self, target_port: int, host: str) -> None:
        self.connections = 0
        self._target_port = target_port
        self._links: set[_Link] = set()
        self._takes_new = True
        self._refuses = False
        self._latency_s = 0.0
        self._bytes_per_s = 0.0
        self._listening = socket.create_server((host, 0))
        self.port = self._listening.getsockname()[1]
        self._is_ready = threading.Event()

    def black_hole(self) -> None:
        """Silently stop forwarding on existing connections; new ones work."""
        self._call(lambda: [link.flows.clear() for link in self._links])

    def partition(self) -> None:
        """Silently stop forwarding on existing and new connections."""

        def part() -> None:
            self._takes_new = False
            for link in self._links:
                link.flows.clear()

        self._call(part)

    def reset(self) -> None:
        """Reset every connection (RST); new ones work."""
        self._call(lambda: [link.reset() for link in list(self._links)])

    def refuse(self) -> None:
        """Reset every connection, including new ones."""

        def refuse() -> None:
            self._refuses = True
            for link in list(self._links):
                link.reset()

        self._call(refuse)

    def lead_to(self, target_port: int) -> None:
        """Lead to another service from now on, as an address that moves; every connection is reset."""
        self._target_port = target_port
        self.reset()

    def slow(self, *, latency_s: float = 0.0, bytes_per_s: float = 0.0) -> None:
        """Add latency, or limit the rate of each connection; 0 means no limit."""
        self._latency_s, self._bytes_per_s = latency_s, bytes_per_s

    def heal(self) -> None:
        """End all faults; withheld bytes are delivered."""

        def heal() -> None:
            self._takes_new, self._refuses = True, False
            for link in self._links:
                link.flows.set()

        self.slow()
        self._call(heal)

    def _call(self, work: Callable[[], object]) -> None:
        done = threading.Event()

        def go() -> None:
            work()
            done.set()

        self._loop.call_soon_threadsafe(go)
        assert done.wait(10)

    async def serve(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        async with await asyncio.start_server(self._handle, sock=self._listening):
            self._is_ready.set()
            await self._stop.wait()
            for link in list(self._links):
                link.reset()
            await end_other_tasks()

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)

    async def _handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        link = _Link(writer, self._takes_new)
        if self._refuses:
            link.reset()
            return
        self._links.add(link)
        try:
            await link.flows.wait()
            from_server, link.server = await asyncio.open_connection("127.0.0.1", self._target_port)
            await asyncio.gather(self._pass_on(link, reader, link.server), self._pass_on(link, from_server, writer))
        except (OSError, asyncio.CancelledError):  # the service is down, or the proxy ends: reset the client
            link.reset()
        finally:
            self._links.discard(link)
            for side in (writer, link.server):
                if side is not None:
                    side.close()

    async def _pass_on(self, link: _Link, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(_CHUNK):
                await asyncio.sleep(self._latency_s)
                piece = max(1, int(self._bytes_per_s / 10)) if self._bytes_per_s else len(data)
                for start in range(0, len(data), piece):
                    await link.flows.wait()
                    writer.write(data[start : start + piece])
                    await writer.drain()
                    if self._bytes_per_s:
                        await asyncio.sleep(0.1)
        await link.flows.wait()  # withhold the end of a connection, too
        writer.close()


@contextlib.contextmanager
def run_proxy(target_port: int, host: str = "127.0.0.1") -> Iterator[Proxy]:
    proxy = Proxy(target_port, host)
    thread = threading.Thread(target=lambda: asyncio.run(proxy.serve()), daemon=True)
    thread.start()
    assert proxy._is_ready.wait(20)
    try:
        yield proxy
    finally:
        proxy.stop()
        thread.join(20)
