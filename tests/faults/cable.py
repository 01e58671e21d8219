"""A virtual network cable that can be pulled: packets vanish silently, as between two machines."""

import contextlib
import shutil
import subprocess
import uuid
from collections.abc import Iterator

import pytest


class Cable:
    """Leads from this network to one of a name of its own, in which a process may be started.

    Attributes:
        network: `ip netns exec NETWORK COMMAND` runs a command at its other end.
        here: the address of this end.
    """

    def __init__(self) -> None:
        taken = _ip("-brief", "address")
        self.here = ""
        while not self.here or f" {self.here}/" in taken:
            tag = uuid.uuid4().hex[:6]
            # A network of four addresses, of a range that is kept for trying networks (RFC 2544).
            network = f"198.18.{int(tag[:2], 16)}.{{}}".format
            first = int(tag[2:4], 16) & 0xFC
            self.here, self._there_at = network(first + 1), network(first + 2)
        self.network = f"nightread-{tag}"
        self._here, self._there = f"nr{tag}a", f"nr{tag}b"

    def connect(self) -> None:
        _ip("netns", "add", self.network)
        _ip("link", "add", self._here, "type", "veth", "peer", "name", self._there)
        _ip("link", "set", self._there, "netns", self.network)
        _ip("addr", "add", f"{self.here}/30", "dev", self._here)
        _ip("-n", self.network, "addr", "add", f"{self._there_at}/30", "dev", self._there)
        _ip("-n", self.network, "link", "set", self._there, "up")
        self.plug()

    def pull(self) -> None:
        _ip("link", "set", self._here, "down")

    def plug(self) -> None:
        _ip("link", "set", self._here, "up")

    def remove(self) -> None:
        for command in (("link", "del", self._here), ("netns", "del", self.network)):
            with contextlib.suppress(subprocess.CalledProcessError):
                _ip(*command)


def _ip(*command: str) -> str:
    return subprocess.run(["ip", *command], check=True, capture_output=True, text=True).stdout


@contextlib.contextmanager
def lay_cable() -> Iterator[Cable]:
    """Yield a cable that is connected; skips the test where this process may not lay one."""
    if shutil.which("ip") is None:
        pytest.skip("there is no command `ip`")
    cable = Cable()
    try:
        try:
            cable.connect()
        except subprocess.CalledProcessError:
            pytest.skip("this process may not make a network")
        yield cable
    finally:
        cable.remove()
