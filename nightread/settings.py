"""Settings, read once at the start of a process; `nightread.settings_sources` has the places where they are found."""

# Not pydantic-settings: it would replace `settings_sources` alone, without the names of the sources, import 80 more
# modules (asyncio, ssl and argparse among them) and add a dependency. Measured with compiled modules on two cores,
# minimum of 12 to 15 starts in turn: reading settings takes 0.26 s of CPU instead of 0.19, and a command such as
# `status` 0.54 s instead of 0.49.

import logging
import os
from collections.abc import Mapping
from difflib import get_close_matches
from enum import StrEnum
from pathlib import Path
from typing import Final, Literal, Self

import platformdirs
from pydantic import ConfigDict, Field, SecretStr, ValidationError, field_validator, model_validator

from nightread import failpoints
from nightread.errors import SettingsError, WrongValue
from nightread.model.floor import FloorText
from nightread.page_settings import PageSettings
from nightread.scan.acquisition import MODALITIES, RADIOGRAPHS, Accepted
from nightread.scan.object_address import is_address, split_roots
from nightread.scan.path_map import PathMap
from nightread.settings_addresses import check_broker_url, check_database_url
from nightread.settings_faults import explain_faults
from nightread.settings_sources import (
    ENV_FILE_VARIABLE,
    ENVIRONMENT,
    PREFIX,
    SETTINGS_FILE_VARIABLE,
    FoundSetting,
    read_sources,
)

_log = logging.getLogger(__name__)

#: Variables with the prefix that are no settings; those of the tests begin with TEST.
_OTHER_VARIABLES: Final = (
    failpoints.VARIABLE, failpoints.FOLDER_VARIABLE, ENV_FILE_VARIABLE, SETTINGS_FILE_VARIABLE,
)  # fmt: skip
_OF_TESTS: Final = "test_"
#: Unknown names that this process has warned of.
_warned: set[str] = set()

#: Accession numbers are short: a weak key could be found by trying them all.
_SHORTEST_KEY: Final = 16

#: The default: no broker that other processes reach.
IN_PROCESS_BROKER = "memory://localhost//"


class Device(StrEnum):
    """Device for inference."""

    AUTO = "auto"  # CUDA if it is active, else the CPU; the log says which
    CPU = "cpu"
    CUDA = "cuda"  # refuses to start if CUDA is not active


class LogLevel(StrEnum):
    """Least severe log lines that are written."""

    DEBUG = "DEBUG"
    INFO = "INFO"
    WARNING = "WARNING"
    ERROR = "ERROR"


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


