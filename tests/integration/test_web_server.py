"""The page served over real sockets: slow and oversized requests, TLS, and addresses that need users."""

import re
import signal
import socket
import ssl
import subprocess
import threading
from contextlib import contextmanager

import pytest
import trustme
import uvicorn

from nightread.settings import Settings
from tests.program import PATIENCE_S, PROGRAM, make_environment, run
from web import server
from web.app import make_app

HEAD = b"GET /login HTTP/1.1\r\nHost: localhost\r\n"


@pytest.fixture
def port(sqlite_url, monkeypatch):
    """A served page that waits a quarter of a second for the head of a request, and for a reader."""
    monkeypatch.setattr(server, "HEAD_S", 0.25)
    monkeypatch.setattr(server, "TAKE_S", 0.25)
    config = uvicorn.Config(
        make_app(Settings(database_url=sqlite_url)), port=0, http=server.TimedProtocol, log_config=None, ws="none",
        h11_max_incomplete_event_size=server.HEAD_BYTES,
    )  # fmt: skip
    with server.listen("127.0.0.1", 0) as listening:
        served = uvicorn.Server(config)
        thread = threading.Thread(target=served.run, kwargs={"sockets": [listening]})
        thread.start()
        yield listening.getsockname()[1]
        served.should_exit = True
        thread.join(20)


@contextmanager
def connect(port):
    with socket.create_connection(("127.0.0.1", port), 20) as connection:
        yield connection


def read_all(connection):
    parts = []
    while part := connection.recv(65_536):
        parts.append(part)
    return b"".join(parts)


@pytest.mark.parametrize("sent", [b"", b"GET", HEAD, HEAD + b"X-Slow: "])
def test_a_request_that_does_not_arrive_is_ended(port, sent):
    with connect(port) as connection:
        connection.sendall(sent)
        assert read_all(connection) == b""


def test_a_second_request_that_does_not_arrive_is_ended_too(port):
    with connect(port) as connection:
        connection.sendall(HEAD + b"\r\n")
        answer = connection.recv(65_536)
        assert answer.startswith(b"HTTP/1.1 200")
        connection.sendall(b"GET")
        assert b"HTTP/1.1" not in read_all(connection)


def test_a_request_with_a_head_that_is_too_large_is_refused(port):
    with connect(port) as connection:
        connection.sendall(HEAD + b"X-Large: " + b"x" * server.HEAD_BYTES)
        assert read_all(connection).startswith(b"HTTP/1.1 400")


def test_a_reader_that_takes_nothing_is_ended(port):
    asked = b"GET /static/page.js HTTP/1.1\r\nHost: localhost\r\n\r\n"

    def ask_for_ever(connection):
        while True:  # a page that waited for the reader would take no further request, and this would time out
            connection.sendall(asked)

    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(20)
        connection.connect(("127.0.0.1", port))
        with pytest.raises(ConnectionError):
            ask_for_ever(connection)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT], ids=lambda number: number.name)
def test_program_serves_tls_and_stops_at_a_signal(tmp_path, number):
    authority = trustme.CA()
    issued = authority.issue_cert("localhost", "127.0.0.1")
    issued.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    issued.private_key_pem.write_to_path(tmp_path / "key.pem")
    options = ["--listen", "127.0.0.1:0", "--certificate", tmp_path / "cert.pem", "--key", tmp_path / "key.pem"]
    with subprocess.Popen(
        [PROGRAM, "web", *options], env=make_environment(tmp_path), stderr=subprocess.PIPE, text=True
    ) as process:
        line = process.stderr.readline()
        found = re.search(r"https://127\.0\.0\.1:(\d+)/", line)
        assert found, line
        context = ssl.create_default_context()
        authority.configure_trust(context)
        with connect(int(found[1])) as plain, context.wrap_socket(plain, server_hostname="localhost") as connection:
            connection.sendall(HEAD + b"Connection: close\r\n\r\n")
            assert read_all(connection).startswith(b"HTTP/1.1 200")
        process.send_signal(number)
        assert process.wait(PATIENCE_S) == 0
        assert process.stderr.read() == ""


def test_program_refuses_what_would_let_others_in(tmp_path):
    users = tmp_path / "users"
    users.write_text(f"ana view {'a' * 64}\n")
    for settings, said in (
        ({}, "NIGHTREAD_WEB_USERS_FILE"),
        ({"web_users_file": users}, "NIGHTREAD_WEB_ADDRESS"),
        ({"web_users_file": tmp_path / "missing"}, "No such file"),
    ):
        done = run(
            "web", "--listen", "0.0.0.0:0", env=make_environment(tmp_path, **settings), cwd=tmp_path, expect=None
        )
        assert done.returncode != 0
        assert said in done.stderr
        assert "a" * 64 not in done.stderr
        assert len(done.stderr.splitlines()) == 1


def test_program_tells_a_port_that_is_taken_and_a_certificate_that_is_none(tmp_path):
    (tmp_path / "cert.pem").write_text("nothing")
    environment = make_environment(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        done = run("web", "--listen", listen, env=environment, cwd=tmp_path, expect=None)
    assert "cannot listen on" in done.stderr
    options = ["--certificate", "cert.pem", "--key", "cert.pem"]
    done = run("web", "--listen", "127.0.0.1:0", *options, env=environment, cwd=tmp_path, expect=None)
    assert "cannot be used" in done.stderr
