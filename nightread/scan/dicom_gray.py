"""Gray levels of stored DICOM values, with black and white (PS3.3 C.11, C.7.6.3 and C.8.11.3)."""

from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom.multival import MultiValue

from nightread.errors import UnreadableScan
from nightread.reasons import Reason
from nightread.scan.brightness import find_extremes
from nightread.scan.dicom_file import Attributes, describe_tag
from nightread.scan.scan import LARGEST_GRAY, BrightnessRule, Contradiction, Pixels

_SHAPE = "PresentationLUTShape"

#: Share of a window's grays below which a picture is nearly one gray: a window of 12 bits beside pixels of 8 bits.
_LEAST_SHOWN = 1 / 8


def apply_gray_levels(stored: Pixels, bits: int, attributes: Attributes) -> tuple[Pixels, float, float, BrightnessRule]:
    """Return (pixels, black, white, rule) after modality and VOI transforms.

    A linear window leaves the pixels as they are: its ends become black and white (PS3.3 C.11.2.1.2.1). Without table
    and window, black and white are the range of the stored bits or the extremes, see `_find_range`. Padding is black.

    Args:
        stored: (H, W) integers.
        bits: number of bits in use, according to the frame.
        attributes: attributes of the instance.

    Raises:
        UnreadableScan: a table is cut short, or every pixel is padding.
    """
    padding = _find_padding(stored, attributes)
    values, scaling = _apply_modality(stored, attributes)
    table, window = attributes.item("VOILUTSequence"), _read_window(attributes)
    if table is not None:
        values, white = _apply_voi_table(values, table)
        black, rule = 0.0, BrightnessRule.VOI_TABLE
    elif window is not None:
        values, black, white = _apply_window(values, attributes, *window)
        rule = BrightnessRule.WINDOW
    elif scaling is None:
        black, white, rule = _find_range(values, None, padding)
    else:
        slope, intercept = scaling
        *ends, rule = _find_range(stored, bits, padding)
        black, white = sorted(slope * end + intercept for end in ends)
    if _is_inverted(attributes):
        black, white = white, black
    return (values if padding is None else np.where(padding, black, values)), black, white, rule


def _is_inverted(attributes: Attributes) -> bool:
    """Return whether low values are bright: MONOCHROME1, or MONOCHROME2 with INVERSE.

    Some writers combine MONOCHROME1 with IDENTITY, a contradiction; the photometric interpretation decides.
    """
    is_inverted = attributes.photometric == "MONOCHROME1"
    shape = attributes.text(_SHAPE).upper()
    if shape == ("IDENTITY" if is_inverted else "INVERSE"):
        attributes.noted.add(Contradiction.PRESENTATION_LUT_SHAPE)
    return is_inverted or shape == "INVERSE"


def _find_range(
    values: Pixels, bits: int | None, padding: npt.NDArray[np.bool_] | None
) -> tuple[float, float, BrightnessRule]:
    """Return (black, white, rule) for an instance without table and window.

    They are the range of the stored bits. If there are more than 8 bits and no gray level reaches the upper half of
    that range, or signed values do not reach its lowest quarter, they are the picture's own extremes without outliers.

    Args:
        values: (H, W).
        bits: bits of a stored value; None if `values` are not the stored ones.
        padding: (H, W) bool, True for padding pixels.
    """
    low, high = 0.0, 0.0
    if bits is not None:
        low, high = (-(2.0 ** (bits - 1)), 2.0 ** (bits - 1) - 1) if values.dtype.kind == "i" else (0.0, 2.0**bits - 1)
        if bits <= 8:
            return low, high, BrightnessRule.FULL_RANGE
    extremes = find_extremes(values, padding)
    if extremes is None:
        raise UnreadableScan(Reason.BLANK, "every pixel is padding")
    is_used = bits is not None and extremes[1] > (low + high) / 2 and (low == 0 or extremes[0] < low / 2)
    return (low, high, BrightnessRule.STORED_BITS) if is_used else (*extremes, BrightnessRule.EXTREMES)


def _apply_modality(stored: Pixels, attributes: Attributes) -> tuple[Pixels, tuple[float, float] | None]:
    """Apply the modality table or the rescale slope and intercept (PS3.3 C.11.1).

    Returns:
        The values, and their slope and intercept; None after a table.
    """
    table = attributes.item("ModalityLUTSequence")
    if table is not None:
        return _look_up(stored, table)[0], None
    slope, intercept = attributes.number("RescaleSlope"), attributes.number("RescaleIntercept")
    for keyword, value in (("RescaleSlope", slope), ("RescaleIntercept", intercept)):
        if value is None and attributes.raw(keyword) is not None:
            raise UnreadableScan(Reason.DAMAGED, f"{describe_tag(keyword)} is not a finite number")
    if slope == 0:
        raise UnreadableScan(Reason.DAMAGED, f"{describe_tag('RescaleSlope')} is 0, which makes all pixels equal")
    if (slope is None) != (intercept is None) and (slope or 1, intercept or 0) != (1, 0):
        attributes.noted.add(Contradiction.MISSING_ATTRIBUTE)  # one without the other is not applied, as in DCMTK
    if slope is None or intercept is None or (slope == 1 and intercept == 0):
        return stored, (1.0, 0.0)
    values: Pixels = stored.astype(np.float32 if stored.dtype.itemsize <= 2 else np.float64)
    values *= slope
    values += intercept
    return values, (slope, intercept)


