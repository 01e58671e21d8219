"""Names of zip members: `zipfile` refuses a whole archive for one name or extra field that it cannot read."""

import struct
from typing import Final

from nightread.scan.archive_source import Source

#: Encoding in which every name can be decoded: a character for each byte.
BYTES: Final = "latin-1"
_ENTRY: Final = b"PK\1\2"
_ENTRY_BYTES: Final = 46
_HEADER_BYTES: Final = 30
#: Places of the upper byte of the flags: in an entry of the directory, and in the header before a member.
_ENTRY_FLAGS_AT, _HEADER_FLAGS_AT = 9, 7
_LENGTHS_AT: Final = 28
_UTF_8: Final = 0x08
#: The one extra field that is needed: sizes of 64 bits.
_ZIP64: Final = 1
_MOST_FIELDS: Final = 100


class ZipSource:
    """A zip archive of which no name is flagged as UTF-8, for `zipfile` with the encoding `BYTES`.

    Attributes:
        names: of the members, in the order of the directory, once it was read.
        headers: places of the headers before the members, to be set then.
    """

    def __init__(self, source: Source) -> None:
        """Begin at the start of `source`."""
        self._source = source
        self.names: list[str] = []
        self.headers: frozenset[int] | None = None
        self.seek, self.tell, self.seekable, self.close = source.seek, source.tell, source.seekable, source.close

    def read(self, count: int = -1) -> bytes:
        """Return the next `count` bytes, fewer at the end, as `Source` does; flags and extra fields are changed."""
        place = self._source.tell()
        data = self._source.read(count)
        if self.headers is None:
            return self._read_directory(data) if data.startswith(_ENTRY) else data
        if count == _HEADER_BYTES == len(data) and place in self.headers:
            header = bytearray(data)
            header[_HEADER_FLAGS_AT] &= ~_UTF_8
            return bytes(header)
        return data

    def _read_directory(self, directory: bytes) -> bytes:
        data, place, self.names = bytearray(directory), 0, []
        while data.startswith(_ENTRY, place) and place + _ENTRY_BYTES <= len(data):
            name_bytes, extra_bytes, comment_bytes = struct.unpack_from("<3H", data, place + _LENGTHS_AT)
            is_flagged = bool(data[place + _ENTRY_FLAGS_AT] & _UTF_8)
            data[place + _ENTRY_FLAGS_AT] &= ~_UTF_8
            place += _ENTRY_BYTES
            self.names.append(_decode(directory[place : place + name_bytes], is_flagged=is_flagged))
            place += name_bytes
            _clear_extra(data, place, min(len(data), place + extra_bytes))
            place += extra_bytes + comment_bytes
        return bytes(data)


def _clear_extra(data: bytearray, place: int, end: int) -> None:
    """Leave ZIP64 and an empty one of the extra fields of an entry: `zipfile` takes seconds for thousands of them."""
    at, kept = place, b""
    for _ in range(_MOST_FIELDS):
        if at + 4 > end:
            break
        kind, size = struct.unpack_from("<2H", data, at)
        following = at + 4 + size
        if kind == _ZIP64 and following <= end:
            kept = bytes(data[at:following])
            break
        at = following
    left = end - place - len(kept)
    filler = struct.pack("<2H", 0, left - 4) if left >= 4 else b""
    data[place:end] = (kept + filler).ljust(end - place, b"\0")


def _decode(name: bytes, *, is_flagged: bool) -> str:
    """Return a name as UTF-8, which some writers do not flag; else as it is flagged: CP437, or like that of a file."""
    try:
        return name.decode()
    except UnicodeDecodeError:
        return name.decode("utf-8", "surrogateescape") if is_flagged else name.decode("cp437")
