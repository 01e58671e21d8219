"""Where settings come from: a TOML file, a `.env` file, files of secrets, environment variables.

Each source wins over the one before. Values are literal: `${HOME}` in a file would copy a variable, perhaps a secret,
into a URL.
"""

import contextlib
import io
import os
import tomllib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import platformdirs

from nightread.errors import SettingsError
from nightread.regular_file import read_regular_file

PREFIX: Final = "NIGHTREAD_"
#: Names another file than the user's `.env`.
ENV_FILE_VARIABLE: Final = f"{PREFIX}ENV_FILE"
#: Names another file than the user's `settings.toml`.
SETTINGS_FILE_VARIABLE: Final = f"{PREFIX}SETTINGS_FILE"
ENVIRONMENT: Final = "environment"

_TOML_NAME: Final = "settings.toml"
_FILE_SUFFIX: Final = "_file"
#: In bytes.
_LARGEST_FILE: Final = 2**20
_LARGEST_SECRET: Final = 65_536


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
            return file if PREFIX.encode() in opened.read(_LARGEST_FILE) else None
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
        values = tomllib.loads(_read(file))
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, thousands of brackets
        raise SettingsError(f"the settings file {file} cannot be read: it is no TOML: {error}") from None
    return _collect(values, str(file), prefix="")


def _read_env_file() -> dict[str, FoundSetting]:
    file = find_env_file()
    if file is None:
        return {}
    from dotenv.parser import parse_stream

    values: dict[str, object] = {}
    for binding in parse_stream(io.StringIO(_read(file))):
        name = binding.key or ""
        # A line that is passed over is a setting that is not obeyed: the night would go into another database.
        if binding.error or (binding.value is None and name.upper().startswith(PREFIX)):
            text = binding.original.string
            line = binding.original.line + text[: -len(text.lstrip())].count("\n")
            raise SettingsError(f"the settings file {file} cannot be read: line {line} is not NAME=VALUE")
        values[name] = binding.value
    return _collect(values, str(file))


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
            value = _read(file, _LARGEST_SECRET).strip()
        except SettingsError as error:
            raise SettingsError(f"{named.name}: {error}") from None
        if not value:
            raise SettingsError(f"{named.name}: {file} is empty")
        found[name] = FoundSetting(value, str(file), named.name)
    return found


def _read(file: Path, most: int = _LARGEST_FILE) -> str:
    """Return the text of a file, without the byte order mark of an editor.

    Raises:
        SettingsError: it cannot be read, is too large, or not UTF-8.
    """
    try:
        # /dev/null stands for a file without settings.
        return "" if file == Path(os.devnull) else read_regular_file(file, most).decode("utf-8-sig")
    except UnicodeDecodeError:
        cause = "it is not UTF-8"
    except OSError as error:
        cause = error.strerror or type(error).__name__
    raise SettingsError(f"the settings file {file} cannot be read: {cause}")
