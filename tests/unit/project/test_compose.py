"""The compose file and the Dockerfile of a cluster."""

import re

import pytest
import yaml

import nightread
from nightread.settings import Settings, read_settings
from tests.compose import MissingVariableError, list_variables, load_compose
from tests.factories import ROOT
from tests.project import COMMANDS, read, read_packages

ENVIRONMENT = {
    "REDIS_PASSWORD": "r3dis", "REDIS_WORKER_PASSWORD": "w0rker", "REDIS_PUBLISHER_PASSWORD": "publ1sher",
    "POSTGRES_PASSWORD": "p0stgres", "SCANS_DIR": "/srv/scans",
}  # fmt: skip
OF_NIGHTREAD = {"migrate", "worker", "beat", "cli"}
RUN_ONCE = {"migrate", "cli"}


@pytest.fixture(scope="module")
def services():
    return load_compose(ENVIRONMENT)["services"]


class TestCompose:
    def test_has_the_services_of_a_night(self, services):
        assert set(services) == {"redis", "postgres"} | OF_NIGHTREAD

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
            options = {word for word in words if word.startswith("-")}
            assert options <= COMMANDS[" ".join(word for word in words if word not in options)]

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
            mounts = {mount["target"]: mount for mount in services[name]["volumes"]}
            assert mounts["/scans"]["source"] == ENVIRONMENT["SCANS_DIR"]
            assert all(mount["read_only"] is True for mount in mounts.values()), name
            assert services[name]["environment"]["NIGHTREAD_SCAN_ROOTS"] == "/scans"

    def test_our_services_get_settings_that_are_valid(self, services, monkeypatch, tmp_path):
        monkeypatch.chdir(tmp_path)  # away from a developer's own .env
        for name in OF_NIGHTREAD:
            environment = services[name]["environment"]
            for variable, value in environment.items():
                monkeypatch.setenv(variable, str(value))
            settings = read_settings()
            assert settings.has_shared_broker
            assert settings.database_url.get_secret_value().startswith("postgresql://")
            known = {f"NIGHTREAD_{field.upper()}" for field in Settings.model_fields}
            assert {variable for variable in environment if variable.startswith("NIGHTREAD_")} <= known

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
            "docker/redis.conf",
            "docker/users.acl",
            "Dockerfile",
        ):
            for line in read(file).splitlines():
                if re.search(r"(?i)password\b", line.partition("#")[0]):
                    assert re.search(r"\$\{\w+PASSWORD:\?", line), f"{file}: {line}"

    def test_the_example_environment_names_every_variable_and_no_password(self):
        variables = list_variables() | list_variables("docker-compose.cuda.yml")
        example = read(".env.example")
        assert set(re.findall(r"^(\w+)=$", example, re.MULTILINE)) == set(ENVIRONMENT)
        assert {name for name, default in variables.items() if default is None} == set(ENVIRONMENT)
        for name in set(variables) - {"IMAGE_TAG"}:
            assert re.search(rf"^(# )?{name}=", example, re.MULTILINE), name

    def test_the_override_for_gpus_changes_the_worker_alone(self, services):
        override = yaml.safe_load(read("docker-compose.cuda.yml"))["services"]
        assert set(override) == {"worker"}
        assert override["worker"]["environment"]["NIGHTREAD_DEVICE"] == "cuda"
        assert (ROOT / "requirements" / f"{override['worker']['build']['args']['REQUIREMENTS']}.txt").exists()

    def test_images_are_pinned(self, services):
        for name, service in services.items():
            assert re.fullmatch(r"[a-z-]+:\d[\w.-]*", service["image"]), name
        assert services["worker"]["image"].endswith(f":{nightread.__version__}")


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
