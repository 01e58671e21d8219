"""Login, roles and attacks on the worklist page, over both databases."""

import re
import secrets

import pytest
from sqlalchemy import select

from db.engine import reading
from db.page_tables import page_actions
from tests.web_page import add_night, open_page
from web import guard
from web.sessions import ATTEMPTS, COOKIE

TOKENS = {"ana": "a" * 64, "ben": "b" * 64, "cem": "c" * 64}
USERS = f"ana view {TOKENS['ana']}\nben mark {TOKENS['ben']}\ncem operate {TOKENS['cem']}\n"


@pytest.fixture
def page(engine):
    with open_page(engine.url.render_as_string(hide_password=False), web_users=USERS) as client:
        yield client


def read_form_token(text):
    return re.search(r'name="form_token" value="([^"]+)"', text)[1]


def send(client, path, *, origin="http://localhost", **fields):
    headers = {} if origin is None else {"Origin": origin}
    return client.post(path, data=fields, headers=headers, follow_redirects=False)


def log_in(client, name, **fields):
    form_token = read_form_token(client.get("/login").text)
    return send(client, "/login", form_token=form_token, token=TOKENS.get(name, name), **fields)


def read_actions(engine):
    with reading(engine) as connection:
        query = select(page_actions.c.user_name, page_actions.c.role, page_actions.c.action).order_by(page_actions.c.id)
        return [tuple(row) for row in connection.execute(query)]


class TestLogin:
    def test_leads_there_and_back(self, engine, page):
        run_id = add_night(engine, [0.5])
        answer = page.get(f"/runs/{run_id}?decision=normal", follow_redirects=False)
        assert answer.status_code == 303
        assert answer.headers["Location"] == f"/login?next=%2Fruns%2F{run_id}%3Fdecision%3Dnormal"
        following = re.search(r'name="next" value="([^"]+)"', page.get(answer.headers["Location"]).text)[1]
        answer = log_in(page, "ana", next=following)
        assert (answer.status_code, answer.headers["Location"]) == (303, f"/runs/{run_id}?decision=normal")
        assert ">ana</span>" in page.get(f"/runs/{run_id}").text
        assert read_actions(engine) == [("ana", "view", "login")]

    def test_cookie_is_kept_from_scripts_and_other_sites(self, page):
        cookie = log_in(page, "ana").headers["Set-Cookie"]
        assert {"HttpOnly", "SameSite=Lax", "Path=/"} <= set(cookie.split("; "))
        assert TOKENS["ana"] not in cookie

    def test_cookie_stays_on_encrypted_connections(self, engine):
        url, address = engine.url.render_as_string(hide_password=False), "https://nightread.example"
        with open_page(url, web_users=USERS, web_address=address) as client:
            answer = client.get("/login", headers={"Host": "nightread.example"})
        assert "; Secure" in answer.headers["Set-Cookie"]
        assert "Strict-Transport-Security" in answer.headers

    def test_logout_ends_the_session_for_a_copied_cookie_too(self, engine, page):
        log_in(page, "ana")
        copied = page.cookies[COOKIE]
        send(page, "/logout", form_token=read_form_token(page.get("/").text))
        page.cookies.clear()
        page.cookies.set(COOKIE, copied)
        assert page.get("/", follow_redirects=False).status_code == 303
        assert [action for _, _, action in read_actions(engine)] == ["login", "logout"]

    @pytest.mark.parametrize("token", ["", "a" * 63, "' OR 1=1 --", "ana ", "x" * 200])
    def test_wrong_token_is_refused(self, engine, page, token):
        assert log_in(page, token).status_code == 403
        assert page.get("/", follow_redirects=False).status_code == 303
        assert read_actions(engine) == []

    def test_is_limited_in_rate(self, page):
        form_token = read_form_token(page.get("/login").text)
        codes = [
            send(page, "/login", form_token=form_token, token=secrets.token_hex(32)).status_code
            for _ in range(ATTEMPTS + 1)
        ]
        assert codes == [403] * ATTEMPTS + [429]
        assert send(page, "/login", form_token=form_token, token=TOKENS["cem"]).status_code == 429

    @pytest.mark.parametrize(
        "following",
        ["//evil.example", "/\\evil.example", "https://evil.example", "evil", "/\n/evil", "/x\\y", "javascript:1"],
    )
    def test_leads_to_no_other_site(self, page, following):
        assert log_in(page, "ana", next=following).headers["Location"] == "/"

    @pytest.mark.parametrize(
        "path",
        [
            "/",
            "/runs/x",
            "/runs/x/results.csv",
            "/scans/1",
            "/scans/1/picture.png",
            "/scans/1/thumbnail.webp",
            "/actions",
        ],
    )
    def test_is_needed_for(self, page, path):
        assert page.get(path, follow_redirects=False).status_code == 303
        answer = page.get(path, headers={"Sec-Fetch-Dest": "image"}, follow_redirects=False)
        assert answer.status_code == 401

    def test_is_needed_for_neither_health_nor_style(self, page):
        for path in ("/healthz", "/static/page.css", "/static/page.js", "/login"):
            assert page.get(path, follow_redirects=False).status_code == 200


