"""Pages, links, map, changelog, licence and version."""

import hashlib
import re
import stat
import tomllib

import pytest

import nightread
from studies import terminal_pictures
from tests.factories import ROOT
from tests.page_lines import RULES, PageLine, find_rule, list_lines
from tests.project import PAGES, find_table_cells, read, read_packages


def test_design_maps_every_folder_of_the_packages():
    packages = read_packages()
    inits = [init for package in packages for init in ROOT.glob(f"{package}/**/__init__.py")]
    folders = {f"{init.parent.relative_to(ROOT)}/" for init in inits}
    in_map = set(find_table_cells(read("docs/design.md").partition("## File map")[2].partition("\n##")[0]))
    assert folders - in_map == set()
    assert [folder for folder in in_map if not (ROOT / folder).is_dir()] == []


def test_glossary_gives_each_word_one_row():
    rows = [line.split("|")[1].strip() for line in read("docs/glossary.md").splitlines() if line.startswith("| ")]
    words = [word for row in rows[1:] for word in row.split(", ")]
    assert len(words) == len(set(words))
    assert {"scan", "run", "job", "task", "batch", "label", "score", "prediction", "lease", "parity"} <= set(words)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere_on(page):
    text = page.read_text(encoding="utf-8")
    defined = dict(re.findall(r"^\[([\w-]+)\]: (\S+)$", text, re.MULTILINE))
    assert set(re.findall(r"\]\[([\w-]+)\]", text)) <= set(defined)
    for target in [*re.findall(r"\]\(([^)#]+)[^)]*\)", text), *defined.values()]:
        assert target.startswith("https://") or (page.parent / target.partition("#")[0]).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_code_that_is_named_exists_on(page):
    named = set(re.findall(r"`(\w+(?:/\w+)+\.py)`", page.read_text(encoding="utf-8")))
    assert [name for name in sorted(named) if "NNNN" not in name and not (ROOT / name).exists()] == []


def test_every_shell_line_is_run_by_a_test_or_has_a_reason():
    lines = list_lines()
    assert [line for line in lines if find_rule(line) is None] == []
    assert [rule for rule in RULES if rule not in {find_rule(line) for line in lines}] == []
    assert [rule for rule in RULES if bool(rule.test) is bool(rule.reason)] == []


@pytest.mark.parametrize("test", sorted({rule.test for rule in RULES if rule.test}))
def test_what_a_rule_names_is_a_test_that_takes_the_lines(test):
    file, _, name = test.partition("::")
    assert re.search(rf"^def {name}\(page_lines\b", read(file), re.MULTILINE)


@pytest.mark.parametrize("file", sorted({file for rule in RULES for file in re.findall(r"tests/\S+\.py", rule.reason)}))
def test_what_a_reason_names_exists(file):
    assert (ROOT / file).is_file()


def test_a_line_that_no_rule_knows_has_none():
    assert find_rule(PageLine("docs/drift.md", "nightread-drift --now", [])) is None
    assert find_rule(PageLine("docs/drift.md", "rm -rf build", [])) is None


def test_docs_site_names_every_page_in_its_navigation():
    pages = {str(page.relative_to(ROOT / "docs")) for page in PAGES if page.parent != ROOT}
    assert set(re.findall(r'"([^"]+\.md)"', read("zensical.toml"))) == pages


def test_changelog_has_the_next_release_on_top():
    assert re.findall(r"^## \[(.+?)\]", read("CHANGELOG.md"), re.MULTILINE)[0] == "Unreleased"


def test_licence_is_the_whole_apache_text():
    digest = hashlib.sha256((ROOT / "LICENSE").read_bytes()).hexdigest()
    assert digest == "cfc7749b96f63bd31c3c42b5c471bf756814053e847c10f3eb003417bc523d30"


def test_versions_agree():
    assert tomllib.loads(read("pyproject.toml"))["project"]["version"] == nightread.__version__


def test_links_of_the_readme_are_addresses_where_it_is_published():
    project = tomllib.loads(read("pyproject.toml"))
    (substitution,) = project["tool"]["hatch"]["metadata"]["hooks"]["fancy-pypi-readme"]["substitutions"]
    published = re.sub(substitution["pattern"], substitution["replacement"], read("README.md"))
    links = dict(re.findall(r"^\[([\w-]+)\]: (\S+)$", published, re.MULTILINE))
    assert links["contributing"] == f"{project['project']['urls']['Source']}/CONTRIBUTING.md"
    assert [link for link in links.values() if not link.startswith("https://")] == []
    assert set(re.findall(r"\]\((?!https://)", published)) == set()


def test_every_lint_exception_has_its_reason():
    section = read("pyproject.toml").partition("[tool.ruff.lint]")[2].partition("[tool.ruff.lint.pydocstyle]")[0]
    codes = [line for line in section.splitlines() if re.match(r'\s+"[A-Z]+\d*",', line)]
    assert len(codes) > 20
    assert [line for line in codes if "#" not in line] == []


@pytest.mark.parametrize("script", [".ci/run", "requirements/refresh"])
def test_scripts_stop_at_the_first_fault(script):
    assert "set -euo pipefail" in read(script)
    assert (ROOT / script).stat().st_mode & stat.S_IXUSR


@pytest.mark.parametrize("width", terminal_pictures.WIDTHS)
@pytest.mark.parametrize("theme", terminal_pictures.THEMES)
def test_pictures_of_the_terminal_load_nothing_from_elsewhere(width, theme):
    picture = read(f"docs/pictures/terminal-{width}-{theme}.svg")
    assert "url(http" not in picture
    assert "patient-3.dcm" in picture
    assert "uncertain" in picture
    of_help = read(f"docs/pictures/help-{width}-{theme}.svg")
    assert "url(http" not in of_help
    assert {"doctor", "encoding", "decoders", "schedule"} <= set(re.findall(r"[a-z]+", of_help))
