"""Codes of findings in SNOMED CT or RadLex, by which other programs know what a label means."""

import re
from typing import Annotated, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

_RADLEX: Final = re.compile(r"RID\d{1,8}")
_SNOMED: Final = re.compile(r"[1-9]\d{5,17}")
#: Multiplication in the dihedral group D5, and the permutation by place, of Verhoeff's check digit.
_TIMES: Final = (
    "0123456789", "1234067895", "2340178956", "3401289567", "4012395678",
    "5987604321", "6598710432", "7659821043", "8765932104", "9876543210",
)  # fmt: skip
_PERMUTED: Final = (
    "0123456789", "1576283094", "5803796142", "8916043527", "9453126870", "4286573901", "2793806415", "7046913258",
)  # fmt: skip


def has_check_digit(digits: str) -> bool:
    """Return whether the last digit is the check digit of the others (Verhoeff 1969, as in SNOMED CT)."""
    check = 0
    for place, digit in enumerate(reversed(digits)):
        check = int(_TIMES[check][int(_PERMUTED[place % 8][int(digit)])])
    return check == 0


class FindingCode(BaseModel):
    """A concept of a terminology; `meaning` is its name there."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    scheme: Literal["SCT", "RADLEX"]
    value: str
    meaning: Annotated[str, Field(min_length=1, max_length=64)]

    @model_validator(mode="after")
    def _check_value(self) -> Self:
        if self.scheme == "RADLEX" and not _RADLEX.fullmatch(self.value):
            msg = f"{self.value[:20]!r} is no code of RadLex, which is RID and a number"
            raise ValueError(msg)
        if self.scheme == "SCT" and not (_SNOMED.fullmatch(self.value) and has_check_digit(self.value)):
            msg = (
                f"{self.value[:20]!r} is no code of SNOMED CT: 6 to 18 digits, of which the last one checks the others"
            )
            raise ValueError(msg)
        return self


#: Codes of labels for cards that hold none.
KNOWN: Final = {"pneumonia": FindingCode(scheme="SCT", value="233604007", meaning="Pneumonia")}
