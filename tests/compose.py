"""Loading of docker-compose.yml as Compose does: anchors merged, variables substituted."""

import re
from typing import Any

import yaml

from tests.factories import ROOT

_VARIABLE = re.compile(r"\$\{(?P<name>\w+)(?:(?P<kind>:-|:\?)(?P<text>[^}]*))?\}")


class MissingVariableError(Exception):
    """A required variable is missing, so that Compose would refuse to start."""


def load_compose(environment: dict[str, str], file: str = "docker-compose.yml") -> dict[str, Any]:
    """Return a compose file with the variables in `environment` substituted.

    Raises:
        MissingVariableError: a variable without a default is missing or empty.
    """

    def fill_in(match: re.Match[str]) -> str:
        value = environment.get(match["name"], "")
        if not value and match["kind"] != ":-":
            raise MissingVariableError(match["name"])
        return value or match["text"]

    return yaml.safe_load(_VARIABLE.sub(fill_in, (ROOT / file).read_text()).replace("$$", "$"))


def list_variables(file: str = "docker-compose.yml") -> dict[str, str | None]:
    """Return the variables of a compose file with their defaults; None for required ones."""
    variables = {}
    for match in _VARIABLE.finditer((ROOT / file).read_text()):
        variables[match["name"]] = match["text"] if match["kind"] == ":-" else None
    return variables
