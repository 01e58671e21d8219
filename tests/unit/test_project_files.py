"""The files around the code agree with the code and with each other."""

import hashlib
import re
import stat
import tomllib

import pytest
import typer
import yaml
from typer.core import TyperGroup

import nightread.errors
from cli.exits import Exit
from cli.main import app
from nightread.errors import NightreadError
from nightread.reasons import Reason
from nightread.settings import Settings, read_settings
from tests.compose import ROOT, MissingVariableError, list_variables, load_compose


def find_commands(command, name=""):
    """Return every command of the program with its options, by name."""
    if isinstance(command, TyperGroup):
        found = {}
        for child, deeper in command.commands.items():
            found |= find_commands(deeper, f"{name} {child}".strip())
        return found
    options = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    return {name: options}


COMMANDS = find_commands(typer.main.get_command(app))

ENVIRONMENT = {
    "REDIS_PASSWORD": "r3dis", "REDIS_WORKER_PASSWORD": "w0rker", "REDIS_PUBLISHER_PASSWORD": "publ1sher",
    "POSTGRES_PASSWORD": "p0stgres", "SCANS_DIR": "/srv/scans",
}  # fmt: skip
OF_NIGHTREAD = {"migrate", "worker", "beat", "cli"}
RUN_ONCE = {"migrate", "cli"}


def read(name):
    return (ROOT / name).read_text(encoding="utf-8")


