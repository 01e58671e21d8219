"""The card of a model bundle: the description of a network for workers, queries and readers."""

import math
from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated, Any, Final, Literal, Self

from pydantic import (
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    field_serializer,
    model_validator,
)

from nightread.model.finding_code import FindingCode
from nightread.model.floor import CHANCE_AUC
from nightread.scan.preprocessing import InputSpec, complete_input

Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
#: Of the name and the version of a bundle, which are folders, too.
NAME_PATTERN: Final = r"^[a-z0-9][a-z0-9._-]{0,63}$"
Name = Annotated[str, StringConstraints(pattern=NAME_PATTERN)]
Label = Annotated[str, StringConstraints(pattern=r"^[^\x00-\x1f]{1,64}$")]

#: The decision between a label's two thresholds.
UNCERTAIN = "uncertain"


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Threshold(_Part):
    """The thresholds of a label: present from `high` on, absent below `low`, `uncertain` between them."""

    low: Annotated[float, Field(gt=0, lt=1)]
    high: Annotated[float, Field(gt=0, lt=1)]

    @model_validator(mode="after")
    def _check_order(self) -> Self:
        if self.low > self.high:
            msg = f"low ({self.low}) is above high ({self.high})"
            raise ValueError(msg)
        return self


class Metric(_Part):
    """One figure with its 95 % confidence interval."""

    value: float
    low: float
    high: float


class Rates(_Part):
    """Sensitivity and specificity of a threshold on one part of the split."""

    sensitivity: Metric
    specificity: Metric


class OperatingPoint(_Part):
    """A named threshold for one use: scores from it on mean that the label is present.

    `chosen_on` holds the rates on the calibration part, on which the threshold was chosen, and `hold_out` those on the
    hold-out, which did not influence the choice.
    """

    threshold: Annotated[float, Field(gt=0, lt=1)]
    chosen_on: Rates
    hold_out: Rates


class Scaling(_Part):
    """Calibration of scores to probabilities (Platt 1999): `sigmoid(slope * logit + intercept)`, in the last layer.

    `ece_before` and `ece_after` are expected calibration errors on the hold-out.
    """

    slope: Annotated[float, Field(gt=0)]
    intercept: float
    scans: int
    patients: int
    ece_before: Metric
    ece_after: Metric


class Gate(_Part):
    """Limits of the input gate, fitted on the training scans; see `nightread.model.gate`.

    `max_distance` bounds the graph's output `distance`, the Mahalanobis distance of a scan's features from those of the
    training scans, scaled so that a typical training scan lies at 1. From `doubtful_distance` on, a scan is also
    measured inverted and rotated, unless the graph's output `placement` says that it is upright, and rejected if it is
    nearer that way. `false_rejection` is the share of hold-out
    scans that the gate rejects.
    """

    max_distance: Annotated[float, Field(gt=0)]
    doubtful_distance: Annotated[float, Field(gt=0)]
    max_aspect_ratio: Annotated[float, Field(gt=1)]
    false_rejection: Metric


class Reference(_Part):
    """Measurements of the hold-out, with which `nightread drift` compares runs.

    `quantiles` holds the 0, 1, ..., 100 % quantiles of each measurement over `scans` scans.
    """

    scans: Annotated[int, Field(gt=0)]
    rejected_share: Annotated[float, Field(ge=0, le=1)]
    quantiles: dict[str, Annotated[tuple[float, ...], Field(min_length=101, max_length=101)]]


class SamePixels(_Part):
    """Differences of scores between two file formats of equal scans; decisions use the card's thresholds."""

    scans: Annotated[int, Field(gt=0)]
    median_difference: float
    largest_difference: float
    decisions_changed: int


def _check_hyperparameter(value: Any) -> Any:
    """Refuse other kinds in one sentence; of a union, pydantic tells a fault for each member."""
    if not isinstance(value, str | int | float) or (isinstance(value, float) and not math.isfinite(value)):
        raise ValueError("the value is neither text nor a finite number")
    return value


class Training(_Part):
    """Origin of the network: data, split, hyperparameters and packages."""

    data_source: str
    license: str
    attribution: str
    split: str
    scans: dict[str, int]
    patients: dict[str, int]
    seed: int
    hyperparameters: dict[str, Annotated[str | int | float, BeforeValidator(_check_hyperparameter)]]
    packages: dict[str, str]


class Precision(StrEnum):
    """Number format in which a graph computes; its input and outputs are always float32."""

    FLOAT32 = "float32"
    FLOAT16 = "float16"
    INT8 = "int8"


#: Names of the outputs that a graph may have; scores come first, and the last three belong to the input gate.
SCORES: Final = "scores"
EMBEDDING: Final = "embedding"
ACTIVATION_MAP: Final = "activation_map"
DISTANCE: Final = "distance"
COMPONENTS: Final = "components"
PLACEMENT: Final = "placement"


class Output(_Part):
    """One output of the graph; `shape` is for one scan."""

    name: str
    shape: tuple[Annotated[int, Field(ge=1)], ...]
    description: str


