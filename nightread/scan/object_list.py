"""The list of the scans below addresses, made by a process of its own: `python -m nightread.scan.object_list`.

The threads of obstore do not survive a fork, and both `score` and a worker's main process fork after they have listed.
The process reads the addresses, and whether archives are listed, as JSON from stdin. It writes one line of JSON for
each scan, then one with the counts of what it skipped, or with the fault that ended it.
"""

import contextlib
import functools
import json
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any, Final

from nightread.errors import NightreadError, SettingsError, StorageError
from nightread.reasons import Reason
from nightread.scan.archive_entries import find_members
from nightread.scan.archives import SEPARATOR, can_list
from nightread.scan.entry import FoundScan, Skip, claims_scan, find_skip_reason
from nightread.scan.files import find_root
from nightread.scan.formats import SNIFF_BYTES
from nightread.scan.object_address import ObjectAddress, is_key, read_address
from nightread.scan.object_store import ObjectSource, explain_error, find_modified_ns, import_obstore, open_store

#: As many as a store sends at once.
_OBJECTS_PER_PAGE: Final = 1_000
#: Objects without the suffix of a scan are told apart by their first bytes, this many at a time.
_HEADS_AT_ONCE: Final = 16
#: In the text of an error, which has no kind of its own for a list that is refused.
_REFUSED: Final = re.compile(r"status code: 40[13]")
_SKIPPED, _FAULT, _WRONG = "skipped", "fault", "wrong"