def find_table_cells(text, column=0):
    """Return the code words in one column of all tables of a page."""
    cells = []
    for line in text.splitlines():
        if line.startswith("|") and not set(line) <= set("|-: "):
            parts = re.split(r"(?<!\\)\|", line)[1:-1]
            if column < len(parts):
                cells += re.findall(r"`([^`]+)`", parts[column])
    return cells


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
        for name in OF_NIGHTREAD - {"migrate"}:
            assert services[name]["depends_on"]["migrate"] == {"condition": "service_completed_successfully"}
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
        packages = tomllib.loads(read("pyproject.toml"))["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
        dockerfile, ignore = read("Dockerfile"), read(".dockerignore")
        for package in packages:
            assert f"COPY {package}/ {package}/" in dockerfile
            assert f"!{package}/" in ignore

    def test_user_is_the_one_of_compose(self, services):
        assert f"USER {services['worker']['user']}" in read("Dockerfile")


@pytest.mark.parametrize("image", ["worker", "worker-cuda"])
class TestRequirements:
    def test_every_requirement_is_pinned_and_hashed(self, image):
        requirements = re.sub(r"\\\n\s*", " ", read(f"requirements/{image}.txt"))
        lines = [line for line in requirements.splitlines() if line and not line.lstrip().startswith("#")]
        assert len(lines) > 30
        for line in lines:
            requirement, *hashes = line.partition(" #")[0].split("--hash=")
            assert re.match(r"[a-z0-9][a-z0-9.-]*(\[[\w,]+\])?==\S+ ", requirement), line
            assert hashes, line
            assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", digest.strip()) for digest in hashes), line

    def test_names_no_host_and_no_path(self, image):
        text = read(f"requirements/{image}.txt")
        assert "://" not in text
        assert "-i " not in text
        assert "/tmp" not in text

    def test_holds_what_the_worker_imports_and_no_tensorflow(self, image):
        names = set(re.findall(r"^([a-z0-9-]+)==", read(f"requirements/{image}.txt"), re.MULTILINE))
        assert {"celery", "kombu", "redis", "sqlalchemy", "onnxruntime-gpu", "pillow", "pydicom", "psycopg"} <= names
        assert not {"tensorflow", "keras", "tf2onnx", "pytest", "nightread"} & names


PAGES = sorted({*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")})


class TestPages:
    def test_settings_page_names_every_setting_and_no_other(self):
        in_table = find_table_cells(read("docs/reference/settings.md"))
        assert sorted(in_table) == sorted(f"NIGHTREAD_{name.upper()}" for name in Settings.model_fields)
        named = {name for page in PAGES for name in re.findall(r"NIGHTREAD_[A-Z_]+[A-Z]", page.read_text())}
        assert named <= {*in_table, "NIGHTREAD_TEST_DATA", "NIGHTREAD_FAILPOINT", "NIGHTREAD_FAILPOINT_DIR"}

    @pytest.mark.parametrize("name", [n for n, f in Settings.model_fields.items() if f.default_factory is None])
    def test_settings_page_tells_the_default_of(self, name):
        page = read("docs/reference/settings.md")
        row = next(line for line in page.splitlines() if f"`NIGHTREAD_{name.upper()}`" in line)
        default = Settings.model_fields[name].default
        if hasattr(default, "get_secret_value"):
            default = default.get_secret_value()
        shown = row.split("|")[2].strip().strip("`")
        if default in ("", ()):
            assert shown in {"none", "the bundle that ships"}
        else:
            assert shown == (f"{default:g}" if isinstance(default, float) else str(default))

    def test_commands_page_names_every_command_and_no_other(self):
        rows = find_table_cells(read("docs/reference/commands.md"))
        named = [" ".join(re.findall(r"[a-z]+", re.sub(r"\[?[A-Z]+\]?[.]*", "", row))[1:]) for row in rows]
        assert sorted(named) == sorted(COMMANDS)

    def test_every_command_line_on_a_page_is_one_of_the_program(self):
        lines = []
        for page in PAGES:
            text = page.read_text(encoding="utf-8")
            blocks = "".join(re.findall(r"```sh\n(.*?)```", text, re.DOTALL)).replace("\\\n", " ")
            lines += re.findall(
                r"^(?:uv run (?:--\w+ \w+ )*|docker compose run --rm )?(?:nightread|cli) (.+)", blocks, re.MULTILINE
            )
            lines += re.findall(r"`nightread\s([a-z][^`]*)`", text)
        assert len(lines) > 100
        for line in lines:
            words = line.split("#")[0].replace("COMMAND", "score").split()
            name = next((name for name in (" ".join(words[:2]), words[0]) if name in {*COMMANDS, "models"}), None)
            assert name is not None, line
            assert {word for word in words if word.startswith("--")} <= COMMANDS.get(name, set()), line

    def test_commands_page_names_options_that_exist(self):
        for row in read("docs/reference/commands.md").splitlines():
            if row.startswith("| `nightread "):
                command, text = row.split("|", 2)[1:]
                words = re.findall(r"[a-z]+", command)[1:]
                name = next(name for name in (" ".join(words[:2]), words[0]) if name in COMMANDS)
                assert set(re.findall(r"`(--[a-z-]+)", text)) <= COMMANDS[name], row

    def test_readme_starts_with_two_commands(self):
        block = re.search(r"## Two commands.*?```sh\n(.*?)```", read("README.md"), re.DOTALL)[1]
        assert [line.partition("#")[0].strip() for line in block.splitlines()] == [
            "uv run nightread score FOLDER",
            "uv run --group test pytest",
        ]
        assert "\nuv run --group test pytest\n" in read(".ci/run")

    def test_reason_codes_page_explains_every_reason_on_its_side(self):
        rejected, failed = read("docs/reference/reason-codes.md").split("\n## failed\n")
        assert find_table_cells(rejected) == [reason.value for reason in Reason if reason.is_rejection]
        assert find_table_cells(failed) == [reason.value for reason in Reason if not reason.is_rejection]

    def test_exit_codes_page_explains_every_exit_code(self):
        codes = re.findall(r"^\| (\d+) \|", read("docs/reference/exit-codes.md"), re.MULTILINE)
        assert codes == [str(code.value) for code in Exit]

    def test_tree_of_errors_is_drawn_whole(self):
        def walk(error):
            yield error
            for child in error.__subclasses__():
                yield from walk(child)

        for error in walk(NightreadError):
            if error.__module__ == "nightread.errors":
                assert re.search(rf"^ *{error.__name__}\b", nightread.errors.__doc__, re.MULTILINE)

    def test_design_maps_every_folder_of_the_packages(self):
        packages = tomllib.loads(read("pyproject.toml"))["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
        inits = [init for package in packages for init in ROOT.glob(f"{package}/**/__init__.py")]
        folders = {f"{init.parent.relative_to(ROOT)}/" for init in inits}
        in_map = set(find_table_cells(read("docs/design.md").partition("## File map")[2].partition("\n##")[0]))
        assert folders - in_map == set()
        assert [folder for folder in in_map if not (ROOT / folder).is_dir()] == []

    def test_glossary_gives_each_word_one_row(self):
        rows = [line.split("|")[1].strip() for line in read("docs/glossary.md").splitlines() if line.startswith("| ")]
        words = [word for row in rows[1:] for word in row.split(", ")]
        assert len(words) == len(set(words))
        assert {"scan", "run", "job", "task", "batch", "label", "score", "prediction", "lease", "parity"} <= set(words)

    @pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
    def test_links_lead_somewhere_on(self, page):
        text = page.read_text(encoding="utf-8")
        defined = dict(re.findall(r"^\[([\w-]+)\]: (\S+)$", text, re.MULTILINE))
        assert set(re.findall(r"\]\[([\w-]+)\]", text)) <= set(defined)
        for target in [*re.findall(r"\]\(([^)#]+)[^)]*\)", text), *defined.values()]:
            assert target.startswith("https://") or (page.parent / target.partition("#")[0]).exists(), target

    def test_docs_site_names_every_page_in_its_navigation(self):
        pages = {str(page.relative_to(ROOT / "docs")) for page in PAGES if page.parent != ROOT}
        assert set(re.findall(r'"([^"]+\.md)"', read("zensical.toml"))) == pages

    def test_changelog_has_the_next_release_on_top(self):
        assert re.findall(r"^## \[(.+?)\]", read("CHANGELOG.md"), re.MULTILINE)[0] == "Unreleased"

    def test_licence_is_the_whole_apache_text(self):
        digest = hashlib.sha256((ROOT / "LICENSE").read_bytes()).hexdigest()
        assert digest == "cfc7749b96f63bd31c3c42b5c471bf756814053e847c10f3eb003417bc523d30"


class TestProject:
    def test_versions_agree(self):
        assert tomllib.loads(read("pyproject.toml"))["project"]["version"] == nightread.__version__

    def test_every_lint_exception_has_its_reason(self):
        section = read("pyproject.toml").partition("[tool.ruff.lint]")[2].partition("[tool.ruff.lint.pydocstyle]")[0]
        codes = [line for line in section.splitlines() if re.match(r'\s+"[A-Z]+\d*",', line)]
        assert len(codes) > 20
        assert [line for line in codes if "#" not in line] == []

    @pytest.mark.parametrize("script", [".ci/run", "requirements/refresh"])
    def test_scripts_stop_at_the_first_fault(self, script):
        assert "set -euo pipefail" in read(script)
        assert (ROOT / script).stat().st_mode & stat.S_IXUSR
