"""The file of a scored scan, read again: only the bytes that were scored are given out."""

from collections.abc import Sequence
from pathlib import Path

from nightread.errors import NightreadError
from nightread.inference.content import read_content
from nightread.scan.files import decode_path
from nightread.settings import Settings


class ScoredFileGone(NightreadError):
    """A scored file cannot be read any more, or holds other bytes; the text holds no path and no value of it."""


def read_scored_file(settings: Settings, path: str, sha256: str, sources: Sequence[str], *, archives: bool) -> bytes:
    """Return the bytes of a scan that was scored.

    Args:
        settings: this host's roots, path map and limits.
        path: as stored.
        sha256: of the bytes that were scored.
        sources: of its run, as stored; they are the roots where the settings name none.
        archives: whether its run reads archives.

    Raises:
        ScoredFileGone: they are not there any more.
    """
    to_local = settings.local_paths.to_local
    roots = settings.scan_roots or tuple(Path(to_local(decode_path(source))) for source in sources)
    content = read_content(to_local(decode_path(path)), roots, settings.max_file_bytes, archives=archives)
    if content.reason is not None:
        raise ScoredFileGone(f"the file cannot be read: {content.text}")
    if content.sha256 != sha256:
        raise ScoredFileGone("the file has changed since it was scored: its SHA-256 is another one")
    return content.data
