"""A study's results as a DICOM Structured Report (TID 1500), the same bytes whenever it is made.

Its UIDs follow from what it says, and its times from when the scores were stored. So a report that is sent twice is one
object to a PACS.
"""

import hashlib
import uuid
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from io import BytesIO
from typing import Final

from highdicom.sr import (
    AlgorithmIdentification,
    ComprehensiveSR,
    DeviceObserverIdentifyingAttributes,
    Measurement,
    MeasurementReport,
    MeasurementsAndQualitativeEvaluations,
    ObservationContext,
    ObserverContext,
    QualitativeEvaluation,
    SourceImageForMeasurementGroup,
    TrackingIdentifier,
)
from pydicom import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code
from pydicom.valuerep import DA, TM

from db.study_results import LabelScore, ScoredInstance
from nightread import __version__
from nightread.model.card import UNCERTAIN, Card
from nightread.model.finding_code import KNOWN

MAKER: Final = "Nightread"
DISCLAIMER: Final = "Research, not for diagnosis"
#: Coding scheme of what has no code elsewhere.
SCHEME: Final = "99NIGHTREAD"
#: Numbers of the series that are added to a study.
REPORT_SERIES, CAPTURE_SERIES = 9101, 9102

#: Counts what a report says and how; part of its UIDs, so that a changed form is another object.
_FORM: Final = "sr/1"
_PRESENT: Final = Code("52101004", "SCT", "Present")
_ABSENT: Final = Code("2667000", "SCT", "Absent")
_INDETERMINATE: Final = Code("82334004", "SCT", "Indeterminate")
_CHEST_XRAY: Final = Code("399208008", "SCT", "Plain chest X-ray")
_CERTAINTY: Final = Code("111012", "DCM", "Certainty of Finding")
_PERCENT: Final = Code("%", "UCUM", "Percent")
_DECISION: Final = Code("decision", SCHEME, "Decision at the model's thresholds")
_INTENDED_USE: Final = Code("intended-use", SCHEME, "Intended use")
_RESEARCH: Final = Code("research", SCHEME, DISCLAIMER)
#: Attributes of patient and study that the standard requires, at least empty.
_REQUIRED: Final = (
    "PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID", "StudyDate",
    "StudyTime", "ReferringPhysicianName",
)  # fmt: skip
_READERS: Final[dict[str, Callable[[str], object]]] = {
    "PatientBirthDate": DA, "StudyDate": DA, "StudyTime": TM, "PatientSex": ("", "M", "F", "O").index,
}  # fmt: skip


def derive_uid(*parts: str) -> str:
    """Return the UID that belongs to these texts (PS3.5, B.2)."""
    digest = hashlib.sha256("\0".join(parts).encode()).digest()
    return f"2.25.{uuid.UUID(bytes=digest[:16], version=5).int}"


def encode_label(card: Card, label: str) -> Code:
    """Return the code of a finding: that of the card, else a known one, else one of Nightread's own."""
    code = card.codes.get(label) or KNOWN.get(label)
    return Code(code.value, code.scheme, code.meaning) if code else Code(label[:16], SCHEME, label)


def identify_report(card: Card, instances: Sequence[ScoredInstance]) -> str:
    """Return the SOP Instance UID of a study's report; no file is needed."""
    said = [
        f"{one.instance_uid} {one.sha256} {score.label} {score.score!r} {score.decision}"
        for one in instances
        for score in one.scores
    ]
    return derive_uid(_FORM, instances[0].study_uid, card.digest, *sorted(said))


