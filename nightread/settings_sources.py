"""Where settings come from: a TOML file, a `.env` file, files of secrets, environment variables.

Each source wins over the one before. Values are literal: `${HOME}` in a file would copy a variable, perhaps a secret,
into a URL.
"""

import contextlib
import os
import tomllib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import platformdirs

from nightread.errors import SettingsError

PREFIX: Final = "NIGHTREAD_"
#: Names another file than the user's `.env`.
ENV_FILE_VARIABLE: Final = f"{PREFIX}ENV_FILE"
#: Names another file than the user's `settings.toml`.
SETTINGS_FILE_VARIABLE: Final = f"{PREFIX}SETTINGS_FILE"
ENVIRONMENT: Final = "environment"

_TOML_NAME: Final = "settings.toml"
_FILE_SUFFIX: Final = "_file"
#: In bytes.
_LARGEST_SECRET: Final = 65_536
_LARGEST_ENV_FILE: Final = 2**20


@dataclass(frozen=True, slots=True)
class FoundSetting:
    """A value as it was found.

    Attributes:
        value: text, or a value of TOML.
        source: "environment", or the path of a file.
        name: as written there.
    """

    value: object
    source: str
    name: str


def find_env_file() -> Path | None:
    """Return the `.env` file: the one that NIGHTREAD_ENV_FILE names, else the user's, else None.

    A `.env` in the current folder is not read: the current folder may be the scan folder.
    """
    return _find_file(ENV_FILE_VARIABLE, ".env")


def find_toml_file() -> Path | None:
    """Return the TOML file: the one that NIGHTREAD_SETTINGS_FILE names, else the user's, else None."""
    return _find_file(SETTINGS_FILE_VARIABLE, _TOML_NAME)


def find_user_folder() -> Path | None:
    """Return the folder of the user's settings files, there or not; None if the user has no home folder."""
    with contextlib.suppress(RuntimeError):
        return platformdirs.user_config_path("nightread")
    return None


def _find_file(variable: str, name: str) -> Path | None:
    if named := os.environ.get(variable):
        return Path(named)
    folder = find_user_folder()
    return folder / name if folder and (folder / name).is_file() else None


def find_ignored_env_file() -> Path | None:
    """Return the path of a `.env` in the current folder that holds settings and is not read, else None."""
    file = Path(".env")
    try:
        if not file.is_file() or file.resolve() in {found.resolve() for found in [find_env_file()] if found}:
            return None
        with file.open("rb") as opened:
            return file if PREFIX.encode() in opened.read(_LARGEST_ENV_FILE) else None
    except OSError:
        return None


def read_sources(secrets: Collection[str]) -> dict[str, FoundSetting]:
    """Return what all sources say, by name in small letters, unknown names included.

    Args:
        secrets: names of settings that a file of their own may hold, named by `NAME_FILE`.

    Raises:
        SettingsError: a file cannot be read.
    """
    found: dict[str, FoundSetting] = {}
    for read in (_read_toml, _read_env_file, _read_environment):
        found |= _open_secrets(read(), secrets)
    return found


def _read_toml() -> dict[str, FoundSetting]:
    file = find_toml_file()
    if file is None:
        return {}
    try:
        with file.open("rb") as opened:
            values = tomllib.load(opened)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise _refuse(file, error) from None
    return _collect(values, str(file), prefix="")


def _read_env_file() -> dict[str, FoundSetting]:
    file = find_env_file()
    if file is None:
        return {}
    from dotenv import dotenv_values

    try:
        # Opened here: python-dotenv takes a missing file for an empty one.
        with file.open(encoding="utf-8") as opened:
            return _collect(dotenv_values(stream=opened, interpolate=False), str(file))
    except (OSError, UnicodeDecodeError) as error:
        raise _refuse(file, error) from None


def _read_environment() -> dict[str, FoundSetting]:
    return _collect(os.environ, ENVIRONMENT)


def _collect(values: Mapping[str, object], source: str, prefix: str = PREFIX) -> dict[str, FoundSetting]:
    """Return settings by name; an empty one counts as not set: docker-compose passes `${NIGHTREAD_X:-}` like that.

    Blanks around a text are dropped: a Kubernetes secret often ends in a line break.
    """
    found = {}
    for name, value in values.items():
        tidy = value.strip() if isinstance(value, str) else value
        if name.upper().startswith(prefix) and tidy not in ("", [], None):
            found[name[len(prefix) :].lower()] = FoundSetting(tidy, source, name)
    return found


def _open_secrets(found: dict[str, FoundSetting], secrets: Collection[str]) -> dict[str, FoundSetting]:
    """Replace each `NAME_FILE` by NAME with the content of the file, as of a Docker secret."""
    for name in secrets:
        named = found.pop(name + _FILE_SUFFIX, None)
        if named is None:
            continue
        if name in found:
            raise SettingsError(f"{named.name} and {found[name].name} are both set: leave one of them out")
        file = Path(str(named.value))
        try:
            with file.open("rb") as opened:
                content = opened.read(_LARGEST_SECRET + 1)
            if len(content) > _LARGEST_SECRET:
                raise SettingsError(
                    f"{named.name}: {file} has more than {_LARGEST_SECRET} bytes, too many for a secret"
                )
            value = content.decode().strip()
        except (OSError, UnicodeDecodeError) as error:
            raise SettingsError(f"{named.name}: {_refuse(file, error)}") from None
        if not value:
            raise SettingsError(f"{named.name}: {file} is empty")
        found[name] = FoundSetting(value, str(file), named.name)
    return found


def _refuse(file: Path, error: Exception) -> SettingsError:
    if isinstance(error, OSError):
        cause = error.strerror or type(error).__name__
    elif isinstance(error, tomllib.TOMLDecodeError):
        cause = f"it is no TOML: {error}"  # names line and column, no value
    else:
        cause = "it is not UTF-8"
    return SettingsError(f"the settings file {file} cannot be read: {cause}")