def find_objects(
    addresses: Sequence[str], skipped: Counter[Skip], roots: Sequence[Path], *, archives: bool
) -> Iterator[FoundScan]:
    """Yield the scans below addresses, each once, in the order of their keys; the memory does not grow with them.

    Args:
        addresses: of objects, and of prefixes that end at a slash.
        skipped: receives the counts of skipped entries, once all are listed.
        roots: folders and addresses below which reading is allowed.
        archives: whether to list the scans in zip and tar archives, instead of one row for each archive.

    Raises:
        SettingsError: the store refuses, there is no such bucket, or the extra `cloud` is not installed.
        StorageError: the store fails or does not answer; part of the scans may have been yielded.
    """
    named = frozenset(map(Path, addresses))
    starts = []
    for address in dict.fromkeys(addresses):
        if find_root(address, roots) is None:
            yield FoundScan(address, 0, Reason.OUTSIDE_ROOTS, "it lies outside the allowed folders")
        elif named.isdisjoint(Path(address).parents):
            starts.append(address)
    if not starts:
        return
    lister = subprocess.Popen(  # noqa: S603  # this very program; -P: nothing of the current folder is imported
        [sys.executable, "-P", "-m", __name__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,  # a traceback would hold keys
    )
    assert lister.stdin is not None and lister.stdout is not None  # noqa: S101, PT018  # pipes, as asked for above
    try:
        with contextlib.suppress(BrokenPipeError), lister.stdin:
            lister.stdin.write(json.dumps([starts, archives]).encode())
        for line in lister.stdout:
            record = json.loads(line)
            if isinstance(record, list):
                path, size_bytes, modified_ns, reason, text = record
                yield FoundScan(path, size_bytes, reason and Reason(reason), text, modified_ns)
            elif _SKIPPED in record:
                skipped.update({Skip(name): count for name, count in record[_SKIPPED].items()})
                return
            elif _WRONG in record:
                raise SettingsError(record[_WRONG])
            else:
                raise StorageError(Reason.STORAGE_ERROR, record[_FAULT])
        raise StorageError(Reason.STORAGE_ERROR, "the process that lists object storage ended before its time")
    finally:
        lister.kill()
        lister.stdout.close()
        lister.wait()


class _Listing:
    """Lists addresses one after the other.

    Attributes:
        skipped: entries that become no row, counted by reason.
    """

    def __init__(self, pool: ThreadPoolExecutor, *, archives: bool) -> None:
        self._archives = archives
        self.skipped: Counter[Skip] = Counter()
        self._obstore = import_obstore()
        self._pool = pool

    def list_all(self, starts: Iterable[str]) -> Iterator[FoundScan]:
        """Yield the scans below each address; of many single objects several are asked for at once."""
        addresses = (address for start in starts if (address := read_address(start)) is not None)
        while part := list(islice(addresses, _OBJECTS_PER_PAGE)):
            heads = self._pool.map(self._find_named, part) if len(part) > 1 else map(self._find_named, part)
            for address, meta in zip(part, heads, strict=True):
                try:
                    yield from self._look_at(address, meta)
                except NightreadError:
                    raise
                except Exception as error:  # noqa: BLE001  # obstore has an error for each answer of a server
                    raise _explain_listing(error, address) from None

    def _find_named(self, address: ObjectAddress) -> Any:
        """Return the object of an address whose name is one of a scan; None if there is none."""
        return self._find(address) if claims_scan(address.key) else None

    def _find(self, address: ObjectAddress) -> Any:
        try:
            return self._obstore.head(open_store(address), address.key)
        except FileNotFoundError:
            return None
        except NightreadError:
            raise
        except Exception as error:  # noqa: BLE001  # as above
            raise _explain_listing(error, address) from None

    def _look_at(self, address: ObjectAddress, meta: Any) -> Iterator[FoundScan]:
        if meta is not None:
            yield from self._sort_out(address, [meta])
            return
        is_empty = True
        for page in self._obstore.list(open_store(address), address.key or None, chunk_size=_OBJECTS_PER_PAGE):
            is_empty &= not page
            yield from self._sort_out(address, page)
        if is_empty and address.key:
            if claims_scan(address.key):
                yield FoundScan(str(address), 0, Reason.MISSING_FILE)
            elif (meta := self._find(address)) is not None:
                yield from self._sort_out(address, [meta])

    def _sort_out(self, start: ObjectAddress, page: Sequence[Any]) -> Iterator[FoundScan]:
        """Yield those of a page that are scans, as a walk does with the files of a folder."""
        shown = [meta for meta in page if not _is_hidden(start, meta["path"])]
        self.skipped[Skip.HIDDEN] += len(page) - len(shown)
        unclear = [meta["path"] for meta in shown if meta["size"] and not claims_scan(meta["path"])]
        heads = dict(zip(unclear, self._pool.map(lambda key: self._read_head(start, key), unclear), strict=True))
        for meta in shown:
            key, size_bytes = meta["path"], meta["size"]
            address = str(start._replace(key=key))
            head = heads.get(key, b"")
            if isinstance(head, StorageError):
                yield FoundScan(address, size_bytes, head.reason, str(head), find_modified_ns(meta))
            elif (skip := find_skip_reason(key, head)) is not None:
                self.skipped[skip] += 1
            elif {"?", "#"} & set(key) or not is_key(key):
                text = "its key holds a sign that no address may, ? or #; copy it to another one"
                yield FoundScan(address, size_bytes, Reason.UNSUPPORTED_FORMAT, text, find_modified_ns(meta))
            elif self._archives and SEPARATOR in key:
                text = f"its key holds {SEPARATOR}, which parts an archive from its member; copy it to another one"
                yield FoundScan(address, size_bytes, Reason.UNSUPPORTED_FORMAT, text, find_modified_ns(meta))
            elif self._archives and can_list(key, head):
                found = FoundScan(address, size_bytes, modified_ns=find_modified_ns(meta))
                open_source = functools.partial(ObjectSource, start._replace(key=key), meta)
                yield from find_members(found, open_source, self.skipped, lambda _: False)  # no other key holds "!"
            else:
                yield FoundScan(address, size_bytes, modified_ns=find_modified_ns(meta))

    def _read_head(self, start: ObjectAddress, key: str) -> bytes | StorageError:
        try:
            return bytes(self._obstore.get_range(open_store(start), key, start=0, length=SNIFF_BYTES))
        except Exception as error:  # noqa: BLE001  # as above; one object does not end the list of the others
            return explain_error(error)


def _is_hidden(start: ObjectAddress, key: str) -> bool:
    below = key[len(start.key) :] if start.key != key else ""
    return any(part.startswith(".") for part in below.split("/"))


def _explain_listing(error: Exception, address: ObjectAddress) -> NightreadError:
    kind, place = type(error).__name__, f"{address.scheme}://{address.bucket}"
    if kind in {"PermissionDeniedError", "UnauthenticatedError"} or _REFUSED.search(str(error)):
        return SettingsError(f"{place} refuses to list {address.key or 'its objects'}: check the credentials")
    if kind == "InvalidPathError":
        return SettingsError(
            f"{place} holds an object below {address.key or 'its top'} whose key has an empty part, or one that is . "
            "or ..; rename it, or name a prefix without it"
        )
    if isinstance(error, FileNotFoundError) or "NoSuchBucket" in str(error) or "ContainerNotFound" in str(error):
        return SettingsError(f"there is no bucket {place}: check its name, and the endpoint in the environment")
    return StorageError(
        Reason.STORAGE_ERROR, f"{place} could not be listed to its end ({kind}); try again: nothing was enqueued"
    )


def _to_record(scan: FoundScan) -> list[object]:
    return [scan.path, scan.size_bytes, scan.modified_ns, scan.reason, scan.text]


def _list() -> Iterator[object]:
    """Yield a record for each scan, and one for the end."""
    try:
        with ThreadPoolExecutor(_HEADS_AT_ONCE) as pool:
            starts, archives = json.load(sys.stdin)
            lister = _Listing(pool, archives=archives)
            for scan in lister.list_all(starts):
                yield _to_record(scan)
    except StorageError as error:
        yield {_FAULT: str(error)}
    except (NightreadError, ValueError) as error:
        yield {_WRONG: str(error)}
    else:
        yield {_SKIPPED: +lister.skipped}


if __name__ == "__main__":
    for one in _list():
        sys.stdout.write(json.dumps(one) + "\n")
