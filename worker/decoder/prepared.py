"""Decoding and preparing one content, whatever it does to its decoder short of ending the process."""

import logging
from dataclasses import dataclass

from nightread.errors import ScanError
from nightread.model.card import Gate
from nightread.model.gate import Finding, check_pixels
from nightread.reasons import Reason
from nightread.scan.pixel_statistics import Statistics, measure
from nightread.scan.preprocessing import InputSpec, Tensor, read_and_prepare
from nightread.scan.scan import DicomUids

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Prepared:
    """One content: its tensor, or the reason why there is none.

    Attributes:
        statistics: what its pixels measure, where the model has a gate.
        finding: why the rules of the gate that need no model reject it.
    """

    tensor: Tensor | None
    uids: DicomUids | None
    reason: Reason | None = None
    text: str = ""
    statistics: Statistics | None = None
    finding: Finding | None = None


def prepare_bytes(data: bytes, spec: InputSpec, max_pixels: int, gate: Gate | None = None) -> Prepared:
    """Decode and prepare one content, whatever it does: hostile bytes must not end the job of 63 others."""
    try:
        tensor, scan = read_and_prepare(data, spec, max_pixels=max_pixels, with_colors=gate is not None)
        if gate is not None:
            finding = check_pixels(scan, gate)
            return Prepared(tensor, scan.uids, statistics=measure(tensor, spec), finding=finding)
    except ScanError as error:
        return Prepared(None, None, error.reason, str(error))
    except MemoryError:  # would end Celery's main process, then that of the next worker to take the job
        return Prepared(None, None, Reason.OUT_OF_MEMORY, "not enough memory to decode the scan")
    except Exception as error:  # noqa: BLE001  # the boundary to untrusted bytes; recorded, and logged without them
        _log.error("decoding failed with %s", type(error).__name__)  # its text may hold patient data
        return Prepared(None, None, Reason.INTERNAL_ERROR, f"decoding failed with {type(error).__name__}")
    return Prepared(tensor, scan.uids)
