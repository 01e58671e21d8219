"""Text for people."""

import pytest

from nightread.text import hide_password, read_duration, show_duration, show_size, show_text


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://anna:hunter2@db/night", "postgresql://anna:***@db/night"),
        ("redis://:hunter2@h:6379/0", "redis://:***@h:6379/0"),
        ("redis://h:6379/0", "redis://h:6379/0"),
        ("rediss://hunter2@h:6379/0", "rediss://***@h:6379/0"),
        ("postgresql://anna@db/night?sslpassword=hunter2&sslmode=require", "postgresql://anna@db/night?sslpassword=***&sslmode=require"),
        ("redis://:p@ss:hunter2@h/0", "redis://:***@h/0"),
        ("sqlite:////home/a/nightread.db", "sqlite:////home/a/nightread.db"),
        ("redis+socket:///run/r.sock?password=hunter2", "redis+socket:///run/r.sock?password=***"),
        ("redis://:hun/ter2@h:6379/0", "redis://***"),
        ("redis://:hun?ter2@h:6379/0", "redis://***"),
        ("redis://:hun#ter2@h:6379/0", "redis://***"),
        ("redis://h:hunter2/0", "redis://***/0"),
        ("redis://h:6379/0?hunter2", "redis://h:6379/0?***=***"),
        ("redis://h/0?passwd=hunter2&api_key=hunter2", "redis://h/0?***=***&***=***"),
        ("sentinel://:hunter2@a:1;sentinel://:hunter2@b:2/0", "sentinel://***"),
        ("postgresql://anna:hunter2@a:1,b:2/night", "postgresql://anna:***@a:1,b:2/night"),
        ("postgresql://anna:hunter2@[::1]:5432/night", "postgresql://anna:***@[::1]:5432/night"),
        ("hunter2", "***"), ("hunter2://x", "hunter2://x"),
    ],
)  # fmt: skip
def test_no_url_shows_its_password(url, shown):
    assert hide_password(url) == shown


PLACES = [
    "postgresql://anna:CANARY@h/d", "postgresql://h/d?password=CANARY", "postgresql://h/d?sslpassword=CANARY&a=b",
    "postgresql://h/d?passfile=CANARY", "redis://anna:CANARY%2F@h:1/0?x=CANARY", "redis://:CAN%41RY@h/0",
]  # fmt: skip


@pytest.mark.parametrize("special", list("/?#@:&=;,[]% \n"))
@pytest.mark.parametrize("place", PLACES)
def test_no_part_of_a_password_is_shown_whatever_it_holds(place, special):
    password = f"hunter{special}two"
    for url in (place.replace("CANARY", password), place.replace("CANARY", password + "@" + password)):
        shown = hide_password(url)
        assert "two" not in shown
        assert "hunter" not in shown


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


def test_duration_that_no_clock_can_subtract_is_refused():
    assert read_duration("2600w") == 2600 * 7 * 86_400
    for text in ("2601w", "999999999d"):
        with pytest.raises(ValueError, match="longer than the longest duration, 2,600w"):
            read_duration(text)