class TestForgery:
    def test_of_a_cookie_gives_no_role(self, page):
        log_in(page, "ana")
        payload, at, signature = page.cookies[COOKIE].split(".")
        for forged in (f"{payload}x.{at}.{signature}", f"{payload}.{at}.{signature[::-1]}", payload, "x", "null"):
            page.cookies.clear()
            page.cookies.set(COOKIE, forged)
            assert page.get("/", follow_redirects=False).status_code == 303

    def test_of_a_session_of_a_user_who_was_removed_gives_no_role(self, engine, page):
        log_in(page, "cem")
        url, rest = engine.url.render_as_string(hide_password=False), USERS.partition("cem")[0]
        with open_page(url, web_users=rest) as later:
            later.cookies.set(COOKIE, page.cookies[COOKIE])
            assert later.get("/", follow_redirects=False).status_code == 303

    @pytest.mark.parametrize(
        "origin",
        [None, "null", "https://localhost", "http://localhost.evil.example", "http://evil.example", "http://127.0.0.1"],
    )
    def test_of_an_origin_is_refused(self, page, origin):
        form_token = read_form_token(page.get("/login").text)
        answer = send(page, "/login", origin=origin, form_token=form_token, token=TOKENS["ana"])
        assert answer.status_code == 403
        assert "Foreign form" in answer.text

    def test_of_a_form_is_refused_without_the_token_of_the_session(self, page):
        other = read_form_token(page.get("/login").text)
        log_in(page, "ana")
        for form_token in ({"other": "x"}, {"form_token": ""}, {"form_token": other}, {"form_token": "x"}):
            answer = send(page, "/logout", **form_token)
            assert answer.status_code == 403
            assert "Form too old" in answer.text
        assert page.get("/", follow_redirects=False).status_code == 200

    def test_of_a_form_is_refused_without_a_cookie(self, page):
        form_token = read_form_token(page.get("/login").text)
        page.cookies.clear()
        assert send(page, "/login", form_token=form_token, token=TOKENS["ana"]).status_code == 403

    @pytest.mark.parametrize("host", ["evil.example", "nightread.example:81", "", "localhost.evil.example"])
    def test_of_a_host_is_refused(self, engine, host):
        url, address = engine.url.render_as_string(hide_password=False), "https://nightread.example"
        with open_page(url, web_users=USERS, web_address=address) as client:
            assert client.get("/login", headers={"Host": host, "X-Forwarded-Host": "localhost"}).status_code == 421
            assert client.get("/login", headers={"Host": "nightread.example"}).status_code == 200


class TestForm:
    def test_that_is_too_large_is_refused(self, page):
        form_token = read_form_token(page.get("/login").text)
        answer = send(page, "/login", form_token=form_token, token="x" * guard.FORM_BYTES)
        assert answer.status_code == 413

    @pytest.mark.parametrize("kind", ["application/json", "multipart/form-data; boundary=x", "text/plain", ""])
    def test_of_another_kind_is_refused(self, page, kind):
        page.get("/login")
        headers = {"Origin": "http://localhost", "Content-Type": kind}
        assert page.post("/login", content=b"{}", headers=headers).status_code == 415

    @pytest.mark.parametrize("body", [b"\xff=1", b"a&b", b"&".join(b"a%d=1" % n for n in range(40))])
    def test_that_cannot_be_read_is_refused(self, page, body):
        page.get("/login")
        headers = {"Origin": "http://localhost", "Content-Type": "application/x-www-form-urlencoded"}
        assert page.post("/login", content=body, headers=headers).status_code == 400

    def test_is_needed_for_every_other_method(self, page):
        for method in ("PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"):
            assert page.request(method, "/login").status_code == 403


