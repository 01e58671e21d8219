"""One file content on its way from bytes to scores, and the stages that need no model.

`read_content` reads and hashes a file, `decode_content` makes the network's input of its bytes, and
`nightread.inference.batch_scorer` measures it and adds the scores. Worker, shadow and library call these same
functions, so a scan ends alike in all of them. Every fault of a file becomes a reason: one hostile file must not end
the job of 63 others.
"""

import hashlib
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nightread.errors import ScanError, StorageError
from nightread.failpoints import Point, failpoint
from nightread.model.card import Gate
from nightread.model.gate import PASSED, Finding, check_pixels
from nightread.reasons import Reason
from nightread.scan.acquisition import RADIOGRAPHS, Accepted, Acquisition
from nightread.scan.archives import read_member, split_path
from nightread.scan.array import read_array
from nightread.scan.files import check_size_bytes, read_file
from nightread.scan.formats import SNIFF_BYTES, Format, sniff
from nightread.scan.object_address import is_address
from nightread.scan.object_store import read_object
from nightread.scan.pixel_statistics import Statistics
from nightread.scan.preprocessing import InputSpec, Tensor, prepare, read_for
from nightread.scan.scan import BrightnessRule, Contradiction, Pixels

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class Content:
    """One distinct file content; each stage fills in its fields, and bytes and tensor go as soon as they are used.

    Attributes:
        data: bytes of the whole file; empty once they are decoded.
        sha256: SHA-256 of the bytes, 64 hexadecimal digits; empty where the file could not be read.
        acquisition: of a DICOM file that could be parsed, else None.
        rule: how black and white were determined; None if the file was not decoded.
        contradictions: of a DICOM file's attributes.
        tensor: (H, W, C) float32, the network's input; None before decoding and after scoring.
        statistics: what the pixels measure; None where the model has no gate.
        finding: why the input gate rejects the scan; None where it passes.
        is_judged: whether the gate has come to a verdict; a doubtful scan gets none where the gate is off.
        distance: of the embedding from the training scans; None without a gate, or where it is not finite.
        components: 8 components of the embedding; None where `distance` is.
        scores: one in [0, 1] for each label, in the card's order; empty where there are none.
        batch_size: scans that were scored together with this one, itself included.
        reason: why there are no scores.
        text: the reason in words; holds neither a path nor a value of the file.
        is_lasting: whether the fault of the storage would be there at the next attempt, too.
        grown_bytes: size of a file that was not read because it has grown since it was listed; else 0.
        stage_s: seconds that a thread spent on each stage, waiting included; of a batch this content's share.
    """

    data: bytes = b""
    sha256: str = ""
    acquisition: Acquisition | None = None
    rule: BrightnessRule | None = None
    contradictions: frozenset[Contradiction] = frozenset()
    tensor: Tensor | None = None
    statistics: Statistics | None = None
    finding: Finding | None = None
    is_judged: bool = True
    distance: float | None = None
    components: list[float] | None = None
    scores: Sequence[float] = ()
    batch_size: int = 0
    reason: Reason | None = None
    text: str = ""
    is_lasting: bool = False
    grown_bytes: int = 0
    stage_s: dict[str, float] = field(default_factory=dict)

    @property
    def verdict(self) -> str | None:
        """The input gate's verdict, `passed` or a reason's code; None where it has come to none."""
        if self.statistics is None or not self.is_judged or self.reason is Reason.INVALID_SCORE:
            return None
        return PASSED if self.finding is None else self.finding.reason.value

    def end(self, reason: Reason, text: str) -> None:
        """Record why there are no scores, and release bytes and tensor."""
        self.reason, self.text = reason, text
        self.data, self.tensor = b"", None

    def reject(self, finding: Finding) -> None:
        """Record the gate's finding as the reason; a window that contradicts the pixels is named, as it may be why."""
        is_doubtful = Contradiction.WINDOW in self.contradictions
        self.end(finding.reason, f"{finding.text}; its window contradicts its pixels" if is_doubtful else finding.text)

    def fill(self, decoded: "Content") -> None:
        """Take over what `decode_content` made of this content's bytes, and release the bytes."""
        self.data, self.tensor, self.acquisition = b"", decoded.tensor, decoded.acquisition
        self.rule, self.contradictions = decoded.rule, decoded.contradictions
        self.finding, self.reason, self.text = decoded.finding, decoded.reason, decoded.text
        self.stage_s |= decoded.stage_s