def make_report(card: Card, instances: Sequence[ScoredInstance], images: Sequence[Dataset]) -> Dataset:
    """Return the report of a study.

    Args:
        card: of the model.
        instances: scored instances of one study.
        images: their data sets, without pixels, completed, in the same order; patient and study are copied from the
            first.
    """
    algorithm = AlgorithmIdentification(
        name=card.name,
        version=card.version,
        family=codes.cid7162.ArtificialIntelligence,
        parameters=[f"digest {card.digest}", f"preprocessing {card.preprocessing_version}"],
    )
    device = ObserverContext(
        observer_type=codes.DCM.Device,
        observer_identifying_attributes=DeviceObserverIdentifyingAttributes(
            uid=derive_uid("device", card.digest),
            name=MAKER,
            manufacturer_name=MAKER,
            model_name=card.reference,
            serial_number=__version__,
        ),
    )
    groups = [
        _describe(card, algorithm, one, image, score)
        for one, image in zip(instances, images, strict=True)
        for score in one.scores
    ]
    content = MeasurementReport(
        observation_context=ObservationContext(observer_device_context=device),
        procedure_reported=_CHEST_XRAY,
        imaging_measurements=groups,
        title=codes.DCM.ImagingMeasurementReport,
    )
    study = instances[0].study_uid
    report: Dataset = ComprehensiveSR(
        evidence=images,
        content=content,
        series_instance_uid=derive_uid("series", _FORM, study, card.digest),
        series_number=REPORT_SERIES,
        sop_instance_uid=identify_report(card, instances),
        instance_number=1,
        manufacturer=MAKER,
        is_complete=True,
        series_description=f"{MAKER}: {DISCLAIMER.lower()}",
        manufacturer_model_name=card.reference[:64],
        software_versions=__version__,
        device_serial_number=card.digest[:16],
    )
    report.CodingSchemeIdentificationSequence = [_describe_scheme()]
    set_time(report, max(one.scored_at for one in instances))
    return report


def complete(image: Dataset) -> Dataset:
    """Return a data set with every attribute that an object of its study must repeat.

    What has not the form of its attribute, such as a date of birth without a day, is left empty: no device that stores
    it otherwise must keep a report from its PACS.
    """
    for keyword in _REQUIRED:
        if keyword not in image:
            setattr(image, keyword, "")
    for keyword, read in _READERS.items():
        try:
            read(image[keyword].value or "")
        except (ValueError, TypeError, AttributeError):
            setattr(image, keyword, "")
    return image


def set_time(made: Dataset, moment: datetime) -> None:
    """Set the times of an object that is made here: those of its scores, UTC."""
    moment = moment.astimezone(UTC)
    date, time = f"{moment:%Y%m%d}", f"{moment:%H%M%S}"
    made.ContentDate = made.InstanceCreationDate = made.SeriesDate = date
    made.ContentTime = made.InstanceCreationTime = made.SeriesTime = time
    if "DateOfSecondaryCapture" in made:
        made.DateOfSecondaryCapture, made.TimeOfSecondaryCapture = date, time
    for equipment in made.get("ContributingEquipmentSequence", ()):
        equipment.ContributionDateTime = date + time


def encode(made: Dataset) -> bytes:
    """Return the bytes of a DICOM file."""
    buffer = BytesIO()
    made.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def _describe(
    card: Card, algorithm: AlgorithmIdentification, one: ScoredInstance, image: Dataset, score: LabelScore
) -> MeasurementsAndQualitativeEvaluations:
    decisions = {UNCERTAIN: _INDETERMINATE, score.label: _PRESENT}
    return MeasurementsAndQualitativeEvaluations(
        tracking_identifier=TrackingIdentifier(
            uid=derive_uid("finding", _FORM, one.instance_uid, one.sha256, card.digest, score.label),
            identifier=f"{score.label} by {card.reference}"[:64],
        ),
        finding_type=encode_label(card, score.label),
        algorithm_id=algorithm,
        measurements=[Measurement(name=_CERTAINTY, value=round(100 * score.score, 4), unit=_PERCENT)],
        qualitative_evaluations=[
            QualitativeEvaluation(name=_DECISION, value=decisions.get(score.decision, _ABSENT)),
            QualitativeEvaluation(name=_INTENDED_USE, value=_RESEARCH),
        ],
        source_images=[SourceImageForMeasurementGroup(image.SOPClassUID, image.SOPInstanceUID)],
    )


def _describe_scheme() -> Dataset:
    scheme = Dataset()
    scheme.CodingSchemeDesignator = SCHEME
    scheme.CodingSchemeName = "Nightread's own codes"
    scheme.CodingSchemeResponsibleOrganization = MAKER
    return scheme
