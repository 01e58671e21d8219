"""Login by an OpenID Connect identity provider that runs here, and attacks on it."""

import base64
import hmac
import json
import re
import time

import httpx2
import pytest
from joserfc import jwt
from joserfc.jwk import KeySet, OctKey, RSAKey

from tests.identity_provider import CLIENT, SECRET, serve_provider
from tests.integration.test_web_access import TOKENS, log_in, read_actions, read_form_token, send
from tests.web_page import add_night, open_page
from web.sessions import ATTEMPTS, COOKIE

USERS = f"ana mark\n* view\nben operate {TOKENS['ben']}\n"


@pytest.fixture
def provider():
    with serve_provider() as served:
        yield served


@pytest.fixture
def open_with(sqlite_engine, provider):
    """Return a function that opens the page with this provider."""

    def open_with(**settings):
        given = {
            "web_users": USERS, "web_oidc_issuer": provider.address, "web_oidc_client": CLIENT,
            "web_oidc_secret": SECRET, "web_address": "http://localhost",
        }  # fmt: skip
        return open_page(sqlite_engine.url.render_as_string(hide_password=False), **{**given, **settings})

    return open_with


@pytest.fixture
def page(open_with):
    with open_with() as client:
        yield client


def go_to_provider(page, path="/login/begin"):
    """Begin a login and let the provider answer; returns the address to which it sends the browser back."""
    answer = page.get(path, follow_redirects=False)
    assert answer.status_code == 303, answer.text
    back = httpx2.get(answer.headers["Location"], follow_redirects=False).headers["Location"]
    assert back.startswith("http://localhost/login/return?")
    return back


def log_in_there(page, path="/login/begin"):
    return page.get(go_to_provider(page, path), follow_redirects=False)


def sign_by_hand(algorithm, claims, key):
    """Return a token that no library would sign; without a key its signature is empty."""
    parts = [json.dumps({"alg": algorithm, "kid": "1"}), json.dumps(claims)]
    signed = b".".join(base64.urlsafe_b64encode(part.encode()).rstrip(b"=") for part in parts)
    signature = b"" if key is None else hmac.digest(key, signed, "sha256")
    return b".".join([signed, base64.urlsafe_b64encode(signature).rstrip(b"=")]).decode()


class TestLogin:
    def test_leads_there_and_back(self, sqlite_engine, page):
        run_id = add_night(sqlite_engine, [0.5])
        shown = page.get(f"/runs/{run_id}?decision=normal").text
        link = re.search(r'href="(/login/begin[^"]*)"', shown)[1]
        answer = log_in_there(page, link)
        assert (answer.status_code, answer.headers["Location"]) == (303, f"/runs/{run_id}?decision=normal")
        assert ">ana</span>" in page.get("/").text
        assert read_actions(sqlite_engine) == [("ana", "mark", "login")]

    def test_cookies_are_kept_from_scripts_and_other_sites(self, page):
        begun = page.get("/login/begin", follow_redirects=False)
        assert re.search(r"nightread_login=.*HttpOnly.*Path=/login; SameSite=lax", begun.headers["Set-Cookie"])
        cookies = log_in_there(page).headers.get_list("Set-Cookie")
        assert any(cookie.startswith(f"{COOKIE}=") and "HttpOnly" in cookie for cookie in cookies)

    def test_role_comes_from_the_list_of_users(self, provider, page):
        provider.claims["preferred_username"] = "eva"
        log_in_there(page)
        assert page.get("/").status_code == 200
        answer = send(page, "/scans/1/marks", form_token=read_form_token(page.get("/").text), kind="seen")
        assert answer.status_code == 403

    def test_nobody_without_a_role(self, open_with):
        with open_with(web_users="eva mark") as page:
            answer = log_in_there(page)
            assert answer.status_code == 403
            assert "Nobody has given you a role" in answer.text
            assert page.get("/", follow_redirects=False).status_code == 303

    def test_users_with_tokens_log_in_beside_them(self, page):
        assert log_in(page, "ben").status_code == 303
        assert ">ben</span>" in page.get("/").text

    def test_form_for_tokens_is_there_for_users_with_tokens_alone(self, open_with):
        with open_with(web_users="* view") as page:
            assert 'name="token"' not in page.get("/login").text

    def test_verified_email_names_the_user(self, provider, open_with):
        with open_with(web_oidc_claim="email", web_users="ana@hospital.example view") as page:
            provider.claims = {"email": "ana@hospital.example", "email_verified": False}
            assert log_in_there(page).status_code == 403
            provider.claims["email_verified"] = True
            assert log_in_there(page).status_code == 303

    def test_new_keys_of_the_provider_are_fetched(self, provider, page):
        log_in_there(page)
        provider.keys = KeySet([RSAKey.generate_key(2048, {"kid": "2"})])
        assert log_in_there(page).status_code == 303
        assert provider.asked.count("keys") == 2
        assert provider.asked.count("discovery") == 1

    def test_logout_ends_the_session_here(self, page):
        log_in_there(page)
        send(page, "/logout", form_token=read_form_token(page.get("/").text))
        assert page.get("/", follow_redirects=False).status_code == 303


