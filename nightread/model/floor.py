"""The floor of figures: a network below it goes into production only with a stated reason."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Final, TypeAlias

from pydantic import AfterValidator

#: Figures of a floor; of the last one, less is better.
ALLOWED: Final = ("auc", "sensitivity", "ece")
_LESS_IS_BETTER: Final = "ece"
#: AUC of a coin; an interval that reaches down to it shows nothing better.
CHANCE_AUC: Final = 0.5


@dataclass(frozen=True, slots=True)
class Floor:
    """The least AUC and sensitivity, and the greatest calibration error (ECE), of a network in production.

    Attributes:
        limits: by figure, each from 0 to 1.
    """

    limits: dict[str, float]

    @classmethod
    def read(cls, text: str) -> "Floor":
        """Return the floor of a setting such as `auc=0.8,ece=0.1`; "" is no floor.

        Raises:
            ValueError: a part is no figure with a limit.
        """
        limits = {}
        for part in filter(None, (part.strip() for part in text.split(","))):
            name, _, value = part.partition("=")
            try:
                limits[name.strip()] = float(value)
            except ValueError:
                limits[name.strip()] = -1.0
        if not all(name in ALLOWED and 0 <= limit <= 1 for name, limit in limits.items()):
            msg = f"a part is no limit; write FIGURE=NUMBER with {', '.join(ALLOWED)} and 0 to 1, such as auc=0.8"
            raise ValueError(msg)
        return cls(limits)

    def list_faults(self, figures: Mapping[str, float]) -> list[str]:
        """Return, in words, which figures are below the floor; an absent figure is none, except an absent AUC."""
        faults = [
            f"{show_figure(name)} {figures[name]:.3f} is {'above' if name == _LESS_IS_BETTER else 'below'} {limit:g}"
            for name, limit in self.limits.items()
            if name in figures and is_worse(name, figures[name], limit)
        ]
        if "auc" in self.limits and "auc" not in figures:
            faults.append("its card has no AUC")
        return faults


def is_worse(name: str, value: float, than: float) -> bool:
    """Return whether a figure is worse than another value of it."""
    return value > than if name == _LESS_IS_BETTER else value < than


def show_figure(name: str) -> str:
    """Return the name of a figure for people."""
    return name.upper() if name in {"auc", "ece"} else name


def check_floor(text: str) -> str:
    """Return the setting as it is, or raise ValueError as `Floor.read` does."""
    Floor.read(text)
    return text


#: The text of a setting that holds a floor.
FloorText: TypeAlias = Annotated[str, AfterValidator(check_floor)]
