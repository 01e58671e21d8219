"""Reading of object storage: S3, Google Cloud Storage and Azure Blob Storage, by the extra `cloud` (obstore).

Its threads do not survive a fork: a process that forks reads nothing here. Lists are therefore made by a process of
their own, `nightread.scan.object_list`. Credentials come from the environment, or from files that it names.
"""

import configparser
import contextlib
import datetime as dt
import os
import threading
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import Any, Final

from nightread.errors import SettingsError, StorageError, UnreadableScan, UnsupportedScan
from nightread.reasons import Reason
from nightread.scan.archive_source import Source
from nightread.scan.files import check_size_bytes, find_root, is_settled
from nightread.scan.object_address import ObjectAddress, read_address

#: One try of a request, and the time after which none is begun any more, in seconds.
_CONNECT_S: Final = 5.0
_REQUEST_S: Final = 60.0
_RETRY_S: Final = 60.0
_MOST_RETRIES: Final = 5
_LONGEST_PAUSE_S: Final = 5.0
#: The least that is asked of an archive: headers and first bytes of many a member come together.
_AHEAD_BYTES: Final = 2**18
#: Class of obstore, and what the variables of a scheme begin with.
_STORES: Final = {"s3": ("S3Store", "AWS"), "gs": ("GCSStore", "GOOGLE"), "az": ("AzureStore", "AZURE")}
#: Another source of credentials is named: the file of keys is not looked into.
_OTHER_CREDENTIALS: Final = (
    "AWS_ACCESS_KEY_ID", "AWS_CONTAINER_CREDENTIALS_FULL_URI", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_SKIP_SIGNATURE", "AWS_WEB_IDENTITY_TOKEN_FILE",
)  # fmt: skip
_KEYS_OF_FILE: Final = {
    "aws_access_key_id": "access_key_id", "aws_secret_access_key": "secret_access_key", "aws_session_token": "token",
}  # fmt: skip


def import_obstore(module: str = "obstore") -> Any:
    """Return a module of obstore.

    Raises:
        SettingsError: the extra `cloud` is not installed; the message names the remedy.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError:
        raise SettingsError(
            "object storage needs obstore, which the extra `cloud` brings: uv sync --extra cloud, or "
            "pip install 'nightread[cloud]'"
        ) from None


def open_store(address: ObjectAddress) -> Any:
    """Return the store of an address, opened once in each process.

    Raises:
        SettingsError: the extra `cloud` is not installed, or the environment describes no store.
    """
    return _open(os.getpid(), address.scheme, address.bucket)


@lru_cache(maxsize=64)
def _open(_: int, scheme: str, bucket: str) -> Any:
    kind, prefix = _STORES[scheme]
    make_store = getattr(import_obstore("obstore.store"), kind)
    seconds = dt.timedelta
    client = {
        "connect_timeout": seconds(seconds=_CONNECT_S), "timeout": seconds(seconds=_REQUEST_S),
        "allow_http": os.environ.get(f"{prefix}_ALLOW_HTTP", "").lower() in {"1", "true"},
    }  # fmt: skip
    pause = {"init_backoff": seconds(milliseconds=200), "max_backoff": seconds(seconds=_LONGEST_PAUSE_S), "base": 2}
    retry = {"max_retries": _MOST_RETRIES, "retry_timeout": seconds(seconds=_RETRY_S), "backoff": pause}
    config = _read_key_file(os.environ) if scheme == "s3" else {}
    try:
        return make_store(bucket, config=config, client_options=client, retry_config=retry)
    except Exception as error:  # noqa: BLE001  # its text may hold a key
        raise SettingsError(
            f"the environment describes no store for {scheme}:// ({type(error).__name__}); see how-to/object-storage"
        ) from None


def _read_key_file(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the keys of AWS' own file, `~/.aws/credentials`, which obstore does not read; none where others are."""
    if any(environment.get(name) for name in _OTHER_CREDENTIALS):
        return {}
    file = environment.get("AWS_SHARED_CREDENTIALS_FILE") or Path("~/.aws/credentials").expanduser()
    parser = configparser.ConfigParser(interpolation=None)
    try:
        parser.read(file)
    except (configparser.Error, UnicodeDecodeError):
        raise SettingsError("the file of AWS_SHARED_CREDENTIALS_FILE cannot be read: it is no INI file") from None
    profile = environment.get("AWS_PROFILE") or "default"
    found = parser[profile] if parser.has_section(profile) else {}
    return {ours: found[theirs] for theirs, ours in _KEYS_OF_FILE.items() if theirs in found}


def read_object(
    path: str, *, roots: Sequence[Path], max_bytes: int, expected_bytes: int | None = None, settle_s: float = 0.0
) -> bytes:
    """Read a whole object once into memory, as `nightread.scan.files.read_file` does a file.

    What is returned is one version of the object: a store answers a request with one, and an answer that breaks off
    goes on by the ETag of the same.

    Args:
        path: address.
        roots: folders and addresses below which reading is allowed.
        max_bytes: maximum size of the object.
        expected_bytes: size above which the object is not read now, since it has grown; None for no such size.
        settle_s: seconds for which it must not have changed.

    Raises:
        UnreadableScan: empty or too large, or its address is faulty.
        UnsupportedScan: outside the roots.
        StorageError: missing, changing, larger than expected, no permission, throttled, or no answer in time.
    """
    address = _find_address(path, roots)
    with _explaining():
        found = import_obstore().get(open_store(address), address.key)
        size_bytes = found.meta["size"]
        _refuse_unsettled(found.meta, settle_s)
        check_size_bytes(size_bytes, max_bytes, expected_bytes)
        data = bytes(found.bytes())
    if len(data) != size_bytes:
        raise StorageError(Reason.STORAGE_ERROR, "the object changed its size while it was read; retry")
    return data


