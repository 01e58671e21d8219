import os
from pathlib import Path

import pytest

from nightread import settings as settings_module
from nightread import settings_sources
from nightread.errors import SettingsError
from nightread.settings import (
    SECRETS,
    Device,
    LogFormat,
    Settings,
    check_shared_broker,
    read_settings,
    read_sourced_settings,
)
from nightread.settings_sources import find_ignored_env_file


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
        "PROMOTE_FLOOR": "auc=0.9",
        "MODELS_DIR": "/models", "SCAN_ROOTS": "/a:/b", "DEVICE": "cuda", "BATCH_SIZE": "8", "JOB_SIZE": "9",
        "LEASE_S": "50", "SWEEP_S": "5", "MAX_ATTEMPTS": "4", "QUEUE_HIGH_WATER": "7",
        "MAX_PIXELS": "100", "MAX_FILE_BYTES": "200", "DECODE_LIMIT_S": "9", "GATE": "false", "ARCHIVES": "true",
        "ISOLATE": "dicom", "WEB_CACHE_DIR": "/cache", "WEB_CACHE_BYTES": "1000",
        "WEB_USERS": "ana view " + "a" * 64, "WEB_ROLE": "view", "WEB_PROXY": "10.0.0.5", "WEB_PROXY_HEADER": "X-User",
        "WEB_ADDRESS": "https://nightread.example", "WEB_NAME": "TEST", "WEB_COLOR": "orange",
        "WEB_VIEWER": "https://ohif.example/viewer?StudyInstanceUIDs={study}",
        "NOTIFY_URLS": "json://localhost/", "NOTIFY_ON": "guard", "NOTIFY_DETAILS": "true",
        "WEB_OIDC_ISSUER": "https://login.example", "WEB_OIDC_CLIENT": "page", "WEB_OIDC_SECRET": "s",
        "WEB_OIDC_CLAIM": "email",
        "MODALITIES": "cr, DX,DR", "FOR_PROCESSING": "true", "ACCESSION_KEY": "k" * 16,
        "THREADS": "2", "PATH_MAP": "/scans=/mnt/nas/", "LOG_FORMAT": "json", "LOG_LEVEL": "DEBUG",
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
    assert "NIGHTREAD_DEVICE: 'gpu' is not known; allowed are auto, cpu, cuda" in message
    assert "NIGHTREAD_BATCH_SIZE: '0' is too small; allowed are 1 to 1024" in message
    assert "NIGHTREAD_LEASE_S: 'soon' is not a number; allowed are 1 to 86400" in message
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
    assert "the value is in quotes" in faults(DATABASE_URL="'sqlite:////tmp/x.db'")


def test_parameters_of_an_sqlite_file_are_refused_not_ignored():
    assert "SQLite takes none" in faults(DATABASE_URL="sqlite:////tmp/x.db?mode=ro")


@pytest.mark.parametrize("command", ["enqueue", "sweep"])
def test_a_command_that_needs_a_broker_names_the_setting_and_score_only_in_its_place(command):
    with pytest.raises(SettingsError, match=f"`{command}` needs a broker .* set NIGHTREAD_BROKER_URL=") as refused:
        check_shared_broker(read_settings(), command)
    assert ("nightread score" in str(refused.value)) is (command == "enqueue")


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
    said = faults(SWEEP_S="3000", LEASE_S="10")
    assert said.endswith(": NIGHTREAD_SWEEP_S (3000) is over ten times NIGHTREAD_LEASE_S (10): lost jobs wait too long")


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
        monkeypatch.setattr(settings_sources, "read_regular_file", lambda *_: _deny())

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


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("BATCH_SIZE", "x", "'x' is not a whole number; allowed are 1 to 1024"),
        ("BATCH_SIZE", "1.5", "'1.5' is not a whole number; allowed are 1 to 1024"),
        ("BATCH_SIZE", "9999", "'9999' is too large; allowed are 1 to 1024"),
        ("MAX_PIXELS", "0", "'0' is too small; allowed is 1 or more"),
        ("LEASE_S", "nan", "'nan' is not a finite number; allowed are 1 to 86400"),
        ("ISOLATE", "some", "'some' is not known; allowed are suspect, dicom, all"),
        ("WEB_COLOR", "pink", "'pink' is not known; allowed are red, orange, green, blue, violet"),
        ("WEB_PROXY_HEADER", "a b", "'a b' does not match ^[A-Za-z0-9-]{1,64}$"),
        ("WEB_NAME", "x" * 33, f"'{'x' * 33}' has more than 32 characters"),
        ("PATH_MAP", "\udcff", "'\\udcff' names no two folders; write SHARED=LOCAL, such as /scans=/mnt/nas/scans"),
        ("GATE", "perhaps", "'perhaps' is neither true nor false; write true or false"),
        ("LOG_LEVEL", "LOUD", "'LOUD' is not known; allowed are DEBUG, INFO, WARNING, ERROR"),
    ],
)  # fmt: skip
def test_a_wrong_value_is_told_in_our_words(name, value, said):
    assert faults(**{name: value}) == f"wrong settings: NIGHTREAD_{name}: {said}"


