"""The acquisition of a DICOM instance: identifiers, view, device and time, and nothing of a person.

It also defines which instances are accepted as radiographs.

Values are free text of foreign systems. Each is stored only if it has the form that its attribute allows, and if it
shares no word with a name or identifier of a person in the same file (`nightread.scan.dicom_acquisition`).
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from datetime import datetime
from typing import Any, Final

_UID: Final = re.compile(r"[0-9.]{1,64}")
#: Allowed forms. Each begins with a letter or digit, so that no spreadsheet takes a value for a formula.
_FORMS: Final = {
    "study": _UID,
    "series": _UID,
    "instance": _UID,
    "body_part": re.compile(r"[A-Z0-9][A-Z0-9 _]{0,15}"),
    "view_position": re.compile(r"[A-Z0-9][A-Z0-9 _-]{0,15}"),
    "laterality": re.compile(r"[RLUB]"),
    "acquired_at": re.compile(r"(19|20|21)\d\d-\d\d-\d\dT\d\d:\d\d:\d\d"),
    "manufacturer": re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._,&+/()-]{0,63}"),
    "station": re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._/()-]{0,15}"),
    "accession": re.compile(r"[!-~][ -~]{0,63}"),
}


#: Modalities that may hold radiographs: computed, digital, other names for both, screen film, fluoroscopy, angiography,
#: and the codes of secondary captures.
MODALITIES: Final = ("CR", "DX", "DR", "XR", "RG", "RF", "XA", "OT", "SC")


@dataclass(frozen=True, slots=True)
class Accepted:
    """Which DICOM instances are accepted as radiographs.

    Attributes:
        modalities: accepted values of Modality, upper case; an instance without one is accepted.
        for_processing: whether raw detector values (Presentation Intent Type FOR PROCESSING) are accepted.
    """

    modalities: frozenset[str] = frozenset({"CR", "DX", "DR", "XR", "RG", "RF"})
    for_processing: bool = False


#: The default.
RADIOGRAPHS: Final = Accepted()


@dataclass(frozen=True, slots=True)
class DicomUids:
    """The UIDs of DICOM's three levels, which are not patient data; None if missing."""

    study: str | None
    series: str | None
    instance: str | None


@dataclass(frozen=True, slots=True)
class Acquisition:
    """What an instance says of its acquisition; each value is None if it is missing or not of its form.

    Attributes:
        study: Study Instance UID.
        series: Series Instance UID.
        instance: SOP Instance UID.
        body_part: Body Part Examined, upper case.
        view_position: View Position, or the short form of View Code Sequence, upper case.
        laterality: R, L, U (unpaired) or B (both).
        acquired_at: date and time on the device's own clock, `YYYY-MM-DDTHH:MM:SS`.
        manufacturer: of the device.
        station: Station Name.
        accession: Accession Number; leads to a person, and is stored only as a keyed hash.
    """

    study: str | None = None
    series: str | None = None
    instance: str | None = None
    body_part: str | None = None
    view_position: str | None = None
    laterality: str | None = None
    acquired_at: str | None = None
    manufacturer: str | None = None
    station: str | None = None
    accession: str | None = field(default=None, repr=False)

    @property
    def uids(self) -> DicomUids:
        """The UIDs."""
        return DicomUids(self.study, self.series, self.instance)


def make_acquisition(values: Mapping[str, Any]) -> Acquisition:
    """Return an acquisition from untrusted values by field; those without the form of their field become None."""
    return Acquisition(**{one.name: _clean(one.name, values.get(one.name)) for one in fields(Acquisition)})


def _clean(name: str, value: Any) -> str | None:
    if not (isinstance(value, str) and _FORMS[name].fullmatch(value)):
        return None
    if name == "acquired_at":
        try:
            datetime.fromisoformat(value)
        except ValueError:
            return None
    return value
