"""The compose file and the Dockerfile of a cluster."""

import re
import shutil
import subprocess

import pytest
import yaml

import nightread
from nightread.settings import SECRETS, Settings, read_settings
from tests.compose import MissingVariableError, list_variables, load_compose
from tests.factories import ROOT
from tests.project import COMMANDS, read, read_packages

ENVIRONMENT = {"SCANS_DIR": "/srv/scans"}
OF_NIGHTREAD = {"migrate", "worker", "beat", "metrics", "cli"}
RUN_ONCE = {"migrate", "cli", "backup", "restore"}
#: What each service may read, of the secrets.
SECRET_FILES = {
    "redis": {"redis_password", "redis_worker_password", "redis_publisher_password"},
    "postgres": {"postgres_password"},
    "backup": {"postgres_password"},
    "restore": {"postgres_password"},
    "worker": {"database_url", "worker_broker_url", "accession_key", "notify_urls"},
} | {name: {"database_url", "broker_url", "accession_key", "notify_urls"} for name in OF_NIGHTREAD - {"worker"}}


@pytest.fixture(scope="module")
def services():
    return load_compose(ENVIRONMENT)["services"]


@pytest.fixture(scope="module")
def made_secrets(tmp_path_factory):
    folder = tmp_path_factory.mktemp("secrets")
    subprocess.run([ROOT / "docker" / "make-secrets", folder], capture_output=True, check=True)
    return folder