class Conversion(_Part):
    """How the graph was converted, and its differences from the source network on the hold-out.

    `parity` is over `scans` scans, of which `files` were read from their files again. `source_auc` and `auc` are by
    label, for the source and the graph, if the training folder holds targets.
    """

    opset: int
    transposes: int
    parity: float
    scans: int
    files: int = 0
    decisions_changed: int
    source_auc: dict[str, float] = {}
    auc: dict[str, float] = {}
    calibration_scans: int = 0


class Card(_Part):
    """A model bundle's card, `card.json`.

    `digest` is the bundle's digest; see `nightread.model.bundle`. Unknown fields are refused, so that a misspelt
    threshold is not taken for a missing one. A new field has a default, so that older cards load, or increases
    `schema_version`. `metrics` describe the network as trained; `conversion` holds the graph's differences. Without
    `outputs`, the graph returns scores only. `codes` say what labels mean in SNOMED CT or RadLex.
    """

    schema_version: Literal[1] = 1
    digest: Sha256
    name: Name
    version: Name
    description: str
    created_at: AwareDatetime
    architecture: str
    labels: Annotated[tuple[Label, ...], Field(min_length=1)]
    activation: Literal["sigmoid", "softmax"]
    negative_decision: Label = "normal"
    thresholds: dict[str, Threshold]
    calibration: str
    input: InputSpec
    preprocessing_version: str
    files: dict[Literal["model.onnx", "parity.npz"], Sha256]
    parity_tolerance: Annotated[float, Field(gt=0, le=0.1)]
    training: Training
    metrics: dict[str, dict[str, Metric]]
    intended_use: str
    limitations: tuple[str, ...]
    population: str = ""
    not_tested: tuple[str, ...] = ()
    scaling: Scaling | None = None
    operating_points: dict[Label, dict[str, OperatingPoint]] = {}
    gate: Gate | None = None
    drift_reference: Reference | None = None
    same_pixels: dict[str, SamePixels] = {}
    precision: Precision = Precision.FLOAT32
    outputs: tuple[Output, ...] = ()
    conversion: Conversion | None = None
    codes: dict[Label, FindingCode] = {}

    _complete_input = model_validator(mode="before")(complete_input)

    @field_serializer("input")
    def _write_input(self, spec: InputSpec) -> dict[str, Any]:
        """Leave out the preprocessing version, which the card holds itself."""
        return spec.model_dump(mode="json", exclude={"preprocessing_version"})

    @model_validator(mode="after")
    def _check_labels(self) -> Self:
        if len(set(self.labels)) != len(self.labels):
            msg = "labels are not unique"
            raise ValueError(msg)
        if UNCERTAIN in self.labels or (self.activation == "sigmoid" and self.negative_decision in self.labels):
            msg = f"a label is called {UNCERTAIN} or {self.negative_decision}, which are names of decisions"
            raise ValueError(msg)
        if self.activation == "sigmoid" and set(self.thresholds) != set(self.labels):
            msg = f"thresholds are for {sorted(self.thresholds)}, labels are {sorted(self.labels)}"
            raise ValueError(msg)
        if self.activation == "softmax" and (self.thresholds or len(self.labels) < 2):
            msg = "softmax needs at least two labels and takes no thresholds: the highest score decides"
            raise ValueError(msg)
        if unknown := set(self.operating_points) - set(self.labels):
            msg = f"operating points are for {sorted(unknown)}, which are not labels"
            raise ValueError(msg)
        if unknown := set(self.codes) - set(self.labels):
            msg = f"codes are for {sorted(unknown)}, which are not labels"
            raise ValueError(msg)
        if self.outputs and self.outputs[0].shape != (len(self.labels),):
            msg = (
                f"the first output has shape {self.outputs[0].shape}; it must hold the scores of {len(self.labels)} "
                "labels"
            )
            raise ValueError(msg)
        return self

    @property
    def reference(self) -> str:
        """NAME@VERSION."""
        return f"{self.name}@{self.version}"

    @property
    def is_by_chance(self) -> bool:
        """Whether the AUC of the hold-out is no better than chance: its interval reaches down to 0.5."""
        auc = self.metrics.get("hold-out", {}).get("auc")
        return auc is not None and auc.low <= CHANCE_AUC

    def decide(self, scores: Sequence[float]) -> tuple[str, ...]:
        """Return the decision for each label, in label order.

        Args:
            scores: one score per label, in label order, each in [0, 1].

        Raises:
            ValueError: the number of scores is not the number of labels.
        """
        if len(scores) != len(self.labels):
            raise ValueError(f"{len(scores)} scores for {len(self.labels)} labels")
        if self.activation == "softmax":
            best = self.labels[max(range(len(scores)), key=scores.__getitem__)]
            return (best,) * len(scores)
        return tuple(self._decide_one(label, score) for label, score in zip(self.labels, scores, strict=True))

    def _decide_one(self, label: str, score: float) -> str:
        threshold = self.thresholds[label]
        if score >= threshold.high:
            return label
        return self.negative_decision if score < threshold.low else UNCERTAIN
