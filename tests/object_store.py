"""A local S3 server (moto) that tests can make fail, and objects in it."""

import contextlib
import os
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from email.utils import formatdate
from hashlib import md5
from pathlib import Path
from typing import Any
from urllib.parse import quote

from moto.server import create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server

from tests.factories import ROOT

#: What makes a request one of the buckets' owner; the server checks no signature.
OWNER = {
    "Authorization": "AWS4-HMAC-SHA256 Credential=owner/20260101/us-east-1/s3/aws4_request",
    "Content-Type": "application/octet-stream",
}


class _Quiet(WSGIRequestHandler):
    def log(self, *_: Any) -> None:
        pass


class ObjectServer:
    """The server.

    Attributes:
        url: its endpoint.
        asked: (method, path) of each request.
        held: objects by the path of a request, which the server answers itself: moto takes milliseconds for each.
        fault: answers a request of a method and path in the server's place: with a status, with seconds to wait for
            first, or with None for no fault.
    """

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []
        self.held: dict[str, bytes] = {}
        self.fault: Callable[[str, str], int | float | None] = lambda *_: None
        self._app = create_backend_app("s3")
        self._server = make_server("127.0.0.1", 0, self._answer, threaded=True, request_handler=_Quiet)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    @property
    def env(self) -> dict[str, str]:
        """The environment of a process that reads from it."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "GOOGLE_", "AZURE_"))}
        return kept | {
            "AWS_ENDPOINT_URL": self.url, "AWS_ALLOW_HTTP": "true", "AWS_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": "owner", "AWS_SECRET_ACCESS_KEY": "n0-secret",
        }  # fmt: skip

    def put(self, address: str, data: bytes = b"") -> None:
        """Store an object of BUCKET/KEY; of a name without a slash make the bucket."""
        request = urllib.request.Request(f"{self.url}/{quote(address)}", data, OWNER, method="PUT")
        with urllib.request.urlopen(request) as answer:
            answer.read()

    def put_folder(self, bucket: str, folder: Path) -> None:
        """Make a bucket that holds the files of a folder."""
        self.put(bucket)
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                self.put(f"{bucket}/{path.relative_to(folder)}", path.read_bytes())

    def serve(self) -> None:
        self._server.serve_forever(poll_interval=0.05)

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _answer(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        self.asked.append((method, path))
        fault = self.fault(method, path)
        if isinstance(fault, int):
            start_response(f"{fault} Fault", [("Content-Length", "0")])
            return []
        if fault is not None:
            time.sleep(fault)
        if method == "GET" and path in self.held:
            data = self.held[path]
            written = (
                ("ETag", f'"{md5(data, usedforsecurity=False).hexdigest()}"'),
                ("Last-Modified", formatdate(usegmt=True)),
            )
            start_response("200 OK", [("Content-Length", str(len(data))), *written])
            return [data]
        # Google's client escapes each sign of a name, which moto takes for a part of it.
        plain = f"{quote(path.encode('latin-1'))}?{environ['QUERY_STRING']}"
        environ |= {"RAW_URI": plain, "REQUEST_URI": plain}
        environ.setdefault("HTTP_AUTHORIZATION", OWNER["Authorization"])
        answer: Iterable[bytes] = self._app(environ, start_response)
        return answer


@contextlib.contextmanager
def run_object_server() -> Iterator[ObjectServer]:
    server = ObjectServer()
    thread = threading.Thread(target=server.serve, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.stop()
        thread.join()


def run_python(code: str, env: dict[str, str], *arguments: str) -> str:
    """Run Python in a process of its own and return its output.

    The threads of obstore stay in the process that has read an object, which could not be forked any more: no process
    of the tests reads one itself.
    """
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], env=env, cwd=ROOT, capture_output=True, text=True, timeout=60,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout
