"""The application: allowed hosts, security headers, and errors of settings."""

import re
import tomllib
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from nightread.settings import Settings
from tests.web_page import LOCAL, open_page
from web.app import make_app
from web.guard import HEADERS

ROOT = Path(__file__).parents[3]


@pytest.fixture
def client(sqlite_url):
    with open_page(sqlite_url) as client:
        yield client


@pytest.mark.parametrize("host", ["localhost", "localhost:8000", "127.0.0.1:8000", "[::1]:8000", "LOCALHOST"])
def test_own_names_are_answered(client, host):
    assert client.get("/static/page.css", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "", "localhost:x"]
)
def test_other_names_are_refused(client, host):
    response = client.get("/", headers={"Host": host})
    assert response.status_code == 421
    assert "127.0.0.1" in response.text
    assert HEADERS["Content-Security-Policy"] == response.headers["Content-Security-Policy"]


def test_whoever_probes_the_health_may_use_an_address(client):
    assert client.get("/healthz", headers={"Host": "10.0.0.7:8000"}).status_code == 503


@pytest.mark.parametrize(
    "path",
    ["/", "/runs/x", "/scans/1", "/nothing", "/static/page.css", "/static/page.js", "/static/nothing", "/healthz"],
)
def test_every_response_has_the_strict_headers(client, path):
    headers = client.get(path).headers
    assert {name: headers[name] for name in HEADERS} == HEADERS
    for part in (
        "default-src 'none'",
        "style-src 'self'",
        "script-src 'self'",
        "img-src 'self'",
        "form-action 'self'",
        "frame-ancestors 'none'",
    ):
        assert part in headers["Content-Security-Policy"]
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Cache-Control"] == "no-store"
    assert headers["Referrer-Policy"] == "same-origin"


def test_nothing_can_be_sent_to_it_from_elsewhere(client):
    for method in ("POST", "PUT", "DELETE", "PATCH"):
        assert client.request(method, "/").status_code == 403


@pytest.mark.parametrize("path", ["/static/../app.py", "/static/%2e%2e/app.py", "/static/..%2fapp.py"])
def test_no_file_but_the_static_ones_is_served(client, path):
    assert client.get(path).status_code == 404


def test_an_unknown_address_is_a_short_page(client):
    response = client.get("/nothing/<script>alert(1)</script>")
    assert response.status_code == 404
    assert "Page not found" in response.text
    assert "<script>" not in response.text


def test_a_fault_of_ours_is_a_short_page_with_the_headers(sqlite_url, monkeypatch):
    def break_down(*_, **__):
        raise ZeroDivisionError("secret detail")

    monkeypatch.setattr("web.lookup.check_schema", break_down)
    app = make_app(Settings(database_url=sqlite_url))
    with TestClient(app, base_url="http://localhost", raise_server_exceptions=False, client=LOCAL) as client:
        response = client.get("/")
    assert response.status_code == 500
    assert "Internal error" in response.text
    assert "secret detail" not in response.text
    assert "Traceback" not in response.text
    assert {name: response.headers[name] for name in HEADERS} == HEADERS


def test_links_stay_below_the_prefix_of_a_proxy(sqlite_url):
    app = make_app(Settings(database_url=sqlite_url))
    with TestClient(app, base_url="http://localhost", root_path="/nightread", client=LOCAL) as client:
        response = client.get("/nightread/nothing")
    assert 'href="/nightread/static/page.css"' in response.text
    assert 'src="/nightread/static/page.js"' in response.text


def test_pages_load_nothing_from_elsewhere_and_run_no_script_but_their_own():
    for template in (ROOT / "web" / "templates").glob("*.html"):
        text = template.read_text(encoding="utf-8").replace(
            """<script src="{{ link('static', path='/page.js') }}" defer></script>""", ""
        )
        assert not re.search(r"<script|<style|\sstyle=|\son\w+=|https?:|//|\|\s*safe|javascript:", text), template.name
        assert set(re.findall(r"<img [^>]*src=\"\{\{ (\w+)\(", text)) <= {"link"}, template.name
    static = ROOT / "web" / "static"
    assert not re.search(r"@import|url\(", (static / "page.css").read_text(encoding="utf-8"))
    script = (static / "page.js").read_text(encoding="utf-8")
    assert not re.search(r"https?:|innerHTML|insertAdjacentHTML|document\.write|eval\(|import", script)


def test_what_is_tested_is_what_the_extra_installs():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert project["dependency-groups"]["page"] == project["project"]["optional-dependencies"]["web"]
