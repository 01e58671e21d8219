"""Acquisition attributes of a DICOM instance, and whether its view is frontal."""

import contextlib
import re
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any, Final

from nightread.errors import UnsupportedScan
from nightread.reasons import Reason
from nightread.scan.acquisition import Acquisition, make_acquisition
from nightread.scan.dicom_file import DICOM_ERRORS, PERSON_KEYWORDS, Attributes, describe_tag
from nightread.scan.scan import Contradiction

_BREAKS = re.compile(rb"[^A-Z0-9\x80-\xff]+")
#: Shorter words of a name are initials, which occur in any text.
_SHORTEST_WORD: Final = 2
_TIME = re.compile(r"(\d{4})[.]?(\d\d)[.]?(\d\d)(\d\d):?(\d\d):?(\d\d)")
_FREE_TEXTS: Final = ("body_part", "view_position", "manufacturer", "station")

_FRONTAL: Final = frozenset({"PA", "AP", "FRONTAL", "POSTEROANTERIOR", "ANTEROPOSTERIOR"})
#: Words of View Position for lateral and oblique projections (PS3.3 C.8.1.1 and C.8.11.5, and usual free text).
_NOT_FRONTAL: Final = frozenset({
    "LL", "RL", "LAT", "LATERAL", "LLAT", "RLAT", "SAGITTAL", "XTABLE", "SWIMMERS",
    "LLO", "RLO", "LAO", "RAO", "LPO", "RPO", "OBL", "OBLIQUE",
})  # fmt: skip
#: A decubitus view shows a patient who lies on the side, but from the front.
_DECUBITUS: Final = frozenset({"LLD", "RLD", "DECUB", "DECUBITUS"})

#: View codes of CID 4010, SNOMED RT and CT, by View Position.
_CODES_OF_VIEWS: Final = {
    "PA": "R-10214 R-40888 272479007",
    "AP": "R-10206 399348003",
    "FRONTAL": "R-10202 399033003",
    "LL": "R-10236 399173006",
    "RL": "R-10232 399198007",
    "LATERAL": "R-102CD 399067008 R-10228 399352003 R-10224 399260004 G-A145 30730003",
    "LAO": "R-10220 399135007",
    "RAO": "R-10218 R-40985 410467002 399356000",
    "LPO": "R-10212 399006002",
    "RPO": "R-10210 399038007",
    "OBLIQUE": """
        R-102C1 399182000 R-10208 399312000 R-10216 399059000 R-10204 399160007 R-10234 399236003 R-10238 399184004
        R-40783 260427002 R-40782 260426006 R-10230 399099002 R-10226 399368009
        """,
}
_VIEWS: Final = {code: view for view, codes in _CODES_OF_VIEWS.items() for code in codes.split()}


def read_acquisition(attributes: Attributes) -> Acquisition:
    """Return the acquisition of an instance, without values that share a word with a person's name or identifier.

    Nothing of it is needed for a score, so that an unreadable value is no error.
    """
    try:
        return _read(attributes)
    except (*DICOM_ERRORS, RecursionError):
        return Acquisition()


def _read(attributes: Attributes) -> Acquisition:
    text = attributes.text
    position = text("ViewPosition").upper() or _read_view_code(attributes) or ""
    read = make_acquisition({
        "study": text("StudyInstanceUID"), "series": text("SeriesInstanceUID"), "instance": text("SOPInstanceUID"),
        "body_part": text("BodyPartExamined").upper(), "view_position": position,
        "laterality": (text("ImageLaterality") or text("Laterality")).upper(),
        "acquired_at": _read_time(attributes), "manufacturer": text("Manufacturer").strip("\" '"),
        "station": text("StationName"), "accession": text("AccessionNumber"),
    })  # fmt: skip
    persons = _read_persons(attributes)
    values = asdict(read)
    return replace(read, **{name: None for name in _FREE_TEXTS if _read_words(values[name] or "") & persons})


def check_frontal(attributes: Attributes) -> None:
    """Refuse a lateral or oblique view.

    View Position and View Code Sequence are made for this; one of them suffices. Patient Orientation decides if neither
    names a known view. Descriptions of series and study are not used: they often name all views of an examination.

    Raises:
        UnsupportedScan: names the attribute.
    """
    views: dict[str, bool | None] = {}
    for keyword, judge in _JUDGES.items():
        with contextlib.suppress(*DICOM_ERRORS, RecursionError):
            views[keyword] = judge(attributes)
    if {True, False} <= set(views.values()):
        attributes.noted.add(Contradiction.VIEW)
    is_known = any(views.get(keyword) is not None for keyword in ("ViewPosition", "ViewCodeSequence"))
    for keyword, is_frontal in views.items():
        if is_frontal is False and not (is_known and keyword == "PatientOrientation"):
            raise UnsupportedScan(
                Reason.NOT_FRONTAL,
                f"{describe_tag(keyword)} names a lateral or oblique view; models read frontal views (PA or AP)",
            )


def _judge(view: str) -> bool | None:
    """Return whether a view is frontal; None if it is unknown or names both."""
    words = set(re.split(r"[^A-Z]+", view.upper()))
    if words & _DECUBITUS:
        return True
    is_frontal, is_other = bool(words & _FRONTAL), bool(words & _NOT_FRONTAL)
    return None if is_frontal == is_other else is_frontal


def _judge_orientation(attributes: Attributes) -> bool | None:
    """Return whether rows and columns lie in the frontal plane (PS3.3 C.7.6.1.1.1); None if it is unknown.

    The first letter of each direction is its main axis: left-right and head-foot in a frontal view.
    """
    directions = attributes.texts("PatientOrientation")
    axes = {direction[0] for direction in directions if re.fullmatch(r"[APLRHF]{1,3}", direction)}
    if len(directions) != 2 or len(axes) != 2:
        return None
    if axes & {"A", "P"} and axes & {"H", "F"}:
        return False
    return True if axes & {"L", "R"} and axes & {"H", "F"} else None


def _read_view_code(attributes: Attributes) -> str | None:
    """Return the view of the first code: its View Position if the code is known, else its meaning."""
    item = attributes.item("ViewCodeSequence")
    if item is None:
        return None
    return _VIEWS.get(item.text("CodeValue").upper()) or item.text("CodeMeaning").upper()


_JUDGES: Final[dict[str, Callable[[Attributes], bool | None]]] = {
    "ViewPosition": lambda attributes: _judge(attributes.text("ViewPosition")),
    "ViewCodeSequence": lambda attributes: _judge(_read_view_code(attributes) or ""),
    "PatientOrientation": _judge_orientation,
}


def _read_time(attributes: Attributes) -> str | None:
    """Return Acquisition DateTime, else Acquisition Date and Time, as `YYYY-MM-DDTHH:MM:SS`."""
    apart = attributes.text("AcquisitionDate") + attributes.text("AcquisitionTime")
    found = _TIME.match(attributes.text("AcquisitionDateTime")) or _TIME.match(apart)
    return None if found is None else "{}-{}-{}T{}:{}:{}".format(*found.groups())


def _read_persons(attributes: Attributes) -> frozenset[bytes]:
    """Return the words of all names and identifiers of persons, compared as raw bytes and never kept."""
    words: set[bytes] = set()
    for keyword in PERSON_KEYWORDS:
        value: Any = getattr(attributes.dataset.get_item(keyword), "value", None)
        words |= _read_words(value)
    return frozenset(words)


def _read_words(value: Any) -> set[bytes]:
    content = value if isinstance(value, bytes) else str(value or "").encode()
    return {word for word in _BREAKS.split(content.upper()) if len(word) >= _SHORTEST_WORD}
