"""Settings: environment variables `NIGHTREAD_*` and the user's `.env` file, read once at the start of a process."""

# Not pydantic-settings: it would replace `_read_environment` alone (15 lines), import 80 more modules (asyncio, ssl and
# argparse among them) and add a dependency. Measured with compiled modules on two cores, minimum of 12 to 15 starts in
# turn: reading settings takes 0.26 s of CPU instead of 0.19, and a command such as `status` 0.54 s instead of 0.49.

import contextlib
import os
import re
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Final, Self

import platformdirs
from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator, model_validator

from nightread import failpoints
from nightread.errors import SettingsError
from nightread.scan.acquisition import MODALITIES, RADIOGRAPHS, Accepted

_PREFIX: Final = "NIGHTREAD_"
#: Names another file than the user's `.env`.
ENV_FILE_VARIABLE: Final = f"{_PREFIX}ENV_FILE"
_LARGEST_ENV_FILE: Final = 2**20
#: Accession numbers are short: a weak key could be found by trying them all.
_SHORTEST_KEY: Final = 16
_SCHEME = re.compile(r"([a-z][a-z0-9+.-]{0,31})://")

#: The default: no broker that other processes reach.
IN_PROCESS_BROKER = "memory://localhost//"


class Device(StrEnum):
    """Device for inference."""

    AUTO = "auto"  # CUDA if it is active, else the CPU; the log says which
    CPU = "cpu"
    CUDA = "cuda"  # refuses to start if CUDA is not active


class LogFormat(StrEnum):
    """Format of log lines."""

    TEXT = "text"
    JSON = "json"


def _find_data_folder() -> Path:
    try:
        return platformdirs.user_data_path("nightread")
    except RuntimeError:
        raise SettingsError(
            "this user has no home folder: set HOME, or NIGHTREAD_DATABASE_URL and NIGHTREAD_MODELS_DIR"
        ) from None


def find_env_file() -> Path | None:
    """Return the file with further settings: the one that NIGHTREAD_ENV_FILE names, else the user's, else None.

    A `.env` in the current folder is not read: the current folder may be the scan folder.
    """
    if named := os.environ.get(ENV_FILE_VARIABLE):
        return Path(named)
    with contextlib.suppress(RuntimeError):  # this user has no home folder
        file = platformdirs.user_config_path("nightread") / ".env"
        return file if file.is_file() else None
    return None


def find_ignored_env_file() -> Path | None:
    """Return the path of a `.env` in the current folder that holds settings and is not read, else None."""
    file = Path(".env")
    try:
        if not file.is_file() or file.resolve() in {found.resolve() for found in [find_env_file()] if found}:
            return None
        with file.open("rb") as opened:
            return file if _PREFIX.encode() in opened.read(_LARGEST_ENV_FILE) else None
    except OSError:
        return None


