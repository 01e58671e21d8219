"""Pictures of known scans: their bytes are read again, compared with those that were scored, and drawn.

Only contents that a worker has decoded before are decoded here: their SHA-256 is compared first. A file that crashed
its decoder is `failed`, and is not shown. So a hostile file that is put in the place of a scan meets no decoder.
"""

import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

import platformdirs

from db.scan_record import ScanFile
from db.types import ScanStatus
from nightread.errors import ModelError, NightreadError, ScanError
from nightread.inference.evidence import Evidence, EvidenceFinder
from nightread.inference.scored_file import ScoredFileGone, read_scored_file
from nightread.machine import count_cores
from nightread.model.bundle import find_bundle, load_bundle
from nightread.scan.picture import Picture, draw_picture, encode_webp
from nightread.scan.preprocessing import read_and_prepare
from nightread.scan.thumbnail import make_thumbnail
from nightread.settings import Settings
from web.recent import Recent
from web.thumbnail_cache import ThumbnailCache

_log = logging.getLogger(__name__)
_Value = TypeVar("_Value")

#: Longest sides, in pixels: of a thumbnail, of a picture that fits a screen, and of one for a closer look.
THUMBNAIL_PX: Final = 96
SIDES_PX: Final = {"screen": 1024, "full": 4096}
_MOST_PICTURES, _MOST_EVIDENCE, _MOST_MODELS = 6, 64, 2


class PictureMissing(NightreadError):
    """A scan cannot be shown; the text says why, and holds no path."""


class Pictures:
    """Pictures, thumbnails and evidence of known scans."""

    def __init__(self, settings: Settings) -> None:
        """Prepare the caches; nothing is read yet."""
        self._settings = settings
        self._cores = settings.threads or count_cores()
        self._turns = threading.BoundedSemaphore(self._cores)  # each decoded scan takes up to some hundred MB
        self._pictures: Recent[Picture] = Recent(_MOST_PICTURES)
        self._evidence: Recent[Evidence] = Recent(_MOST_EVIDENCE)
        self._finders: Recent[EvidenceFinder] = Recent(_MOST_MODELS)
        self._opening = threading.Lock()
        self._thumbnails = ThumbnailCache(_find_folder(settings), settings.web_cache_bytes)

    def check(self, scan: ScanFile) -> None:
        """Read the file of a scan and draw it, so that the picture that follows is of the bytes that were scored.

        Raises:
            PictureMissing: it has changed since, or cannot be read or shown.
        """
        data = self._read(scan)
        self._pictures.find((scan.sha256, "screen"), lambda: self._draw(data, SIDES_PX["screen"]))

    def find_picture(self, scan: ScanFile, size: str) -> Picture:
        """Return the picture of a scan.

        Args:
            scan: a known scan.
            size: a key of `SIDES_PX`.

        Raises:
            PictureMissing: the file has changed since it was scored, or cannot be read or shown.
        """
        return self._pictures.find((scan.sha256, size), lambda: self._draw(self._read(scan), SIDES_PX[size]))

    def find_thumbnail(self, scan: ScanFile) -> bytes:
        """Return the thumbnail of a scan as WebP.

        Raises:
            PictureMissing: as `find_picture`.
        """
        sha256 = _check_shown(scan)
        kept = self._thumbnails.find(sha256)
        if kept is not None:
            return kept
        data = self._read(scan)
        with self._turns:
            made = encode_webp(self._guard(lambda **limits: make_thumbnail(data, side_px=THUMBNAIL_PX, **limits)))
        self._thumbnails.keep(sha256, made)
        return made

    def find_evidence(self, scan: ScanFile) -> Evidence:
        """Return the evidence that the model of a scan's run finds in it.

        Raises:
            PictureMissing: as `find_picture`, or this host has not the model's bundle.
        """
        return self._evidence.find((scan.sha256, scan.model_digest), lambda: self._compute(scan))

    def _compute(self, scan: ScanFile) -> Evidence:
        data = self._read(scan)
        with self._opening:
            finder = self._finders.find(scan.model_digest, lambda: self._open(scan))
        with self._turns:
            tensor, _ = self._guard(lambda **limits: read_and_prepare(data, finder.card.input, **limits))
            return finder.find(tensor)

    def _open(self, scan: ScanFile) -> EvidenceFinder:
        try:
            bundle = load_bundle(find_bundle(scan.model, self._settings.models_dir))
            if bundle.digest != scan.model_digest:
                raise PictureMissing(f"the bundle {scan.model} on this host is not the one that scored this scan")
            return EvidenceFinder(bundle, self._cores)
        except ModelError as error:
            raise PictureMissing(f"the model cannot be opened on this host: {error}") from None

    def _read(self, scan: ScanFile) -> bytes:
        sha256 = _check_shown(scan)
        try:
            return read_scored_file(self._settings, scan.path, sha256, scan.sources, archives=scan.archives)
        except ScoredFileGone as gone:
            raise PictureMissing(str(gone)) from None

    def _draw(self, data: bytes, side_px: int) -> Picture:
        with self._turns:
            return self._guard(lambda **limits: draw_picture(data, side_px=side_px, **limits))

    def _guard(self, draw: Callable[..., _Value]) -> _Value:
        """Draw within the limits of pixels and modalities; every fault becomes a sentence.

        Raises:
            PictureMissing: the scan cannot be drawn.
        """
        try:
            return draw(max_pixels=self._settings.max_pixels, accepted=self._settings.accepted)
        except ScanError as error:
            raise PictureMissing(f"the scan cannot be drawn: {error}") from None
        except MemoryError:
            raise PictureMissing("there is not enough memory to draw the scan") from None
        except Exception as error:  # noqa: BLE001  # the boundary to untrusted bytes; its text may hold patient data
            _log.error("drawing failed with %s", type(error).__name__)
            raise PictureMissing(f"drawing failed with {type(error).__name__}") from None


def _check_shown(scan: ScanFile) -> str:
    """Return the digest of a scan that may be decoded here.

    Raises:
        PictureMissing: the file was never decoded, or that failed.
    """
    if scan.status is ScanStatus.QUEUED:
        raise PictureMissing("the scan is still to be scored")
    if scan.sha256 is None:
        raise PictureMissing(f"the file was never read: {scan.reason_text}")
    if scan.status is ScanStatus.FAILED:
        raise PictureMissing(f"a scan that failed is not decoded again here: {scan.reason_text}")
    return scan.sha256


def _find_folder(settings: Settings) -> Path | None:
    if settings.web_cache_dir:
        return Path(settings.web_cache_dir).expanduser()
    try:
        return platformdirs.user_cache_path("nightread") / "thumbnails"
    except RuntimeError:  # this user has no home folder
        return None
