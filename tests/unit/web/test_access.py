"""Users, roles, proxies, and which address needs them."""

import pytest

from nightread.errors import SettingsError
from nightread.page_settings import is_loopback
from nightread.settings import Settings
from web.access import Role, check_listening, read_access

ANA, BEN = "a" * 64, "b" * 64


def access_of(users="", **settings):
    return read_access(Settings(web_users=users, **settings))


def test_a_token_finds_its_user():
    access = access_of(f"# name role token\n\nana view {ANA}\n  ben   operate  {BEN}\n")
    assert access.find_by_token(ANA).name == "ana"
    assert access.find_by_token(BEN).role is Role.OPERATE
    assert access.local is None
    for wrong in ("", "a", ANA + "a", ANA.upper(), "\ud800"):
        assert access.find_by_token(wrong) is None


def test_each_role_may_do_what_those_before_it_may():
    assert [[role.allows(needed) for needed in Role] for role in Role] == [
        [True, False, False],
        [True, True, False],
        [True, True, True],
    ]


@pytest.mark.parametrize(
    ("users", "said"),
    [
        ("ana", "line 1 is no user"),
        (f"\nana admin {ANA}", "line 2 is no user"),
        (f"ana view {ANA} more", "line 1 is no user"),
        ("ana view short-secret", "fewer than 32"),
        (f"ana view {ANA}\nana mark {BEN}", "line 2 repeats the name"),
        (f"ana view {ANA}\nben mark {ANA}", "line 2 repeats the token"),
        (f"* view {ANA}", "line 1 has no name"),
        ("ana view", "no NIGHTREAD_WEB_PROXY or NIGHTREAD_WEB_OIDC_ISSUER"),
        (f"{'a' * 65} view {ANA}", "line 1 has no name"),
    ],
)
def test_a_wrong_list_of_users_is_told_without_tokens(users, said):
    with pytest.raises(SettingsError, match=said) as error:
        access_of(users)
    for secret in (ANA, "short-secret"):
        assert secret not in str(error.value)


def test_a_proxy_names_users_from_its_own_address_alone():
    access = access_of("ana operate\n* view", web_proxy="10.0.0.5, 10.1.0.0/16, ::1")
    assert [access.trusts(peer) for peer in ("10.0.0.5", "10.1.2.3", "::1")] == [True] * 3
    assert [access.trusts(peer) for peer in ("10.0.0.6", "127.0.0.1", "testclient", None)] == [False] * 4
    assert access.find_named("ana").role is Role.OPERATE
    assert access.find_named("someone").role is Role.VIEW
    for wrong in ("", "x" * 65, "a\nb"):
        assert access.find_named(wrong) is None
    assert access_of("ana operate", web_proxy="10.0.0.5").find_named("someone") is None


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"web_oidc_issuer": "https://login.example"}, "no user may do anything"),
        ({"web_oidc_issuer": "https://login.example", "users": "* view"}, "NIGHTREAD_WEB_OIDC_CLIENT is missing"),
        (
            {"web_oidc_issuer": "https://login.example", "users": "* view", "web_oidc_client": "page"},
            "NIGHTREAD_WEB_ADDRESS is missing",
        ),
        ({"web_oidc_client": "page"}, "NIGHTREAD_WEB_OIDC_ISSUER is missing"),
        ({"web_oidc_secret": "secret-of-the-page"}, "NIGHTREAD_WEB_OIDC_ISSUER is missing"),
    ],
)
def test_an_identity_provider_without_what_it_needs_is_told(settings, said):
    with pytest.raises(SettingsError, match=said) as error:
        access_of(**settings)
    assert "secret-of-the-page" not in str(error.value)


@pytest.mark.parametrize("issuer", ["login.example", "http://login.example", "http://10.0.0.5", "ftp://x", "https://["])
def test_an_identity_provider_has_an_address_with_tls(issuer):
    with pytest.raises(ValueError, match="no address of an identity provider"):
        Settings(web_oidc_issuer=issuer)


def test_a_user_with_a_token_is_named_by_nobody_else():
    access = access_of(f"ana operate {ANA}\n* view", web_proxy="10.0.0.5")
    assert access.find_named("ana") is None


@pytest.mark.parametrize("proxy", ["proxy.example", "10.0.0.0/99", "10.0.0.5/16"])
def test_a_wrong_proxy_is_told(proxy):
    with pytest.raises(SettingsError, match="NIGHTREAD_WEB_PROXY"):
        access_of("* view", web_proxy=proxy)


def test_a_proxy_without_roles_is_told():
    with pytest.raises(SettingsError, match="no user may do anything"):
        access_of(web_proxy="10.0.0.5")


def test_the_key_changes_with_every_token():
    one, same, other = (access_of(f"ana view {token}").key for token in (ANA, ANA, BEN))
    assert one == same != other
    assert access_of().key != access_of().key  # random, where no token could make it


def test_a_short_secret_of_an_identity_provider_signs_no_session(caplog):
    provider = {
        "web_oidc_issuer": "https://login.example",
        "web_oidc_client": "page",
        "web_address": "https://page.example",
    }

    def find_key(secret, users="* view"):
        return access_of(users, web_oidc_secret=secret, **provider).key

    assert find_key("s" * 32) == find_key("s" * 32) != find_key("t" * 32)
    assert find_key("s" * 31, f"ana view {ANA}\n* view") == find_key("s" * 31, f"ana view {ANA}\n* view")
    assert not caplog.records
    assert find_key("s" * 31) != find_key("s" * 31)  # nobody who guesses the secret can sign
    assert "NIGHTREAD_WEB_OIDC_SECRET has fewer than 32 characters" in caplog.text
    assert "s" * 31 not in caplog.text


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "nightread.example"])
def test_others_are_not_let_in_without_users(host):
    with pytest.raises(SettingsError, match="NIGHTREAD_WEB_USERS_FILE"):
        check_listening(access_of(), host)
    with pytest.raises(SettingsError, match="NIGHTREAD_WEB_ADDRESS"):
        check_listening(access_of(f"ana view {ANA}"), host)
    check_listening(access_of(f"ana view {ANA}", web_address="https://nightread.example"), host)


def test_this_host_needs_none():
    for host in ("127.0.0.1", "::1", "localhost", "127.5.5.5"):
        check_listening(access_of(), host)
        assert is_loopback(host)


@pytest.mark.parametrize(
    "address",
    [
        "nightread",
        "ftp://host",
        "https://",
        "https://user:pw@host",
        "https://host/?a=1",
        "https://host:x",
        "https://[::1",
    ],
)
def test_a_wrong_address_is_refused(address):
    with pytest.raises(ValueError, match="it is no address of a page"):
        Settings(web_address=address)


def test_an_address_has_origin_host_and_prefix():
    access = access_of(f"ana view {ANA}", web_address="https://Pacs.example:8443/nightread/")
    assert (access.origin, access.host, access.prefix) == (
        "https://pacs.example:8443", "pacs.example:8443", "/nightread",
    )  # fmt: skip
    assert access.is_encrypted