def read_content(
    path: str,
    roots: Sequence[Path],
    max_bytes: int,
    expected_bytes: int | None = None,
    *,
    archives: bool = False,
    settle_s: float = 0.0,
) -> Content:
    """Read and hash a file or object; a fault becomes the content's reason.

    This is the one place where the source of bytes is chosen.

    Args:
        path: absolute path, or the address of an object.
        roots: folders and addresses below which the file may lie.
        max_bytes: the largest file that is read.
        expected_bytes: size above which a file has grown, and is not read now; None for no such size.
        archives: whether `ARCHIVE!MEMBER` is the path of a member of an archive.
        settle_s: seconds for which the file, or the archive, must not have changed.
    """
    began = time.perf_counter()
    try:
        failpoint(Point.WORKER_READING, _fail_storage)
        limits: Any = {
            "roots": roots, "max_bytes": max_bytes, "expected_bytes": expected_bytes, "settle_s": settle_s,
        }  # fmt: skip
        if archives and (member := split_path(path)) is not None:
            data = read_member(*member, **limits)
        else:
            data = read_object(path, **limits) if is_address(path) else read_file(path, **limits)
    except ScanError as error:
        return Content(reason=error.reason, text=str(error))
    except StorageError as error:
        return Content(reason=error.reason, text=str(error), grown_bytes=error.grown_bytes)
    except MemoryError:
        return Content(reason=Reason.OUT_OF_MEMORY, text="not enough memory to read the file")
    except Exception as error:  # noqa: BLE001  # the boundary to storage: one file must not end the job of 63 others
        _log.error("reading failed with %s", type(error).__name__)  # its text may hold the path
        return Content(reason=Reason.INTERNAL_ERROR, text=f"reading failed with {type(error).__name__}")
    read_at = time.perf_counter()
    sha256 = hashlib.sha256(data).hexdigest()
    return Content(data, sha256, stage_s={"read": read_at - began, "hash": time.perf_counter() - read_at})


def take_content(data: bytes, max_bytes: int) -> Content:
    """Return the content of bytes that are read already, with the faults that `read_content` would find in a file.

    Args:
        data: a whole file.
        max_bytes: the largest file that is taken.
    """
    try:
        check_size_bytes(len(data), max_bytes, None)
    except ScanError as error:
        return Content(reason=error.reason, text=str(error))
    return Content(data, hashlib.sha256(data).hexdigest())


def decode_content(
    data: bytes | Pixels,
    spec: InputSpec,
    max_pixels: int,
    gate: Gate | None = None,
    accepted: Accepted = RADIOGRAPHS,
) -> Content:
    """Decode a file and prepare it for a network; a fault becomes the reason.

    Args:
        data: bytes of the whole file, or pixels as `read_array` takes them.
        spec: the network's input.
        max_pixels: largest width times height that is decoded.
        gate: the model's; pixels are checked by its rules where it is given.
        accepted: which DICOM instances are radiographs.

    Returns:
        A content without `data` and `sha256`, for `Content.fill`.
    """
    began = time.perf_counter()
    try:
        if isinstance(data, bytes):
            scan = read_for(data, spec, max_pixels=max_pixels, with_colors=gate is not None, accepted=accepted)
        else:
            scan = read_array(data, max_pixels=max_pixels)
        decoded_at = time.perf_counter()
        tensor = prepare(scan, spec)
        decoded = Content(
            tensor=tensor, acquisition=scan.acquisition, rule=scan.rule, contradictions=scan.contradictions
        )
        if gate is not None:
            decoded.finding = check_pixels(scan, gate)
        decoded.stage_s = {"decode": decoded_at - began, "prepare": time.perf_counter() - decoded_at}
    except ScanError as error:
        acquisition = find_acquisition(data) if isinstance(data, bytes) else None
        return Content(reason=error.reason, text=str(error), acquisition=acquisition)
    except MemoryError:  # would end Celery's main process, then that of the next worker to take the job
        return Content(reason=Reason.OUT_OF_MEMORY, text="not enough memory to decode the scan")
    except Exception as error:  # noqa: BLE001  # the boundary to untrusted bytes; recorded, and logged without them
        _log.error("decoding failed with %s", type(error).__name__)  # its text may hold patient data
        return Content(reason=Reason.INTERNAL_ERROR, text=f"decoding failed with {type(error).__name__}")
    return decoded


def find_acquisition(data: bytes) -> Acquisition | None:
    """Return the acquisition of a file that is not decoded: its scores are stored, or it was refused."""
    if sniff(data[:SNIFF_BYTES]) is not Format.DICOM:
        return None
    from nightread.scan import dicom  # pydicom takes 0.2 s to import, and most folders hold none

    try:
        return dicom.find_acquisition(data)
    except ScanError:
        return None
    except Exception as error:  # noqa: BLE001  # the boundary to untrusted bytes; the score is there all the same
        _log.error("reading DICOM attributes failed with %s", type(error).__name__)
        return None


def _fail_storage(message: str) -> StorageError:
    return StorageError(Reason.STORAGE_ERROR, message)