def read_table(item: Attributes, descriptor: str, data: str) -> tuple[npt.NDArray[np.int64], int]:
    """Return (entries, first value mapped) of a lookup table in any packing.

    Raises:
        UnreadableScan: the table is missing or cut short.
    """
    described, content = item.raw(descriptor), item.raw(data)
    is_list = isinstance(described, list | MultiValue)
    if not is_list or len(described) != 3 or not all(isinstance(one, int) for one in described):
        raise UnreadableScan(Reason.DAMAGED, f"{describe_tag(descriptor)} does not hold three whole numbers")
    count, first = int(described[0]) & 0xFFFF or 2**16, int(described[1])
    if isinstance(content, bytes):  # 16-bit words in the data set's byte order, or one byte per entry
        order = "<" if item.is_little_endian else ">"
        kind = f"{order}u2" if len(content) >= 2 * count else "u1"
        table = np.frombuffer(content[: len(content) // np.dtype(kind).itemsize * np.dtype(kind).itemsize], kind)
    elif isinstance(content, int | list | MultiValue):
        table = np.atleast_1d(np.array(content, np.int64)) & 0xFFFF
        if len(table) < count <= 2 * len(table):  # two 8-bit entries per word
            table = table.astype("<u2").view(np.uint8)
    else:
        table = np.empty(0, np.int64)
    if len(table) < count:
        raise UnreadableScan(
            Reason.DAMAGED, f"{describe_tag(data)} is shorter than {describe_tag(descriptor)} declares"
        )
    return table[:count].astype(np.int64), first


def _look_up(values: Pixels, item: Attributes) -> tuple[Pixels, int]:
    """Look values up in a modality or VOI table (PS3.3 C.11.1.1.1, C.11.2.1.1); values beyond it are clipped.

    Returns:
        What the values become, and the largest entry.
    """
    table, first = read_table(item, "LUTDescriptor", "LUTData")
    if first >= 2**15 and values.min() < 0:  # a negative first value that was written as unsigned
        first -= 2**16
    elif first < 0 and values.min() >= first + len(table):  # the reverse, where a modality table returns no sign
        first += 2**16
    places = np.clip(np.rint(values).astype(np.int64) - first, 0, len(table) - 1)
    return table[places].astype(np.uint16), int(table.max())


def _apply_voi_table(values: Pixels, item: Attributes) -> tuple[Pixels, float]:
    """Return looked-up values and white: the largest value of the bits that the entries use, whatever is declared."""
    shown, largest = _look_up(values, item)
    bits = largest.bit_length()
    if bits != item.raw("LUTDescriptor")[2]:
        item.noted.add(Contradiction.VOI_TABLE)
    return shown, float(2**bits - 1) if bits else float(shown.max())


def _read_window(attributes: Attributes) -> tuple[str, float, float] | None:
    """Return (function, center, width) of the first window, which viewers apply; None if there is none."""
    center, width = attributes.number("WindowCenter"), attributes.number("WindowWidth")
    if center is None or width is None or width <= 0 or max(abs(center), width) > LARGEST_GRAY:
        if attributes.raw("WindowCenter") is not None or attributes.raw("WindowWidth") is not None:
            attributes.noted.add(Contradiction.WINDOW)
        return None
    return attributes.text("VOILUTFunction").upper() or "LINEAR", center, width


def _apply_window(
    values: Pixels, attributes: Attributes, function: str, center: float, width: float
) -> tuple[Pixels, float, float]:
    low, high = float(values.min()), float(values.max())
    if not (center - width / 2 < high and center + width / 2 > low):
        raise UnreadableScan(
            Reason.BLANK,
            f"every pixel is shown in the same gray: no pixel lies in the window of {describe_tag('WindowCenter')} and "
            "Width",
        )
    if min(high, center + width / 2) - max(low, center - width / 2) < _LEAST_SHOWN * width:
        attributes.noted.add(Contradiction.WINDOW)
    if function == "SIGMOID":  # PS3.3 C.11.2.1.3.1
        power = np.clip(-4.0 * (values.astype(np.float64) - center) / width, -700.0, 700.0)
        return (1.0 / (1.0 + np.exp(power))).astype(np.float32), 0.0, 1.0
    if function == "LINEAR" and width == 1:  # PS3.3 C.11.2.1.2.1: a threshold
        return (values > center - 0.5).astype(np.uint8), 0.0, 1.0
    if function == "LINEAR" and width > 1:
        return values, center - 0.5 - (width - 1) / 2, center - 0.5 + (width - 1) / 2
    return values, center - width / 2, center + width / 2  # LINEAR_EXACT, PS3.3 C.11.2.1.3.2


def _find_padding(pixels: Pixels, attributes: Attributes) -> npt.NDArray[np.bool_] | None:
    """Return the mask of padding pixels, (H, W) bool (PS3.3 C.7.5.1.1.2); None if there are none."""
    start, end = attributes.number("PixelPaddingValue"), attributes.number("PixelPaddingRangeLimit")
    if start is None:
        return None
    given = (start, start if end is None else end)
    matched = [_match_sign(value, pixels.dtype) for value in given]
    if matched != list(given):
        attributes.noted.add(Contradiction.PADDING)
    low, high = sorted(matched)
    mask = (pixels >= low) & (pixels <= high)
    return mask if mask.any() else None


def _match_sign(value: float, dtype: np.dtype[Any]) -> float:
    """Convert a value to the range of the pixels; some writers store signed values as unsigned, or the reverse."""
    limits = np.iinfo(dtype)
    if value > limits.max:
        return value - (limits.max - limits.min + 1.0)
    return value + (limits.max - limits.min + 1.0) if value < limits.min else value
