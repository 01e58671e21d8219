"""Text for people."""

import pytest

from nightread.text import hide_password, show_duration, show_size, show_text


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://anna:hunter2@db/night", "postgresql://anna:***@db/night"),
        ("redis://:hunter2@h:6379/0", "redis://:***@h:6379/0"),
        ("redis://h:6379/0", "redis://h:6379/0"),
        ("postgresql://anna@db/night?sslpassword=hunter2&sslmode=require", "postgresql://anna@db/night?sslpassword=***&sslmode=require"),
        ("redis://:p@ss:hunter2@h/0", "redis://:***@h/0"),
        ("sqlite:////home/a/nightread.db", "sqlite:////home/a/nightread.db"),
        ("redis+socket:///run/r.sock?password=hunter2", "redis+socket:///run/r.sock?password=***"),
    ],
)  # fmt: skip
def test_no_url_shows_its_password(url, shown):
    assert hide_password(url) == shown


@pytest.mark.parametrize(
    ("count", "shown"), [(0, "0 B"), (999, "999 B"), (2**20, "1 MiB"), (3.5 * 2**30, "3.5 GiB"), (2**40, "1,024.0 GiB")]
)
def test_a_size_has_the_unit_that_fits(count, shown):
    assert show_size(count) == shown


@pytest.mark.parametrize(("seconds", "shown"), [(0.04, "0.0 s"), (99, "99.0 s"), (3600, "1 h 00 min")])
def test_a_duration_has_the_unit_that_fits(seconds, shown):
    assert show_duration(seconds) == shown


def test_control_characters_are_escaped():
    assert show_text("a\x1b[2J\u202e") == "a\\x1b[2J\\u202e"