class Settings(BaseModel):
    """Settings of a process; `read_settings` creates them from the environment."""

    model_config = ConfigDict(extra="ignore", frozen=True, validate_default=True)

    database_url: SecretStr = Field(
        default_factory=lambda: SecretStr(f"sqlite:///{_find_data_folder() / 'nightread.db'}"),
        description="SQLAlchemy URL of the results database; SQLite or PostgreSQL",
    )
    broker_url: SecretStr = Field(
        SecretStr(IN_PROCESS_BROKER), description="Celery broker: redis://, rediss://, or memory:// (this process only)"
    )
    model: str = Field(
        "", description="model of new runs, NAME[@VERSION]; empty: the production model, else the shipped bundle"
    )
    models_dir: Path = Field(
        default_factory=lambda: _find_data_folder() / "models",
        description="folder of model bundles, <name>/<version>/",
    )
    scan_roots: tuple[Path, ...] = Field(
        (),
        description="folders below which jobs may read, separated by ':'; empty: the paths of the run",
    )
    device: Device = Field(Device.AUTO, description="auto, cpu or cuda")
    batch_size: int = Field(32, ge=1, le=1024, description="scans in one session.run()")
    job_size: int = Field(64, ge=1, le=10_000, description="maximum number of scans in one job")
    lease_s: float = Field(
        120.0,
        ge=1.0,
        le=86_400.0,
        description="seconds after which a silent worker loses its job; leases are renewed four times as often",
    )
    sweep_s: float = Field(60.0, ge=0.1, le=3600.0, description="maximum seconds between two sweeps of a process")
    max_attempts: int = Field(
        3,
        ge=1,
        le=100,
        description="crashes or transient faults of one job before it is split or fails",
    )
    queue_high_water: int = Field(64, ge=1, description="waiting messages above which no more are published")
    max_pixels: int = Field(40_000_000, ge=1, description="largest width x height of a scan that is decoded")
    decode_limit_s: float = Field(
        60.0, ge=1.0, le=600.0, description="time limit for decoding one scan, in seconds; beyond it that scan fails"
    )
    gate: bool = Field(True, description="whether scans that the input gate rejects get no score")
    modalities: str = Field(
        ",".join(sorted(RADIOGRAPHS.modalities)),
        description=f"DICOM modalities that are read, separated by ','; allowed are {', '.join(MODALITIES)}",
    )
    for_processing: bool = Field(False, description="whether raw detector values (FOR PROCESSING) are read")
    accession_key: SecretStr = Field(
        SecretStr(""),
        description="secret key of the stored hash of accession numbers, at least 16 characters; empty: none is stored",
    )
    max_file_bytes: int = Field(256 * 2**20, ge=1, description="largest file that is read, in bytes")
    threads: int = Field(
        0,
        ge=0,
        le=256,
        description="threads of a worker process, or forks of `score`; 0: one per core",
    )
    log_format: LogFormat = Field(LogFormat.TEXT, description="text or json")
    log_level: str = Field("INFO", pattern="^(DEBUG|INFO|WARNING|ERROR)$", description="DEBUG, INFO, WARNING or ERROR")

    @field_validator("scan_roots", mode="before")
    @classmethod
    def _split_roots(cls, value: object) -> object:
        return [part for part in value.split(":") if part] if isinstance(value, str) else value

    @field_validator("modalities")
    @classmethod
    def _check_modalities(cls, value: str) -> str:
        modalities = [part.strip().upper() for part in value.split(",")]
        if not set(modalities) <= set(MODALITIES):
            msg = f"a modality is unknown or missing; allowed are {', '.join(MODALITIES)}, separated by ','"
            raise ValueError(msg)
        return ",".join(modalities)

    @field_validator("accession_key")
    @classmethod
    def _check_accession_key(cls, key: SecretStr) -> SecretStr:
        if 0 < len(key.get_secret_value()) < _SHORTEST_KEY:
            msg = f"the key has fewer than {_SHORTEST_KEY} characters: create one with `openssl rand -hex 32`"
            raise ValueError(msg)
        return key

    @field_validator("scan_roots")
    @classmethod
    def _resolve_roots(cls, roots: tuple[Path, ...]) -> tuple[Path, ...]:
        return tuple(_expand_home(root).resolve() for root in roots)

    @field_validator("models_dir")
    @classmethod
    def _expand_models_dir(cls, folder: Path) -> Path:
        return _expand_home(folder)

    @field_validator("database_url")
    @classmethod
    def _check_database_url(cls, url: SecretStr) -> SecretStr:
        scheme = _read_scheme(url)
        if scheme.partition("+")[0] not in {"sqlite", "postgresql"}:
            msg = f"the scheme is {scheme or 'missing'}; allowed are sqlite:///FILE and postgresql://USER@HOST/DATABASE"
            raise ValueError(msg)
        return url

    @field_validator("broker_url")
    @classmethod
    def _check_broker_url(cls, url: SecretStr) -> SecretStr:
        scheme = _read_scheme(url)
        if scheme not in {"redis", "rediss", "redis+socket", "memory"}:
            msg = (
                f"the scheme is {scheme or 'missing'}; allowed are redis://HOST:PORT/0, rediss:// (TLS), "
                "redis+socket:///FILE, memory://"
            )
            raise ValueError(msg)
        return url

    @model_validator(mode="after")
    def _check_times(self) -> Self:
        if self.sweep_s > self.lease_s * 10:
            msg = f"sweep_s ({self.sweep_s:g}) is over ten times lease_s ({self.lease_s:g}): lost jobs wait too long"
            raise ValueError(msg)
        return self

    @property
    def accepted(self) -> Accepted:
        """Which DICOM instances are accepted as radiographs."""
        return Accepted(frozenset(self.modalities.split(",")), self.for_processing)

    @property
    def has_shared_broker(self) -> bool:
        """Whether other processes reach the broker."""
        return not self.broker_url.get_secret_value().startswith("memory:")