class TestRoles:
    @pytest.mark.parametrize(("name", "code"), [("ana", 403), ("ben", 403), ("cem", 200)])
    def test_of_those_who_operate_show_the_actions(self, page, name, code):
        log_in(page, name)
        answer = page.get("/actions")
        assert answer.status_code == code
        assert ("login" in answer.text) is (code == 200)
        assert ('href="/actions"' in page.get("/").text) is (code == 200)

    def test_of_this_host_follow_the_setting(self, engine):
        for role, code in (("view", 403), ("operate", 200)):
            with open_page(engine.url.render_as_string(hide_password=False), web_role=role) as client:
                assert client.get("/").status_code == 200
                assert client.get("/actions").status_code == code


class TestProxy:
    @pytest.fixture
    def behind(self, engine):
        with open_page(
            engine.url.render_as_string(hide_password=False), web_proxy="127.0.0.1",
            web_users="cem operate\njürgen operate\n* view",
            web_address="https://pacs.example/night",
        ) as client:  # fmt: skip
            yield client

    @pytest.mark.parametrize(("name", "code"), [("cem", 200), ("jürgen", 200), ("dora", 403), ("*", 403)])
    def test_names_the_user(self, behind, name, code):
        headers = {"X-Remote-User": name.encode(), "Host": "pacs.example"}
        assert behind.get("/", headers=headers).status_code == 200
        assert behind.get("/actions", headers=headers).status_code == code

    def test_may_pass_on_what_a_program_showed_to_it(self, behind):
        headers = {"X-Remote-User": "dora", "Host": "pacs.example", "Authorization": "Basic ZG9yYTp4"}
        assert behind.get("/api/v1/runs", headers=headers).status_code == 200
        foreign = headers | {"Origin": "https://evil.example"}
        assert behind.post("/api/v1/runs", json={}, headers=foreign).status_code == 403
        assert behind.get("/api/v1/runs", headers=headers | {"Authorization": "Bearer x"}).status_code == 401

    def test_that_names_nobody_or_two_users_is_refused(self, behind):
        for headers in ([], [("X-Remote-User", "")], [("X-Remote-User", "cem"), ("X-Remote-User", "dora")]):
            assert behind.get("/", headers=[("Host", "pacs.example"), *headers]).status_code == 403

    def test_is_believed_from_its_own_address_alone(self, engine):
        url = engine.url.render_as_string(hide_password=False)
        with open_page(url, web_proxy="10.0.0.5", web_users="* operate") as client:
            assert client.get("/", headers={"X-Remote-User": "cem"}).status_code == 403

    def test_may_send_its_public_origin(self, behind):
        headers = {"X-Remote-User": "cem", "Host": "127.0.0.1:8000"}
        answer = behind.get("/login", headers=headers)
        form_token = read_form_token(answer.text)
        assert "; Secure" in answer.headers["Set-Cookie"]
        headers["Cookie"] = answer.headers["Set-Cookie"].partition(";")[0]  # the test's connection is not encrypted
        for origin, code in (("https://pacs.example", 303), ("https://evil.example", 403)):
            answer = behind.post(
                "/logout", data={"form_token": form_token}, headers=headers | {"Origin": origin}, follow_redirects=False
            )
            assert answer.status_code == code


def test_a_page_without_users_answers_this_host_alone(engine):
    url = engine.url.render_as_string(hide_password=False)
    with open_page(url, client=("192.168.1.7", 50000)) as client:
        answer = client.get("/")
        assert (answer.status_code, "Not from here" in answer.text) == (403, True)
        assert client.get("/healthz").status_code == 200
