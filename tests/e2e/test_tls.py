"""A run over TLS to Redis and PostgreSQL; connections with a wrong certificate or without TLS are refused."""

from pathlib import Path

import pytest
from sqlalchemy.engine import make_url

from tests.factories import small_chest, write_jpeg
from tests.program import last_json, make_environment, run, worker
from tests.tls import Authority, run_tls


@pytest.fixture
def authority(tmp_path):
    return Authority(tmp_path)


@pytest.fixture
def night(tmp_path):
    for seed in range(6):
        write_jpeg(tmp_path / "night" / f"{seed}.jpeg", small_chest(seed))
    return tmp_path / "night"


def to_redis(proxy, **options):
    query = "&".join(f"{name}={value}" for name, value in options.items())
    return f"rediss://localhost:{proxy.port}/0" + (f"?{query}" if query else "")


def to_postgres(url, proxy, **options):
    """Return the database's URL through a proxy."""
    over_tls = make_url(url).difference_update_query(["host"]).set(host="localhost", port=proxy.port)
    return over_tls.update_query_dict(options).render_as_string(hide_password=False)


def find_socket(url):
    return Path(make_url(url).query["host"]) / ".s.PGSQL.5432"


def test_a_night_goes_through_with_both_verified(authority, postgres_url, redis_url, redis_server, night, tmp_path):
    context = authority.make_context("localhost")
    with (
        run_tls(context, redis_server.port) as redis,
        run_tls(context, find_socket(postgres_url), is_postgres=True) as postgres,
    ):
        env = make_environment(
            tmp_path,
            database_url=to_postgres(postgres_url, postgres, sslmode="verify-full", sslrootcert=str(authority.file)),
            broker_url=to_redis(redis, ssl_ca_certs=authority.file),
        )
        run("db", "upgrade", env=env, cwd=tmp_path)
        with worker(env, tmp_path, tmp_path / "worker.log"):
            followed = last_json(run("enqueue", night, "--wait", "--json", env=env, cwd=tmp_path))
        assert "fail" not in run("doctor", env=env, cwd=tmp_path).stdout
        assert followed["scored"] == 6
        assert redis.connections > 2
        assert postgres.connections > 2


@pytest.mark.parametrize(
    ("signed_by", "name", "options"),
    [
        ("another", "localhost", {"ssl_ca_certs": "{file}"}),
        ("ours", "elsewhere.example", {"ssl_ca_certs": "{file}"}),
        ("ours", "localhost", {}),  # no authority is named, and the system's know nothing of it
        ("ours", "localhost", {"ssl_check_hostname": "true"}),
    ],
)
def test_a_redis_that_is_not_the_one_is_not_talked_to(
    authority, sqlite_url, redis_url, redis_server, tmp_path, signed_by, name, options
):
    signer = authority if signed_by == "ours" else Authority(tmp_path)
    given = {key: value.format(file=authority.file) for key, value in options.items()}
    with run_tls(signer.make_context(name), redis_server.port) as proxy:
        env = make_environment(tmp_path, database_url=sqlite_url, broker_url=to_redis(proxy, **given))
        found = run("doctor", env=env, cwd=tmp_path, expect=1).stdout
        assert "certificate is not accepted" in " ".join(found.split())
        assert proxy.connections == 0


@pytest.mark.parametrize(("signed_by", "name"), [("another", "localhost"), ("ours", "elsewhere.example")])
def test_a_postgres_that_is_not_the_one_is_not_talked_to(authority, postgres_url, tmp_path, signed_by, name):
    signer = authority if signed_by == "ours" else Authority(tmp_path)
    with run_tls(signer.make_context(name), find_socket(postgres_url), is_postgres=True) as proxy:
        url = to_postgres(postgres_url, proxy, sslmode="verify-full", sslrootcert=str(authority.file))
        said = run("db", "upgrade", env=make_environment(tmp_path, database_url=url), cwd=tmp_path, expect=5).stderr
        assert "certificate" in said
        assert proxy.connections == 0


def test_a_server_without_tls_is_refused_where_tls_is_asked_for(postgres_url, redis_server, sqlite_url, tmp_path):
    plain = make_environment(tmp_path, database_url=sqlite_url, broker_url=f"rediss://127.0.0.1:{redis_server.port}/0")
    assert "does not speak TLS" in " ".join(run("doctor", env=plain, cwd=tmp_path, expect=1).stdout.split())
