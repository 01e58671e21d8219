"""The address of a broker: one Redis, or Sentinels."""

import pytest

from nightread.errors import SettingsError
from nightread.settings import read_settings
from worker.queue.broker import read_broker


def read(url):
    return read_broker(read_settings(broker_url=url))


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://h:1/0", "redis://h:1/0"),
        ("rediss://h:1/0", "rediss://h:1/0?ssl_cert_reqs=required"),
        ("rediss://h:1/0?ssl_ca_certs=/ca", "rediss://h:1/0?ssl_ca_certs=/ca&ssl_cert_reqs=required"),
        ("sentinel://a:1,b:2/3?master_name=m", "sentinel://a:1/3;sentinel://b:2/3"),
        ("sentinel://u:p@a,b?master_name=m", "sentinel://u:p@a:26379/0;sentinel://u:p@b:26379/0"),
        ("sentinel://:p@a:1;sentinel://:p@b:2/0?master_name=m", "sentinel://:p@a:1/0;sentinel://:p@b:2/0"),
    ],
)
def test_celery_gets_one_url_for_each_host(url, expected):
    assert read(url).url == expected


def test_sentinels_have_a_login_and_time_limits_of_their_own():
    options = read("sentinel://u:p@a:1/0?master_name=m&sentinel_password=q").options
    assert options["master_name"] == "m"
    assert options["sentinel_kwargs"] == {"socket_timeout": 2, "socket_connect_timeout": 2, "password": "q"}


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("sentinel://a:1/0", "lacks the name of the primary"),
        ("sentinel://a:1/0?master_name=m&master=x", "unknown parameter 'master'"),
    ],
)
def test_an_incomplete_address_of_sentinels_is_refused(url, said):
    with pytest.raises(SettingsError, match=said):
        read(url)


@pytest.mark.parametrize(
    "url",
    [
        "redis://:can@ary@h:1/0",
        "redis://:can#ary@h:1/0",
        "redis://:can/ary@h:1/0",
        "redis://:1/canary@h:1/0",
        "redis://:[canary]@h/0",
        "redis://:can\u2100ary@h/0",
        "redis://h:canary/0",
        "redis://h:1/canary",
    ],
)
def test_a_url_whose_password_cuts_it_is_refused_without_showing_it(url):
    with pytest.raises(SettingsError, match="NIGHTREAD_BROKER_URL") as raised:
        read_settings(broker_url=url)
    assert "ary" not in str(raised.value)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("redis://h:65536/0", "a port is no number up to 65535"),
        ("redis://a..b/0", "a host is no name"),
        ("redis://a,b:1/0", "several hosts"),
        ("redis://h/\uff10", "number of a database"),
        ("redis+socket://", "names no socket"),
        ("redis+socket:///s?virtual_host=x", "number of a database"),
        ("sentinel://a:1,b:65536/0?master_name=m", "a port is no number"),
        ("sentinel://a:1;sentinel://b:x/0?master_name=m", "a port is no number"),
        ("sentinel://a:1/x?master_name=m", "number of a database"),
        ('"redis://h/0"', "in quotes"),
    ],
)
def test_address_that_cannot_be_connected_to_is_refused_before_it_is_tried(url, said):
    with pytest.raises(SettingsError, match=f"NIGHTREAD_BROKER_URL: .*{said}"):
        read_settings(broker_url=url)


@pytest.mark.parametrize("password", ["can@ary", "can/ary", "can#ary", "[canary]"])
def test_so_is_one_of_the_database(password):
    with pytest.raises(SettingsError, match="%40") as raised:
        read_settings(database_url=f"postgresql://u:{password}@h/n")
    assert "ary" not in str(raised.value)


@pytest.mark.parametrize("url", ["postgresql://u:p@a:1,b:2/n", "postgresql://u@[::1]:5/n", "postgresql:///n?host=/run"])
def test_other_addresses_of_a_database_are_read(url):
    assert read_settings(database_url=url).database_url.get_secret_value() == url