class TestCompose:
    def test_has_the_services_of_a_night(self, services):
        assert set(services) == {"redis", "postgres", "backup", "restore"} | OF_NIGHTREAD

    @pytest.mark.parametrize("missing", sorted(ENVIRONMENT))
    @pytest.mark.parametrize("value", [None, ""], ids=["unset", "empty"])
    def test_refuses_to_start_without(self, missing, value):
        environment = {name: text for name, text in ENVIRONMENT.items() if name != missing}
        if value is not None:
            environment[missing] = value
        with pytest.raises(MissingVariableError, match=missing):
            load_compose(environment)

    def test_every_command_is_a_plain_list(self, services):
        for name, service in services.items():
            command = service["command"]
            assert isinstance(command, list), name
            assert all(isinstance(word, str) for word in command), name

    def test_every_command_of_ours_exists(self, services):
        for name in OF_NIGHTREAD - {"cli"}:
            program, *words = services[name]["command"]
            assert program == "nightread"
            options = {word.partition("=")[0] for word in words if word.startswith("-")}
            assert options <= COMMANDS[" ".join(word for word in words if not word.startswith("-"))]

    def test_every_service_is_hardened(self, services):
        for name, service in services.items():
            assert service["read_only"] is True, name
            assert service["cap_drop"] == ["ALL"], name
            assert service["security_opt"] == ["no-new-privileges:true"], name
            assert service["pids_limit"] > 0, name
            assert not {"privileged", "cap_add", "pid", "network_mode", "ports", "devices"} & set(service), name
            assert all("noexec" in mount for mount in service["tmpfs"]), name

    def test_no_service_runs_as_root(self, services):
        for name, service in services.items():
            user, _, group = service["user"].partition(":")
            assert int(user) > 0, name
            assert int(group) > 0, name

    def test_every_service_that_stays_has_a_health_check(self, services):
        for name, service in services.items():
            if name in RUN_ONCE:
                assert service["healthcheck"] == {"disable": True}, name
                assert service["restart"] == "no", name
            else:
                assert service["healthcheck"]["test"][0] in {"CMD", "CMD-SHELL"}, name
                assert service["restart"] == "unless-stopped", name
                assert service["stop_grace_period"], name

    def test_scans_are_read_only_and_the_only_root(self, services):
        for name in OF_NIGHTREAD:
            scans, models = services[name]["volumes"]
            assert (scans["target"], scans["source"], scans["read_only"]) == ("/scans", ENVIRONMENT["SCANS_DIR"], True)
            # Workers cannot change a model; `models import` is a command of people.
            assert models == ("models:/models" if name == "cli" else "models:/models:ro")
            assert services[name]["environment"]["NIGHTREAD_SCAN_ROOTS"] == "/scans"

    def test_our_services_get_settings_that_are_valid(self, services, made_secrets, monkeypatch):
        for name in OF_NIGHTREAD:
            environment = services[name]["environment"]
            for variable, value in environment.items():
                monkeypatch.setenv(variable, str(value or "").replace("/run/secrets", str(made_secrets)))
            settings = read_settings()
            user = "worker" if name == "worker" else "publisher"
            password = (made_secrets / f"redis_{user}_password").read_text()
            assert settings.broker_url.get_secret_value() == f"redis://{user}:{password}@redis:6379/0"
            assert settings.database_url.get_secret_value().startswith("postgresql://")

    def test_every_setting_may_stand_in_the_env_file(self, services):
        expected = {f"NIGHTREAD_{name.upper()}" + "_FILE" * (name in SECRETS) for name in Settings.model_fields}
        for name in OF_NIGHTREAD:
            assert set(services[name]["environment"]) == expected, name

    def test_each_service_reads_the_secrets_that_it_needs(self, services):
        assert {name: set(service["secrets"]) for name, service in services.items()} == SECRET_FILES
        for service in services.values():
            for variable, value in service["environment"].items():
                assert "PASSWORD" not in variable or value.startswith("/run/secrets/"), variable

    def test_nothing_starts_before_the_tables_are_there(self, services):
        for name in OF_NIGHTREAD - {"migrate", "cli"}:
            assert services[name]["depends_on"]["migrate"] == {"condition": "service_completed_successfully"}
        assert services["cli"]["depends_on"].keys() == {"redis", "postgres"}
        assert services["migrate"]["depends_on"] == {"postgres": {"condition": "service_healthy"}}

    def test_networks_have_no_way_out(self, services):
        networks = load_compose(ENVIRONMENT)["networks"]
        assert all(network["internal"] is True for network in networks.values())
        assert all(set(service["networks"]) <= set(networks) for service in services.values())

    def test_holds_no_secret(self):
        for file in (
            "docker-compose.yml",
            "docker-compose.cuda.yml",
            "docker-compose.pacs.yml",
            "docker/redis.conf",
            "Dockerfile",
        ):
            for line in read(file).splitlines():
                if re.search(r"(?i)password\b", line.partition("#")[0]):
                    assert "secrets" in line or "PGPASSWORD=$$(cat /run/secrets/" in line, f"{file}: {line}"

    def test_the_example_environment_names_every_variable_and_no_password(self):
        variables = list_variables() | list_variables("docker-compose.cuda.yml")
        example = read(".env.example")
        assert set(re.findall(r"^(\w+)=$", example, re.MULTILINE)) == set(ENVIRONMENT)
        for name in list_variables("docker-compose.pacs.yml").keys() - variables.keys():
            assert re.search(rf"^# {name}=", example, re.MULTILINE), name
        assert {name for name, default in variables.items() if default is None} == set(ENVIRONMENT)
        for name in set(variables) - {"IMAGE_TAG"}:
            assert re.search(rf"^(# )?{name}=", example, re.MULTILINE), name

    def test_the_override_for_gpus_adds_a_worker_for_each_index(self, services):
        override = yaml.safe_load(read("docker-compose.cuda.yml"))["services"]
        assert set(override) == {"gpu0", "gpu1", "gpu2", "gpu3"}  # beside the workers on the CPU
        for name, worker in override.items():
            assert worker["extends"] == {"file": "docker-compose.yml", "service": "worker"}
            assert worker["environment"]["NIGHTREAD_DEVICE"] == "cuda"
            (device,) = worker["deploy"]["resources"]["reservations"]["devices"]
            assert device["device_ids"] == [name.removeprefix("gpu")]
            assert worker["deploy"]["replicas"] == 1
            assert (ROOT / "requirements" / f"{worker['build']['args']['REQUIREMENTS']}.txt").exists()

    def test_the_override_for_a_pacs_adds_a_receiver_that_workers_read_from(self, services):
        override = load_compose(ENVIRONMENT | {"RECEIVE_ALLOW": "PACS"}, "docker-compose.pacs.yml")
        receive, beat = override["services"]["receive"], override["services"]["beat"]
        assert receive["extends"] == {"file": "docker-compose.yml", "service": "beat"}
        program, command, *options = receive["command"]
        assert (program, command) == ("nightread", "receive")
        assert {option.partition("=")[0] for option in options} <= COMMANDS["receive"]
        assert {option.partition("=")[0] for option in receive["healthcheck"]["test"][3:]} <= COMMANDS["receive"]
        assert receive["ports"] == ["127.0.0.1:11112:11112"]
        for service in (receive, beat):
            (spool,) = service["volumes"]
            assert spool["source"] == f"{ENVIRONMENT['SCANS_DIR']}/received"
            assert spool["target"].startswith(services["worker"]["environment"]["NIGHTREAD_SCAN_ROOTS"] + "/")
            assert (ROOT / "requirements" / f"{service['build']['args']['REQUIREMENTS']}.txt").exists()
            assert "backend" in service["networks"]
        with pytest.raises(MissingVariableError, match="RECEIVE_ALLOW"):
            load_compose(ENVIRONMENT, "docker-compose.pacs.yml")

    def test_images_are_pinned(self, services):
        for name, service in services.items():
            assert re.fullmatch(r"[a-z-]+:\d[\w.-]*", service["image"]), name
        assert services["worker"]["image"].endswith(f":{nightread.__version__}")