def open_object(path: str, roots: Sequence[Path], settle_s: float) -> "ObjectSource":
    """Open an object for reading in parts.

    Args:
        path: address.
        roots: folders and addresses below which reading is allowed.
        settle_s: seconds for which it must not have changed.

    Raises:
        UnreadableScan: its address is faulty.
        UnsupportedScan: outside the roots.
        StorageError: missing, changing, no permission, throttled, or no answer in time.
    """
    address = _find_address(path, roots)
    with _explaining():
        meta = import_obstore().head(open_store(address), address.key)
    _refuse_unsettled(meta, settle_s)
    return ObjectSource(address, meta)


class ObjectSource(Source):
    """One version of an object, read in parts; each thread keeps what it has read ahead."""

    def __init__(self, address: ObjectAddress, meta: Mapping[str, Any]) -> None:
        """Read the version of an object that `meta` of obstore describes."""
        self._address, self._version = address, meta["e_tag"]
        self._ahead = threading.local()
        super().__init__(meta["size"], (str(address), meta["size"], find_modified_ns(meta)))

    def read_at(self, offset: int, count: int) -> bytes:
        """Return `count` bytes at a place, fewer at the end; costs no budget.

        Raises:
            StorageError: the object is another one by now, or the store fails or does not answer.
        """
        count = min(count, self.size_bytes - offset)
        start, data = getattr(self._ahead, "part", (0, b""))
        if count > 0 and not start <= offset <= offset + count <= start + len(data):
            start, data = offset, self._fetch(offset, max(count, _AHEAD_BYTES))
            self._ahead.part = start, data[:_AHEAD_BYTES]
        return data[offset - start : offset - start + count] if count > 0 else b""

    @contextlib.contextmanager
    def holding(self, offset: int, count: int) -> Iterator[None]:
        """Read a part by one request, for the reads of it within; a small one is read ahead anyway."""
        is_large = offset >= 0 and min(count, self.size_bytes - offset) > _AHEAD_BYTES
        if is_large:
            self._ahead.part = offset, self._fetch(offset, count)
        try:
            yield
        finally:
            if is_large:
                del self._ahead.part

    def _fetch(self, offset: int, count: int) -> bytes:
        end = min(offset + count, self.size_bytes)
        options = {"range": (offset, end)} | ({"if_match": self._version} if self._version else {})
        with _explaining():
            data = bytes(import_obstore().get(open_store(self._address), self._address.key, options=options).bytes())
        if len(data) != end - offset:
            raise StorageError(Reason.STORAGE_ERROR, "the object changed its size while it was read; retry")
        return data


def _find_address(path: str, roots: Sequence[Path]) -> ObjectAddress:
    try:
        address = read_address(path)
    except ValueError as error:
        raise UnreadableScan(Reason.NOT_A_FILE, str(error)) from None
    if address is None or not address.key:
        raise UnreadableScan(Reason.NOT_A_FILE, "the address names no object")
    if find_root(str(address), roots) is None:
        raise UnsupportedScan(
            Reason.OUTSIDE_ROOTS, "the object lies outside the allowed folders (NIGHTREAD_SCAN_ROOTS)"
        )
    return address


@contextlib.contextmanager
def _explaining() -> Iterator[None]:
    """Turn what goes wrong in a request into errors that a scan's row tells."""
    try:
        yield
    except SettingsError as error:  # this host's fault, and another one's worker may read it
        raise StorageError(Reason.STORAGE_ERROR, str(error)) from None
    except (UnreadableScan, StorageError):
        raise
    except Exception as error:  # noqa: BLE001  # obstore has an error for each answer of a server, with its address
        raise explain_error(error) from None


def _refuse_unsettled(meta: Mapping[str, Any], settle_s: float) -> None:
    if settle_s and not is_settled(find_modified_ns(meta), settle_s, time.time()):
        raise StorageError(Reason.STILL_CHANGING, f"the object was changed within the last {settle_s:g} s")


def find_modified_ns(meta: Mapping[str, Any]) -> int:
    """Return when an object was written, in ns since 1970; whole seconds, whose fraction stands for its ETag.

    Stores tell seconds. With the ETag a changed object has another time, even within the second and of the same size.
    """
    return int(meta["last_modified"].timestamp()) * 10**9 + zlib.crc32((meta["e_tag"] or "").encode()) % 10**9


def explain_error(error: Exception) -> StorageError:
    """Return the storage error for one of obstore; its message holds no address."""
    kind = type(error).__name__
    if isinstance(error, FileNotFoundError):
        return StorageError(Reason.MISSING_FILE, "the object no longer exists")
    if kind == "PreconditionError":
        return StorageError(Reason.STORAGE_ERROR, "the object was replaced while it was read; retry")
    if kind in {"PermissionDeniedError", "UnauthenticatedError"}:
        return StorageError(Reason.PERMISSION_DENIED, "the credentials do not allow to read the object")
    return StorageError(Reason.STORAGE_ERROR, f"the object storage failed, or did not answer in time ({kind})")