def _read_scheme(url: SecretStr) -> str:
    """Return the part before "://", or "" if it is no scheme: it may be a password."""
    match = _SCHEME.match(url.get_secret_value())
    return match[1] if match else ""


def _expand_home(folder: Path) -> Path:
    try:
        return folder.expanduser()
    except RuntimeError:
        raise ValueError("the home folder of that user is unknown; write the full path") from None


def read_settings(**overrides: object) -> Settings:
    """Read the settings: overrides come before the environment, and the environment before the `.env` file.

    Args:
        overrides: settings by field name, as from the command line; None means not given.

    Raises:
        SettingsError: one message that names every wrong setting, its variable and the allowed values.
        TypeError: there is no setting of that name.
    """
    if unknown := overrides.keys() - Settings.model_fields.keys():
        raise TypeError(f"there are no settings {', '.join(sorted(unknown))}")
    given = {name: value for name, value in overrides.items() if value is not None}
    faults = _find_failpoint_faults()
    try:
        settings = Settings.model_validate(_read_environment() | given)
    except ValidationError as error:
        faults += [
            f"{_PREFIX}{'_'.join(str(part) for part in fault['loc'][:1]).upper() or 'SETTINGS'}: "
            f"{fault['msg'].removeprefix('Value error, ')}"
            for fault in error.errors(include_input=False, include_url=False)
        ]
    except (OSError, UnicodeDecodeError) as error:
        cause = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise SettingsError(f"the settings file {find_env_file()} cannot be read: {cause}") from None
    else:
        if not faults:
            return settings
    raise SettingsError("wrong settings: " + "; ".join(faults))


def _read_environment() -> dict[str, object]:
    """Return the values of the `.env` file and of the environment, which wins, by field name.

    An empty variable counts as not set: docker-compose passes `${NIGHTREAD_X:-}` like that.
    """
    sources: list[Mapping[str, str | None]] = [os.environ]
    if file := find_env_file():
        from dotenv import dotenv_values

        # Opened here: python-dotenv takes a missing file for an empty one. Values are literal: `${HOME}` in a file
        # would copy a variable, perhaps a secret, into a URL.
        with file.open(encoding="utf-8") as opened:
            sources.insert(0, dotenv_values(stream=opened, interpolate=False))
    return {
        name[len(_PREFIX) :].lower(): value
        for source in sources
        for name, value in source.items()
        if value and name.upper().startswith(_PREFIX)
    }


def _find_failpoint_faults() -> list[str]:
    """Return the faults of the failpoints, which are read before the settings."""
    faults = []
    try:
        failpoints.parse(os.environ.get(failpoints.VARIABLE, ""))
    except ValueError as error:
        faults.append(f"{failpoints.VARIABLE}: {error}")
    folder = os.environ.get(failpoints.FOLDER_VARIABLE)
    if folder and not Path(folder).is_dir():
        faults.append(f"{failpoints.FOLDER_VARIABLE}: there is no folder {folder}; make it")
    return faults


def check_roots(settings: Settings) -> None:
    """Check that the roots are folders.

    Raises:
        SettingsError: names each root that is none.
    """
    missing = [str(root) for root in settings.scan_roots if not root.is_dir()]
    if missing:
        raise SettingsError(
            f"NIGHTREAD_SCAN_ROOTS: no such folder: {', '.join(missing)}; mount it, or correct the setting"
        )


def check_shared_broker(settings: Settings, command: str) -> None:
    """Check that other processes can take the jobs of `command`.

    Raises:
        SettingsError: the broker lives in one process; the message names the setting.
    """
    if not settings.has_shared_broker:
        raise SettingsError(
            f"`{command}` needs a broker that workers share: set NIGHTREAD_BROKER_URL=redis://HOST:6379/0, "
            "or use `nightread score`, which needs none"
        )
