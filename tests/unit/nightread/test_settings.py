import os
from pathlib import Path

import pytest

from nightread.errors import SettingsError
from nightread.settings import Device, LogFormat, Settings, find_ignored_env_file, read_settings


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch):
    for name in [name for name in os.environ if name.startswith("NIGHTREAD_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def env_file(tmp_path):
    """The user's `.env`, not yet written."""
    file = tmp_path / "config-home" / "nightread" / ".env"
    file.parent.mkdir(parents=True)
    return file


def faults(**environment):
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(f"NIGHTREAD_{name}", value)
        with pytest.raises(SettingsError) as caught:
            read_settings()
    return str(caught.value)


def test_the_defaults_need_no_server():
    settings = read_settings()

    assert settings.database_url.get_secret_value().startswith("sqlite:///")
    assert settings.has_shared_broker is False
    assert settings.device is Device.AUTO


def test_every_setting_can_be_given_by_its_variable(monkeypatch):
    values = {
        "DATABASE_URL": "postgresql://user:pw@host/db", "BROKER_URL": "rediss://:pw@host:6379/0", "MODEL": "a@1",
        "MODELS_DIR": "/models", "SCAN_ROOTS": "/a:/b", "DEVICE": "cuda", "BATCH_SIZE": "8", "JOB_SIZE": "9",
        "LEASE_S": "50", "SWEEP_S": "5", "MAX_ATTEMPTS": "4", "QUEUE_HIGH_WATER": "7",
        "MAX_PIXELS": "100", "MAX_FILE_BYTES": "200", "DECODE_LIMIT_S": "9", "GATE": "false",
        "MODALITIES": "cr, DX,DR", "FOR_PROCESSING": "true", "ACCESSION_KEY": "k" * 16,
        "THREADS": "2", "LOG_FORMAT": "json", "LOG_LEVEL": "DEBUG",
    }  # fmt: skip
    assert {name.lower() for name in values} == set(Settings.model_fields)
    for name, value in values.items():
        monkeypatch.setenv(f"NIGHTREAD_{name}", value)

    settings = read_settings()

    assert settings.scan_roots == (Path("/a"), Path("/b"))
    assert settings.log_format is LogFormat.JSON
    assert settings.has_shared_broker
    assert (settings.batch_size, settings.lease_s, settings.max_pixels) == (8, 50, 100)
    assert settings.decode_limit_s == 9


def test_overrides_win_over_the_environment_and_that_over_the_env_file(monkeypatch, env_file):
    env_file.write_text(
        "NIGHTREAD_BATCH_SIZE=1\nNIGHTREAD_JOB_SIZE=1\nNIGHTREAD_THREADS=1\nOTHER=x\n", encoding="utf-8"
    )
    monkeypatch.setenv("NIGHTREAD_JOB_SIZE", "2")
    monkeypatch.setenv("NIGHTREAD_THREADS", "2")

    settings = read_settings(threads=3, model=None)

    assert (settings.batch_size, settings.job_size, settings.threads, settings.model) == (1, 2, 3, "")


def test_an_env_file_in_the_current_folder_is_not_read(env_file):
    Path(".env").write_text("NIGHTREAD_BATCH_SIZE=1\n")
    assert read_settings().batch_size == 32
    assert find_ignored_env_file() == Path(".env")
    Path(".env").write_text("COMPOSE_PROJECT_NAME=x\n")
    assert find_ignored_env_file() is None


def test_a_named_env_file_replaces_that_of_the_user(monkeypatch, env_file, tmp_path):
    env_file.write_text("NIGHTREAD_BATCH_SIZE=1\nNIGHTREAD_JOB_SIZE=1\n")
    (tmp_path / ".env").write_text("NIGHTREAD_BATCH_SIZE=2\n")
    monkeypatch.setenv("NIGHTREAD_ENV_FILE", str(tmp_path / ".env"))
    settings = read_settings()
    assert (settings.batch_size, settings.job_size) == (2, 64)
    assert find_ignored_env_file() is None


def test_a_named_env_file_that_is_missing_is_an_error(monkeypatch, tmp_path):
    monkeypatch.setenv("NIGHTREAD_ENV_FILE", str(tmp_path / "gone"))
    with pytest.raises(SettingsError, match="gone cannot be read: No such file"):
        read_settings()


def test_values_of_the_env_file_are_literal(monkeypatch, env_file):
    monkeypatch.setenv("SECRET", "hunter2")
    env_file.write_text("NIGHTREAD_BROKER_URL=redis://:${SECRET}@host/0\n")
    assert read_settings().broker_url.get_secret_value() == "redis://:${SECRET}@host/0"


def test_without_a_home_folder_nothing_is_looked_for_in_the_current_one(monkeypatch):
    """A container's user may have none: the folders would be "~/.config" and "~/.local/share" in the current folder."""
    for name in ("HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    Path("~/.config/nightread").mkdir(parents=True)
    Path("~/.config/nightread/.env").write_text("NIGHTREAD_BATCH_SIZE=1\n")
    with pytest.raises(SettingsError, match="no home folder: set HOME"):
        read_settings()
    assert read_settings(database_url="sqlite:////tmp/x.db", models_dir="/models").batch_size == 32


def test_an_empty_variable_is_not_set(monkeypatch):
    monkeypatch.setenv("NIGHTREAD_DATABASE_URL", "")
    monkeypatch.setenv("NIGHTREAD_BATCH_SIZE", "")

    assert read_settings().batch_size == 32


def test_every_fault_is_named_at_once():
    message = faults(
        BATCH_SIZE="0", DEVICE="gpu", LEASE_S="soon", LOG_LEVEL="LOUD", DATABASE_URL="mysql://h", BROKER_URL="x"
    )

    for name in ("BATCH_SIZE", "DEVICE", "LEASE_S", "LOG_LEVEL", "DATABASE_URL", "BROKER_URL"):
        assert f"NIGHTREAD_{name}:" in message
    assert "'auto', 'cpu' or 'cuda'" in message
    assert "\n" not in message


@pytest.mark.parametrize("name", ["DATABASE_URL", "BROKER_URL"])
@pytest.mark.parametrize(
    "value", ["hunter2", "hunter2:hunter2@host/db", "mysql://user:hunter2@host/db", "://hunter2", "Hunter2://x"]
)
def test_no_message_shows_a_password(name, value):
    message = faults(**{name: value})

    assert "hunter2" not in message.lower()
    assert f"NIGHTREAD_{name}: the scheme is" in message


def test_no_representation_shows_a_password(monkeypatch):
    monkeypatch.setenv("NIGHTREAD_DATABASE_URL", "postgresql://user:hunter2@host/db")
    monkeypatch.setenv("NIGHTREAD_BROKER_URL", "redis://:hunter2@host/0")
    settings = read_settings()

    for shown in (repr(settings), str(settings), settings.model_dump_json(), str(settings.model_dump())):
        assert "hunter2" not in shown
    assert "hunter2" not in faults(BATCH_SIZE="x", DATABASE_URL="postgresql://user:hunter2@host/db")


def test_a_wrong_scheme_is_named_with_those_allowed():
    assert "the scheme is mysql; allowed are sqlite:///FILE" in faults(DATABASE_URL="mysql://host/db")
    assert "the scheme is amqp; allowed are redis://" in faults(BROKER_URL="amqp://host")


@pytest.mark.parametrize("url", ["sqlite:////tmp/x.db", "postgresql://h/d", "postgresql+psycopg://h/d"])
def test_allowed_database_urls(url):
    assert read_settings(database_url=url).database_url.get_secret_value() == url


@pytest.mark.parametrize(
    ("url", "is_shared"),
    [("memory://", False), ("redis://h:1/0", True), ("rediss://h", True), ("redis+socket:///run/redis.sock", True)],
)
def test_allowed_broker_urls(url, is_shared):
    assert read_settings(broker_url=url).has_shared_broker is is_shared


def test_a_sweep_much_longer_than_the_lease_is_refused():
    assert "ten times lease_s" in faults(SWEEP_S="3000", LEASE_S="10")


@pytest.mark.parametrize("value", ["nan", "inf", "-1"])
def test_times_are_finite_and_positive(value):
    assert "NIGHTREAD_LEASE_S" in faults(LEASE_S=value)


def test_roots_are_resolved_and_empty_parts_left_out(monkeypatch, tmp_path):
    (tmp_path / "scans").mkdir()
    (tmp_path / "link").symlink_to("scans")
    monkeypatch.setenv("NIGHTREAD_SCAN_ROOTS", f":link:{tmp_path}/scans/../scans:")

    assert read_settings().scan_roots == (tmp_path.resolve() / "scans",) * 2


def test_the_home_folder_is_written_as_a_tilde(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NIGHTREAD_MODELS_DIR", "~/models")

    assert read_settings().models_dir == tmp_path / "models"
    assert "NIGHTREAD_SCAN_ROOTS: the home folder" in faults(SCAN_ROOTS="~no-such-user-here/scans")


@pytest.mark.parametrize("content", [b"NIGHTREAD_MODEL=\xff\xfe", None], ids=["not-utf-8", "unreadable"])
def test_an_unreadable_env_file_is_an_error(monkeypatch, content, env_file):
    env_file.write_bytes(content or b"NIGHTREAD_BATCH_SIZE=hunter2")
    if content is None:
        monkeypatch.setattr(Path, "open", lambda *args, **kwargs: _deny())

    with pytest.raises(SettingsError, match=r"\.env") as caught:
        read_settings()
    assert "hunter2" not in str(caught.value)


def _deny():
    raise PermissionError(13, "Permission denied")


def test_an_unknown_override_is_a_type_error():
    with pytest.raises(TypeError, match="bach_size"):
        read_settings(bach_size=3)


def test_settings_cannot_be_changed():
    with pytest.raises(ValueError, match="frozen"):
        read_settings().batch_size = 3