class TestAttacks:
    @pytest.mark.parametrize(
        "claims",
        [
            {"nonce": "another"}, {"nonce": None}, {"iss": "http://127.0.0.1:9"}, {"aud": "another"}, {"aud": None},
            {"aud": [CLIENT, "another"], "azp": "another"}, {"exp": int(time.time()) - 3600}, {"exp": None},
            {"iat": int(time.time()) + 3600}, {"sub": None}, {"preferred_username": None},
            {"preferred_username": ["ana"]}, {"preferred_username": "a\nb"},
            {"preferred_username": "ben"},  # has a token, and more rights
        ],
    )  # fmt: skip
    def test_wrong_claims_log_nobody_in(self, sqlite_engine, provider, page, claims):
        provider.claims.update(claims)
        assert log_in_there(page).status_code == 403
        assert page.get("/", follow_redirects=False).status_code == 303
        assert read_actions(sqlite_engine) == []

    @pytest.mark.parametrize("kind", ["none", "shared secret", "public key as secret", "another key", "no token"])
    def test_wrong_signatures_log_nobody_in(self, provider, page, kind):
        public = provider.keys.keys[0].as_pem(private=False)
        other = RSAKey.generate_key(2048, {"kid": "1"})
        provider.sign = {
            "none": lambda claims: sign_by_hand("none", claims, None),
            "shared secret": lambda claims: jwt.encode({"alg": "HS256"}, claims, OctKey.import_key(SECRET)),
            "public key as secret": lambda claims: sign_by_hand("HS256", claims, public),
            "another key": lambda claims: jwt.encode({"alg": "RS256", "kid": "1"}, claims, other),
            "no token": lambda _: "x",
        }[kind]
        assert log_in_there(page).status_code == 403
        assert page.get("/", follow_redirects=False).status_code == 303

    def test_login_of_another_browser_is_not_ended_here(self, page, open_with):
        with open_with() as attacker:
            back = go_to_provider(attacker)
        assert page.get(back, follow_redirects=False).status_code == 403  # without a cookie
        page.get("/login/begin", follow_redirects=False)
        assert page.get(back, follow_redirects=False).status_code == 403  # with that of another login
        assert page.get("/", follow_redirects=False).status_code == 303

    def test_code_counts_once(self, page):
        back = go_to_provider(page)
        cookie = page.cookies["nightread_login"]
        assert page.get(back, follow_redirects=False).status_code == 303
        page.cookies.clear()
        page.cookies.set("nightread_login", cookie, path="/login")
        assert page.get(back, follow_redirects=False).status_code == 403

    @pytest.mark.parametrize("answer", ["error=access_denied", "code=", f"code={'x' * 5000}", "iss=http://x&code=1"])
    def test_refusal_of_the_provider_is_told(self, page, answer):
        state = re.search(r"state=([^&]+)", page.get("/login/begin", follow_redirects=False).headers["Location"])[1]
        assert page.get(f"/login/return?state={state}&{answer}", follow_redirects=False).status_code == 403

    @pytest.mark.parametrize("following", ["//evil.example", "https://evil.example", "/\\evil.example"])
    def test_leads_to_no_other_site(self, page, following):
        assert log_in_there(page, f"/login/begin?next={following}").headers["Location"] == "/"

    def test_is_limited_in_rate(self, provider, page):
        codes = [page.get("/login/return?state=x", follow_redirects=False).status_code for _ in range(ATTEMPTS + 1)]
        assert codes == [403] * ATTEMPTS + [429]
        assert provider.asked == []

    def test_page_without_a_provider_has_no_such_address(self, sqlite_engine):
        url = sqlite_engine.url.render_as_string(hide_password=False)
        with open_page(url, web_users=f"ben operate {TOKENS['ben']}") as page:
            for path in ("/login/begin", "/login/return?code=1&state=2"):
                assert page.get(path, follow_redirects=False).status_code == 404


class TestProvider:
    @pytest.mark.parametrize(
        "known",
        [
            {"issuer": "https://another.example"}, {"token_endpoint": "http://10.0.0.5/token"},
            {"jwks_uri": None}, {"authorization_endpoint": "javascript:1"},
        ],
    )  # fmt: skip
    def test_with_wrong_words_is_not_asked(self, provider, page, known):
        provider.known = known
        answer = page.get("/login/begin", follow_redirects=False)
        assert answer.status_code == 503
        assert "identity provider" in answer.text

    def test_that_is_down_is_told_and_asked_again(self, provider, open_with):
        address = provider.address
        with open_with(web_oidc_issuer="http://127.0.0.1:1") as page:
            answer = page.get("/login/begin", follow_redirects=False)
            assert answer.status_code == 503
            assert "cannot be reached" in answer.text
        with open_with(web_oidc_issuer=address) as page:
            assert log_in_there(page).status_code == 303