class TestMakeSecrets:
    def test_keeps_what_is_there_and_takes_passwords_of_the_env_file(self, tmp_path):
        script = tmp_path / "docker" / "make-secrets"
        script.parent.mkdir()
        shutil.copy(ROOT / "docker" / "make-secrets", script)
        (tmp_path / ".env").write_text("SCANS_DIR=/x\nPOSTGRES_PASSWORD=kn0wn\n")
        subprocess.run([script], capture_output=True, check=True)
        made = {file.name: file.read_text() for file in (tmp_path / "secrets").iterdir()}
        assert made["postgres_password"] == "kn0wn"
        assert made["database_url"] == "postgresql://nightread:kn0wn@postgres:5432/nightread"
        assert len(made["redis_password"]) == 48
        assert (tmp_path / "secrets").stat().st_mode & 0o077 == 0

        assert subprocess.run([script], capture_output=True, text=True, check=True).stdout == ""
        (tmp_path / "secrets" / "redis_worker_password").unlink()
        subprocess.run([script], capture_output=True, check=True)
        again = {file.name: file.read_text() for file in (tmp_path / "secrets").iterdir()}
        assert {name for name in made if made[name] != again[name]} == {"redis_worker_password", "worker_broker_url"}
        assert again["redis_worker_password"] in again["worker_broker_url"]


class TestDockerfile:
    def test_installs_hashed_requirements_as_another_user_than_root(self):
        dockerfile = read("Dockerfile")
        assert "--require-hashes" in dockerfile
        final = dockerfile.rpartition("\nFROM ")[2]
        assert re.search(r"^USER (?!0)\d+:\d+$", final, re.MULTILINE)
        assert "HEALTHCHECK" in final
        assert "STOPSIGNAL SIGTERM" in final

    def test_copies_every_package_that_the_wheel_holds(self):
        packages = read_packages()
        dockerfile, ignore = read("Dockerfile"), read(".dockerignore")
        for package in packages:
            assert f"COPY {package}/ {package}/" in dockerfile
            assert f"!{package}/" in ignore

    def test_user_is_the_one_of_compose(self, services):
        assert f"USER {services['worker']['user']}" in read("Dockerfile")
