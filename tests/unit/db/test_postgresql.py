"""The URL of several hosts, in libpq's form and in SQLAlchemy's."""

import pytest
from sqlalchemy.engine import make_url

from db.engine import make_engine
from db.postgresql import split_hosts
from nightread.errors import DatabaseUnavailable


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("postgresql://u:p@a:1,b:2/n", "postgresql://u:p@/n?host=a:1&host=b:2"),
        ("postgresql://u:p@a:1,b:2/n?sslmode=require", "postgresql://u:p@/n?host=a:1&host=b:2&sslmode=require"),
        ("postgresql+psycopg://a,b/n", "postgresql+psycopg:///n?host=a&host=b"),
        ("postgresql://a,b", "postgresql://?host=a&host=b"),
        ("postgresql://u:p@a:1/n", "postgresql://u:p@a:1/n"),
        ("postgresql://u:p,q@a/n", "postgresql://u:p,q@a/n"),
        ("postgresql://u@a/n?options=-cx%3D1,2", "postgresql://u@a/n?options=-cx%3D1,2"),
        ("sqlite:///a,b.db", "sqlite:///a,b.db"),
    ],
)
def test_several_hosts_become_parameters_and_one_host_stays(url, expected):
    assert split_hosts(url) == expected
    make_url(split_hosts(url))


@pytest.mark.parametrize(
    ("parameters", "said"),
    [("port=x", "'x'"), ("host=/run&host=/tmp&port=1", "host=h1"), ("connect_timeout=soon", "connect_timeout='soon'")],
)
def test_parameters_that_cannot_be_read_are_named(parameters, said):
    with pytest.raises(DatabaseUnavailable, match=said):
        make_engine(f"postgresql://u@/n?{parameters}")