def test_blanks_around_a_value_are_dropped(monkeypatch, env_file):
    monkeypatch.setenv("NIGHTREAD_DATABASE_URL", "postgresql://reader@db/nights\n")
    monkeypatch.setenv("NIGHTREAD_MODEL", " \n")
    env_file.with_name("settings.toml").write_text('models_dir = " /bundles\\n"\nweb_name = " "\n')
    settings, sources = read_sourced_settings()
    assert settings.database_url.get_secret_value() == "postgresql://reader@db/nights"
    assert settings.models_dir == Path("/bundles")
    assert sources.keys() == {"database_url", "models_dir"}


def test_every_kind_of_setting_has_words_for_a_wrong_value(env_file):
    """None of pydantic's own: a TOML file may hold any type."""
    for name in Settings.model_fields:
        for value in ("{a = 1}", "[[1]]", "1979-05-27"):
            env_file.with_name("settings.toml").write_text(f"{name} = {value}\n")
            with pytest.raises(SettingsError) as caught:
                read_settings()
            assert f"NIGHTREAD_{name.upper()} (in " in str(caught.value)
            assert "nput should" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("rediss://h/0?ssl_cert_req=none", "the unknown parameter 'ssl_cert_req'; did you mean ssl_cert_reqs?"),
        ("redis://h/0?foo=1", "the unknown parameter 'foo'; allowed are ssl_cert_reqs"),
        ("rediss://h/0?ssl_cert_reqs=maybe", "ssl_cert_reqs='maybe'; allowed are required, optional, none"),
    ],
)
def test_a_wrong_parameter_of_the_broker_is_named(url, said):
    assert said in faults(BROKER_URL=url)


def test_toml_comes_before_the_env_file(monkeypatch, env_file):
    env_file.with_name("settings.toml").write_text(
        'batch_size = 1\njob_size = 1\nthreads = 1\nscan_roots = ["/a", "/b"]\ngate = false\nmodel = ""\n'
    )
    env_file.write_text("NIGHTREAD_JOB_SIZE=2\nNIGHTREAD_THREADS=2\n")
    monkeypatch.setenv("NIGHTREAD_THREADS", "3")
    settings, sources = read_sourced_settings(lease_s=9)
    assert (settings.batch_size, settings.job_size, settings.threads, settings.gate) == (1, 2, 3, False)
    assert settings.scan_roots == (Path("/a"), Path("/b"))
    assert sources == {
        "batch_size": str(env_file.with_name("settings.toml")), "scan_roots": str(env_file.with_name("settings.toml")),
        "gate": str(env_file.with_name("settings.toml")), "job_size": str(env_file), "threads": "environment",
        "lease_s": "command line",
    }  # fmt: skip


def test_a_named_toml_file_replaces_that_of_the_user(monkeypatch, env_file, tmp_path):
    env_file.with_name("settings.toml").write_text("batch_size = 1\n")
    (tmp_path / "mine.toml").write_text("job_size = 5\n")
    monkeypatch.setenv("NIGHTREAD_SETTINGS_FILE", str(tmp_path / "mine.toml"))
    assert (read_settings().batch_size, read_settings().job_size) == (32, 5)


def test_a_toml_file_with_a_fault_names_its_line(env_file):
    env_file.with_name("settings.toml").write_text("batch_size = 1\ndatabase_url = hunter2\n")
    with pytest.raises(SettingsError, match=r"settings\.toml cannot be read: it is no TOML: .*line 2") as caught:
        read_settings()
    assert "hunter2" not in str(caught.value)


def test_a_wrong_value_of_a_file_names_the_file(env_file):
    env_file.write_text("NIGHTREAD_BATCH_SIZE=x\n")
    assert f"NIGHTREAD_BATCH_SIZE (in {env_file}): 'x' is not a whole number" in faults()


@pytest.mark.parametrize("name", SECRETS)
def test_a_secret_may_stand_in_a_file_of_its_own(monkeypatch, name, tmp_path):
    value = "postgresql://u:hunter2@h/d" if name == "database_url" else "redis://:hunter2@h/0"
    (tmp_path / "secret").write_text(f"{value}\n")
    monkeypatch.setenv(f"NIGHTREAD_{name.upper()}_FILE", str(tmp_path / "secret"))
    settings, sources = read_sourced_settings()
    assert getattr(settings, name).get_secret_value() == value
    assert sources == {name: str(tmp_path / "secret")}


def test_a_variable_wins_over_a_secret_named_in_a_file(monkeypatch, env_file, tmp_path):
    (tmp_path / "secret").write_text("redis://:a@h/0")
    env_file.write_text(f"NIGHTREAD_BROKER_URL_FILE={tmp_path / 'secret'}\n")
    assert read_settings().broker_url.get_secret_value() == "redis://:a@h/0"
    monkeypatch.setenv("NIGHTREAD_BROKER_URL", "redis://:b@h/0")
    assert read_settings().broker_url.get_secret_value() == "redis://:b@h/0"


