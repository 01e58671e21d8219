"""Check of LZW data in TIFF files (TIFF 6.0, section 13) before it is decoded.

The decoder of imagecodecs (2026.5.10 and before) does not check the code after a Clear code. If that is no byte, it
reads a table entry that was never written, and follows it as an address.
"""

from typing import Final

import numpy as np

_CLEAR, _END = 256, 257
#: Widths in bits of the codes after a Clear code, up to the table size of the decoder, and their places.
_WIDTHS: Final = np.repeat(np.array([9, 10, 11, 12], np.int32), [254, 512, 1024, 3073])
_ENDS: Final = np.cumsum(_WIDTHS)
_PLACES: Final = _ENDS - _WIDTHS
#: Each Clear code costs a pass. Writers clear a full table, or one whose codes outgrow 9 bits; more passes are refused.
_BITS_OF_A_PASS: Final = 200 * 9
_FREE_PASSES: Final = 64


def is_sound(data: bytes) -> bool:
    """Return whether LZW data begins with a Clear code, and only bytes, further Clear codes or the end follow one.

    Also False if the table is cleared all the time.
    """
    if len(data) < 2 or data[0] != 0x80 or data[1] & 0x80:
        return not data
    content = np.frombuffer(data + bytes(2), np.uint8)
    size, place = 8 * len(data), 9
    for _ in range(_FREE_PASSES + size // _BITS_OF_A_PASS):
        count = int(np.searchsorted(_ENDS, size - place, "right"))
        if not count:
            return True
        places, widths = place + _PLACES[:count], _WIDTHS[:count]
        at = places >> 3
        high, middle, low = (content[at + byte].astype(np.int32) for byte in range(3))
        codes = (high << 16 | middle << 8 | low) >> (24 - widths - (places & 7)) & ((1 << widths) - 1)
        if codes[0] > _END:
            return False
        ends = np.flatnonzero((codes == _CLEAR) | (codes == _END))
        if not len(ends) or codes[ends[0]] == _END:
            return True
        place += int(_ENDS[ends[0]])
    return False
