"""The process that brings one notice to one address: `python -m worker.report.notice_child SECONDS`.

apprise limits each wait for an address, but neither the time nor the size of a whole reply. Here the kernel limits
both. A notice comes as JSON on stdin: `url`, `title`, `body` and `kind`. Exit code 0 means that the address took it;
what apprise says of one that did not is on stdout.
"""

import json
import logging
import os
import re
import resource
import signal
import sys
from importlib import import_module
from typing import Any, Final

from nightread.errors import SettingsError

_MEMORY_BYTES: Final = 2 * 2**30
#: What OpenSSL, the system or urllib3 names as the cause of a lost connection.
_CAUSE: Final = re.compile(r"\[SSL: \w+\]|\[Errno -?\d+\] [A-Za-z ]+|timed out")


def import_apprise() -> Any:
    """Return the package apprise.

    Raises:
        SettingsError: the extra `notify` is not installed.
    """
    try:
        return import_module("apprise")
    except ImportError:
        raise SettingsError("NIGHTREAD_NOTIFY_URLS needs the extra notify: pip install 'nightread[notify]'") from None


def open_address(url: str) -> Any | None:
    """Return apprise's service for an address; None if it cannot be read.

    Raises:
        SettingsError: the extra `notify` is not installed.
    """
    apprise, logger = import_apprise(), logging.getLogger("apprise")
    # A notice that is redirected would arrive as a request without content, and count as taken.
    service = apprise.Apprise(asset=apprise.AppriseAsset(http_redirects=False))
    logger.setLevel(logging.CRITICAL + 1)  # what it says of an address that it cannot read may hold its password
    is_read = service.add(url)
    logger.setLevel(logging.WARNING)  # below it are addresses
    return service if is_read else None


def _keep_causes(record: logging.LogRecord) -> bool:
    """Keep warnings, and of the error behind a lost connection its cause; the rest of it holds the address."""
    if record.levelno >= logging.WARNING:
        return True
    said = record.getMessage()
    cause = _CAUSE.search(said) if said.startswith("Socket Exception") else None
    if cause is not None:
        record.msg, record.args = f"cause: {cause[0]}", None
    return cause is not None


def main() -> None:
    """Bring one notice; only `worker.report.notice` calls it."""
    if sys.platform == "linux":
        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # it would hold the address
    notice = json.load(sys.stdin)
    apprise, service = import_apprise(), open_address(notice["url"])
    said = logging.StreamHandler(sys.stdout)
    said.addFilter(_keep_causes)
    logging.basicConfig(handlers=[said], format="%(message)s")
    logging.getLogger("apprise").setLevel(logging.DEBUG)
    signal.alarm(int(sys.argv[1]))  # ends this process, whether or not the one that started it lives
    is_taken = service is not None and service.notify(
        title=notice["title"], body=notice["body"], notify_type=notice["kind"], body_format=apprise.NotifyFormat.TEXT
    )
    sys.stdout.flush()
    os._exit(0 if is_taken else 1)


if __name__ == "__main__":
    main()
