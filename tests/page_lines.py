"""Every line of the shell blocks of the pages, and what runs it: a test, or nothing, for a reason."""

import re
from fnmatch import fnmatch
from typing import NamedTuple

from tests.factories import ROOT
from tests.project import PAGES, find_shell_lines, read_words

_CHECK = "a step of .ci/run"
_CLUSTER = "needs a cluster; tests/e2e/test_kubernetes_commands.py runs the commands of its containers"
_DOCKER = "needs Docker; tests/e2e/test_containers.py runs a night of it with --long"
_INSTALLS = "installs; .ci/run builds the wheel and installs it"
_PACS = (
    "needs a PACS; tests/integration/test_send.py, test_fetch.py and test_receiver_health.py have peers of their own"
)
_STUDY = "a study or a long test: minutes to hours"
_SYSTEMD = "needs systemd and root; tests/unit/project/test_unit_files.py verifies the units"
_LARGE_NETWORK = "minutes for one epoch; tests/train/test_architectures.py builds and fits these networks"


class Rule(NamedTuple):
    """Lines of pages, and what becomes of them.

    Attributes:
        pages: pattern of file names.
        lines: regular expression for the beginning of a line, without `uv run ...` before the program's name.
        test: id of the test that runs them; it takes them from the fixture `page_lines`.
        reason: why no test runs them.
    """

    pages: str
    lines: str
    test: str = ""
    reason: str = ""


_BENCH, _COMMANDS = "tests/e2e/test_bench.py::", "tests/e2e/test_page_commands.py::"
_TRAININGS = "tests/train/test_page_trainings.py::"
#: The first rule that a line matches holds.
RULES = (
    Rule("*.md", r"uv sync|\.ci/run|uv run .*(ruff|mypy|lint-imports|zensical|pytest( tests/train)?$)", reason=_CHECK),
    Rule("*.md", r"uv run .*(pytest|python (-m )?(studies|tests)[./])", reason=_STUDY),
    Rule("*.md", "nightread data fetch", reason="downloads 1.2 GB"),
    Rule("SECURITY.md", "requirements/sbom", reason=_CHECK),
    Rule("SECURITY.md", "requirements/audit", reason="asks PyPI for known vulnerabilities"),
    Rule("docs/how-to/deploy.md", "cp |docker[ /]", reason=_DOCKER),
    Rule("docs/how-to/deploy.md", "kubectl ", reason=_CLUSTER),
    Rule("docs/how-to/morning.md", "pip install", reason=_INSTALLS),
    Rule("docs/how-to/operations.md", r"uv build|python3 -m venv|\S+pip install", reason=_INSTALLS),
    Rule("docs/how-to/operations.md", "(cp|systemctl) ", reason=_SYSTEMD),
    Rule("docs/how-to/operations.md", r"NIGHTREAD_\w+=\S+$", reason="a settings file, which the page's test reads"),
    Rule("docs/how-to/pacs.md", "nightread (receive|send|fetch)", reason=_PACS),
    Rule("docs/reproduction.md", "nightread train .* --arch (inceptionresnetv2|inception) ", reason=_LARGE_NETWORK),
    Rule("README.md", "nightread (demo|score|results)", "tests/e2e/test_terminal.py::test_the_first_night_runs"),
    Rule("README.md", "export |nightread (db|worker|enqueue|status)",
         f"{_COMMANDS}test_workers_of_the_readme_score_a_night"),
    Rule("*.md", "nightread (train|export) .*(lite0|lenet)", f"{_TRAININGS}test_larger_networks_train_and_export"),
    Rule("*.md", "nightread (train|export) ", f"{_TRAININGS}test_trainings_and_exports_run"),
    Rule("docs/performance.md", "nightread bench$", f"{_BENCH}test_measures_workers_of_the_shipped_model"),
    Rule("docs/performance.md", "nightread bench .*--chart", f"{_BENCH}test_measures_a_folder"),
    Rule("docs/performance.md", "nightread bench --workers 0", f"{_BENCH}test_measures_without_servers"),
    Rule("docs/how-to/object-storage.md", "", "tests/e2e/test_object_storage.py::test_the_commands_of_the_page_run"),
    Rule("docs/how-to/operations.md", "",
         "tests/e2e/test_operations_page.py::test_the_page_leads_from_nothing_to_a_night"),
    Rule("*.md", "curl |nightread web|openssl |export NIGHTREAD_WEB", f"{_COMMANDS}test_the_page_and_its_api_answer"),
    Rule("*.md", "(nightread|export) ", f"{_COMMANDS}test_the_commands_of_the_pages_run"),
)  # fmt: skip


class PageLine(NamedTuple):
    """A line of a shell block: the page's name, the line without its comment, and the program's words, if it is one."""

    page: str
    text: str
    words: list[str]


def list_lines():
    """Return all lines, each page's in its order."""
    names = [str(page.relative_to(ROOT)) for page in PAGES]
    return [
        PageLine(name, line, read_words(line)) for name in names for line in find_shell_lines((ROOT / name).read_text())
    ]


def find_rule(line):
    """Return the rule of a line, or None."""
    text = re.sub(r"^uv run (--\w+ \w+ )*(?=nightread)", "", line.text)
    return next((rule for rule in RULES if fnmatch(line.page, rule.pages) and re.match(rule.lines, text)), None)


def list_lines_of(test):
    """Return the lines that a test runs, by its id."""
    return [line for line in list_lines() if (rule := find_rule(line)) is not None and rule.test == test]