@pytest.mark.parametrize("content", [None, "", "\n", "x" * 70_000, b"\xff"])
def test_a_secret_that_cannot_be_read_is_an_error(tmp_path, content):
    file = tmp_path / "secret"
    if content is not None:
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
    said = faults(BROKER_URL_FILE=str(file))
    assert said.startswith("NIGHTREAD_BROKER_URL_FILE: ")
    assert str(file) in said
    assert "xxx" not in said


def test_a_secret_given_twice_is_an_error(tmp_path):
    said = faults(BROKER_URL_FILE=str(tmp_path / "secret"), BROKER_URL="redis://:hunter2@h/0")
    assert said == "NIGHTREAD_BROKER_URL_FILE and NIGHTREAD_BROKER_URL are both set: leave one of them out"


@pytest.fixture
def _warn_again(monkeypatch):
    monkeypatch.setattr(settings_module, "_warned", set())


@pytest.mark.usefixtures("_warn_again")
def test_an_unknown_name_is_warned_of_once_with_the_nearest(monkeypatch, env_file, caplog):
    monkeypatch.setenv("NIGHTREAD_BATCHSIZE", "3")
    monkeypatch.setenv("NIGHTREAD_TEST_DATA", "/data")
    env_file.write_text("NIGHTREAD_LEASE=3\n")
    env_file.with_name("settings.toml").write_text(
        "jobsize = 3\nNIGHTREAD_THREADS = 1\nquite_another = 1\n[nightread]\nthreads = 1\n"
    )
    for _ in range(2):
        assert read_settings().batch_size == 32
    toml = env_file.with_name("settings.toml")
    assert caplog.messages == [
        f"jobsize in {toml} is no setting and has no effect; did you mean job_size?",
        f"NIGHTREAD_THREADS in {toml} is no setting and has no effect; did you mean threads?",
        f"quite_another in {toml} is no setting and has no effect; `nightread config` lists all settings",
        f"nightread in {toml} is no setting and has no effect; settings stand at the top of the file, not in tables",
        f"NIGHTREAD_LEASE in {env_file} is no setting and has no effect; did you mean NIGHTREAD_LEASE_S?",
        "NIGHTREAD_BATCHSIZE is no setting and has no effect; did you mean NIGHTREAD_BATCH_SIZE?",
    ]


@pytest.mark.usefixtures("_warn_again")
def test_no_known_name_is_warned_of(monkeypatch, caplog, tmp_path):
    (tmp_path / "secret").write_text("redis://h/0")
    for name, value in {
        "FAILPOINT": "", "ENV_FILE": "", "SETTINGS_FILE": "", "BATCH_SIZE": "3", "BROKER_URL_FILE": tmp_path / "secret",
    }.items():  # fmt: skip
        monkeypatch.setenv(f"NIGHTREAD_{name}", str(value))
    read_settings()
    assert caplog.messages == []


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        (".env", b"NIGHTREAD_MODEL='abc\n", "line 1 is not NAME=VALUE"),
        (".env", b"A=1\n\nNIGHTREAD_MODEL\n", "line 3 is not NAME=VALUE"),
        (".env", b"#" * (2**20 + 1), "1,048,577 bytes; allowed are 1,048,576"),
        ("settings.toml", b"batch_size=" + b"9" * 5000, "it is no TOML: "),
        ("settings.toml", b"a=" + b"[" * 5000, "it is no TOML: "),
        ("settings.toml", b'scan_roots = [""]', "a folder is empty; it would be the current one"),
    ],
    ids=lambda value: str(value[:24]),
)
def test_a_file_that_holds_no_settings_is_refused(env_file, name, content, said):
    env_file.with_name(name).write_bytes(content)
    with pytest.raises(SettingsError) as caught:
        read_settings()
    assert said in str(caught.value)


@pytest.mark.parametrize("name", [".env", "settings.toml"])
def test_a_byte_order_mark_is_passed_over(env_file, name):
    line = "NIGHTREAD_BATCH_SIZE=7" if name == ".env" else "batch_size = 7"
    env_file.with_name(name).write_bytes(f"\ufeff{line}\r\n".encode())
    assert read_settings().batch_size == 7


@pytest.mark.parametrize("variable", ["ENV_FILE", "SETTINGS_FILE", "BROKER_URL_FILE"])
def test_a_file_that_is_a_fifo_is_refused_rather_than_waited_for(variable, tmp_path):
    os.mkfifo(tmp_path / "fifo")
    assert faults(**{variable: str(tmp_path / "fifo")}).endswith("fifo cannot be read: not a regular file")


def test_the_null_device_stands_for_a_file_without_settings(monkeypatch):
    monkeypatch.setenv("NIGHTREAD_ENV_FILE", os.devnull)
    assert read_settings() == Settings()


def test_choices_and_limits_are_told():
    assert faults(NOTIFY_ON="both").endswith("'both' is not known; allowed are end, guard")
    assert faults(QUEUE_HIGH_WATER="9" * 30).endswith("is too large; allowed are 1 to 1000000")