class Settings(PageSettings):
    """Settings of a process; `read_settings` creates them from the environment."""

    model_config = ConfigDict(extra="ignore", frozen=True, validate_default=True, allow_inf_nan=False)

    database_url: SecretStr = Field(
        default_factory=lambda: SecretStr(f"sqlite:///{_find_data_folder() / 'nightread.db'}"),
        description="SQLAlchemy URL of the results database; SQLite or PostgreSQL",
    )
    broker_url: SecretStr = Field(
        SecretStr(IN_PROCESS_BROKER),
        description="Celery broker: redis://, rediss://, sentinel://, or memory:// (this process only)",
    )
    model: str = Field(
        "", description="model of new runs, NAME[@VERSION]; empty: the production model, else the shipped bundle"
    )
    promote_floor: FloorText = Field("auc=0.8,sensitivity=0.8,ece=0.1", description="hold-out figures of a promotion")
    models_dir: Path = Field(
        default_factory=lambda: _find_data_folder() / "models",
        description="folder of model bundles, <name>/<version>/",
    )
    scan_roots: tuple[Path, ...] = Field(
        (),
        description="folders and s3://BUCKET/PREFIX below which jobs may read, between ':'; empty: the run's paths",
    )
    path_map: str = Field(
        "",
        description="folders that this host calls otherwise than the others do: SHARED=LOCAL, separated by ':'",
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
    queue_high_water: int = Field(
        64, ge=1, le=1_000_000, description="waiting messages above which no more are published"
    )
    max_pixels: int = Field(40_000_000, ge=1, description="largest width x height of a scan that is decoded")
    decode_limit_s: float = Field(
        60.0, ge=1.0, le=600.0, description="time limit for decoding one scan, in seconds; beyond it that scan fails"
    )
    isolate: Literal["suspect", "dicom", "all"] = Field(
        "suspect", description="scans decoded in a sandbox from the start: suspect ones only, all DICOM, or all"
    )
    gate: bool = Field(True, description="whether scans that the input gate rejects get no score")
    archives: bool = Field(False, description="whether scans in zip and tar archives are read")
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
    threads: int = Field(0, ge=0, le=256, description="threads of a worker, or forks of `score`; 0: one per core")
    notify_urls: SecretStr = Field(SecretStr(""), description="addresses of notices, as apprise writes them, by blanks")
    notify_on: Literal["end", "guard"] = Field("end", description="end: each run; guard: those that tripped one")
    notify_details: bool = Field(False, description="whether notices hold names of runs and paths of folders")
    log_format: LogFormat = Field(LogFormat.TEXT, description="text or json")
    log_level: LogLevel = Field(LogLevel.INFO, description="DEBUG, INFO, WARNING or ERROR")

    @field_validator("scan_roots", mode="before")
    @classmethod
    def _split_roots(cls, value: object) -> object:
        if isinstance(value, list) and "" in value:
            raise ValueError("a folder is empty; it would be the current one")
        return split_roots(value) if isinstance(value, str) else value

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
        return tuple(root if is_address(root) else _expand_home(root).resolve() for root in roots)

    @field_validator("path_map")
    @classmethod
    def _check_path_map(cls, value: str) -> str:
        PathMap.read(value)
        return value

    @field_validator("models_dir")
    @classmethod
    def _expand_models_dir(cls, folder: Path) -> Path:
        return _expand_home(folder)

    @field_validator("database_url")
    @classmethod
    def _check_database_url(cls, url: SecretStr) -> SecretStr:
        check_database_url(url.get_secret_value())
        return url

    @field_validator("broker_url")
    @classmethod
    def _check_broker_url(cls, url: SecretStr) -> SecretStr:
        check_broker_url(url.get_secret_value())
        return url

    @model_validator(mode="after")
    def _check_times(self) -> Self:
        if self.sweep_s > self.lease_s * 10:
            raise ValueError(
                f"NIGHTREAD_SWEEP_S ({self.sweep_s:g}) is over ten times NIGHTREAD_LEASE_S ({self.lease_s:g}): lost "
                "jobs wait too long"
            )
        return self

    @property
    def accepted(self) -> Accepted:
        """Which DICOM instances are accepted as radiographs."""
        return Accepted(frozenset(self.modalities.split(",")), self.for_processing)

    @property
    def local_paths(self) -> PathMap:
        """Names of folders on this host."""
        return PathMap.read(self.path_map)

    @property
    def has_shared_broker(self) -> bool:
        """Whether other processes reach the broker."""
        return not self.broker_url.get_secret_value().startswith("memory:")


#: Settings that a file of their own may hold, named by NIGHTREAD_<NAME>_FILE; no message shows their values.
SECRETS: Final = tuple(name for name, field in Settings.model_fields.items() if field.annotation is SecretStr)


def _expand_home(folder: Path) -> Path:
    try:
        return folder.expanduser()
    except RuntimeError:
        raise ValueError("the home folder of that user is unknown; write the full path") from None


def read_settings(**overrides: object) -> Settings:
    """Read the settings: overrides come before the environment, that before the `.env` file, that before TOML.

    A name that is no setting is warned of.

    Args:
        overrides: settings by field name, as from the command line; None means not given.

    Raises:
        SettingsError: one message that names every wrong setting, its variable and the allowed values; a WrongValue
            where all of them are overrides.
        TypeError: there is no setting of that name.
    """
    return read_sourced_settings(**overrides)[0]


def read_sourced_settings(**overrides: object) -> tuple[Settings, dict[str, str]]:
    """Read the settings as `read_settings` does; returns them with the source of each that is not the default."""
    if unknown := overrides.keys() - Settings.model_fields.keys():
        raise TypeError(f"there are no settings {', '.join(sorted(unknown))}")
    found = read_sources(SECRETS)
    _warn_of_unknown(found)
    given = {name: value for name, value in overrides.items() if value is not None}
    values = {name: one.value for name, one in found.items() if name in Settings.model_fields} | given
    faults, kind = _find_failpoint_faults(), SettingsError
    try:
        settings = Settings.model_validate(values)
    except ValidationError as error:
        if not faults and all(fault["loc"] and fault["loc"][0] in given for fault in error.errors()):
            kind = WrongValue
        visible = {name: field for name, field in Settings.model_fields.items() if name not in SECRETS}
        faults += explain_faults(error, visible, {name: one for name, one in found.items() if name not in given})
    else:
        if not faults:
            sources = {name: "command line" if name in given else found[name].source for name in values}
            return settings, sources
    raise kind("wrong settings: " + "; ".join(faults))


def _warn_of_unknown(found: Mapping[str, FoundSetting]) -> None:
    known = [*Settings.model_fields, *(f"{name}_file" for name in SECRETS)]
    others = {name[len(PREFIX) :].lower() for name in _OTHER_VARIABLES}
    for name, one in found.items():
        if name in known or name in others or name.startswith(_OF_TESTS) or name in _warned:
            continue
        _warned.add(name)
        where = "" if one.source == ENVIRONMENT else f" in {one.source}"
        hint = "`nightread config` lists all settings"
        if isinstance(one.value, dict):
            hint = "settings stand at the top of the file, not in tables"
        elif near := get_close_matches(
            name.removeprefix(PREFIX.lower()), known, n=1
        ):  # a TOML file has names without the prefix
            hint = f"did you mean {near[0] if one.name.lower() == name else PREFIX + near[0].upper()}?"
        _log.warning("%s%s is no setting and has no effect; %s", one.name[:60], where, hint)


def _find_failpoint_faults() -> list[str]:
    """Return the faults of the failpoints, which are read before the settings."""
    faults = []
    try:
        failpoints.check(os.environ.get(failpoints.VARIABLE, ""))
    except ValueError as error:
        faults.append(f"{failpoints.VARIABLE}: {error}")
    folder = os.environ.get(failpoints.FOLDER_VARIABLE)
    if folder and not Path(folder).is_dir():
        faults.append(f"{failpoints.FOLDER_VARIABLE}: there is no folder {folder}; make it")
    return faults


def check_roots(settings: Settings) -> None:
    """Check that the roots are folders; an address in object storage is one as long as nobody reads it.

    Raises:
        SettingsError: names each root that is none.
    """
    missing = [str(root) for root in settings.scan_roots if not is_address(root) and not root.is_dir()]
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
        instead = ", or use `nightread score`, which needs none" if command == "enqueue" else ""
        raise SettingsError(
            f"`{command}` needs a broker that workers share: set NIGHTREAD_BROKER_URL=redis://HOST:6379/0{instead}"
        )
