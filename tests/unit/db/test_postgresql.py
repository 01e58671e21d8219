"""The URL of several hosts, in libpq's form and in SQLAlchemy's."""

import pytest
from sqlalchemy.engine import make_url

from db.postgresql import split_hosts


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
