"""A broker's faults in one line each, and Redis behind Sentinel."""

import contextlib
import re
import socket
import threading

import pytest

from nightread.settings import read_settings
from tests.program import wait_until
from tests.services import RedisServer, find_free_port, run_redis, run_sentinel
from worker.errors import BrokerUnavailable
from worker.queue.celery_app import make_app
from worker.queue.publisher import Publisher

JOB_ID = "a" * 32


def make_publisher(url):
    settings = read_settings(broker_url=url)
    app = make_app(settings)
    app.conf.broker_transport_options["socket_timeout"] = 1
    return Publisher(app, settings)


def refuse(url):
    with pytest.raises(BrokerUnavailable) as raised:
        make_publisher(url).publish([JOB_ID])
    message = str(raised.value)
    assert "\n" not in message
    assert "NIGHTREAD_BROKER_URL" in message
    assert "canary" not in message
    return message


@pytest.fixture
def closing_port():
    """Port of a service that closes every connection, as PostgreSQL does for what is no message of its own."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def close_all():
            with contextlib.suppress(OSError):
                while True:
                    server.accept()[0].close()

        threading.Thread(target=close_all, daemon=True).start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def silent_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


class TestMistakes:
    @pytest.fixture
    def locked(self, tmp_path):
        with run_redis(tmp_path) as server:
            server.connect().config_set("requirepass", "right")
            yield server

    def test_a_wrong_password(self, locked):
        assert "refuses the user or the password" in refuse(f"redis://:canary@127.0.0.1:{locked.port}/0")

    def test_no_password(self, locked):
        assert "asks for a password; write redis://USER" in refuse(f"redis://127.0.0.1:{locked.port}/0")

    def test_a_password_that_none_asks_for(self, redis_server):
        assert "has no password; leave it out" in refuse(f"redis://:canary@127.0.0.1:{redis_server.port}/0")

    def test_a_database_that_does_not_exist(self, redis_server):
        assert "no database of that number; write /0" in refuse(f"redis://127.0.0.1:{redis_server.port}/99")

    def test_a_number_that_no_database_can_have(self, redis_server):
        assert "no database of that number" in refuse(f"redis://127.0.0.1:{redis_server.port}/{'9' * 20}")

    def test_a_redis_that_is_named_as_sentinel(self, redis_server):
        assert "it is no Sentinel" in refuse(f"sentinel://127.0.0.1:{redis_server.port}/0?master_name=m")

    def test_a_socket_that_is_not_there(self, tmp_path):
        assert "its socket cannot be opened" in refuse(f"redis+socket://{tmp_path}/redis.sock")

    def test_certificates_that_are_not_there(self, redis_server, tmp_path):
        # kombu keeps one pool for an address, whatever the certificates: another database is another address.
        url = f"rediss://127.0.0.1:{redis_server.port}/1?ssl_ca_certs={tmp_path}/ca.pem"
        assert "a file of its TLS parameters cannot be opened" in refuse(url)

    def test_an_unknown_host(self):
        assert "its host name is unknown" in refuse("redis://redis.invalid:6379/0")

    def test_nothing_listens(self):
        assert "nothing listens there" in refuse(f"redis://127.0.0.1:{find_free_port()}/0")

    def test_tls_on_a_plain_port(self, redis_server):
        assert "does not speak TLS; write redis://" in refuse(f"rediss://127.0.0.1:{redis_server.port}/0")

    def test_the_port_of_another_service(self, closing_port):
        assert "another service than Redis" in refuse(f"redis://127.0.0.1:{closing_port}/0")

    def test_a_service_that_keeps_silent(self, silent_port):
        assert "keeps silent" in refuse(f"redis://127.0.0.1:{silent_port}/0")

    def test_a_replica(self, tmp_path):
        with run_redis(tmp_path) as server:
            server.connect().replicaof("127.0.0.1", "1")
            assert "is a replica, which only reads" in refuse(server.url)

    def test_no_memory(self, tmp_path):
        with run_redis(tmp_path) as server:
            server.connect().config_set("maxmemory", "1")
            assert "has no memory left" in refuse(server.url)

    def test_a_user_without_rights(self, tmp_path):
        with run_redis(tmp_path) as server:
            server.connect().acl_setuser("reader", enabled=True, nopass=True, keys=["*"], categories=["+@read"])
            assert "denies this user" in refuse(f"redis://reader:x@127.0.0.1:{server.port}/0")

    def test_a_primary_that_no_sentinel_knows(self, redis_server, tmp_path):
        with run_sentinel(tmp_path, redis_server) as url:
            assert "no Sentinel that answers knows" in refuse(url.replace("master_name=night", "master_name=other"))


def test_messages_go_to_the_promoted_replica(tmp_path):
    (tmp_path / "second").mkdir()
    with run_redis(tmp_path) as primary:
        replica = RedisServer(tmp_path / "second")
        replica.start("--replicaof", "127.0.0.1", str(primary.port), "--repl-diskless-sync-delay", "0")
        try:
            primary.connect().config_set("repl-diskless-sync-delay", "0")
            wait_until(lambda: replica.connect().info()["master_link_status"] == "up", "the replica to follow")
            with run_sentinel(tmp_path, primary) as url:
                wait_until(lambda: re.search(rf"slave.*{replica.port}", (tmp_path / "sentinel.log").read_text()), "it")
                publisher = make_publisher(url)
                publisher.publish([JOB_ID])
                assert publisher.count_waiting() == 1
                wait_until(lambda: replica.connect().llen("nightread:nightread") == 1, "the replica to have it")
                primary.kill()
                wait_until(lambda: replica.connect().info()["role"] == "master", "the replica to be promoted")
                wait_until(lambda: _publishes(publisher), "the publisher to find it")
                assert publisher.count_waiting() >= 2
        finally:
            replica.kill()


def _publishes(publisher):
    with contextlib.suppress(BrokerUnavailable):
        publisher.publish([JOB_ID])
        return True
    return False
