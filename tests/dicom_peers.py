"""The other side of DICOM traffic: DCMTK's programs, and pynetdicom as a client."""

import contextlib
import gc
import json
import os
import shutil
import ssl
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pynetdicom import AE, evt

from pacs.listener import Listener, ListenerOptions
from pacs.spool import Filed, Spool
from tests.factories import small_chest, write_dicom
from tests.services import find_free_port

TITLE = "MODALITY"
_DICOMWEB = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
#: Different chests; a drawing takes a tenth of a second.
_DRAWN = 40


def find_dcmtk(name: str) -> str:
    """Return the path of a program of DCMTK; skips the test if it is not installed."""
    # pynetdicom installs programs of the same names beside Python.
    own = os.path.dirname(sys.executable)  # noqa: PTH120  # as it stands in PATH
    folders = [folder for folder in os.get_exec_path() if folder != own]
    program = shutil.which(name, path=os.pathsep.join(folders))
    if program is None:
        pytest.skip(f"{name} is not installed: apt-get install dcmtk")
    return program


def storescu(
    port: int, *arguments: Any, expect: int | None = 0, title: str = TITLE
) -> subprocess.CompletedProcess[str]:
    """Send files or folders with DCMTK."""
    command = [find_dcmtk("storescu"), "-v", "-aet", title, "-aec", "NIGHTREAD", "127.0.0.1", port, *arguments]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=60, check=False)
    assert expect is None or done.returncode == expect, done.stderr
    return done


def write_study(folder: Path, number: int, instances: int = 2, pixels: Any = None, **fields: Any) -> list[Path]:
    """Write a study of drawn chests, or of the same pixels each; its UIDs follow from its number."""
    return [
        write_dicom(
            folder / f"{number}-{index}.dcm",
            small_chest((2 * number + index) % _DRAWN) if pixels is None else pixels,
            **{
                "StudyInstanceUID": f"1.2.276.{number + 1}", "SeriesInstanceUID": f"1.2.276.{number + 1}.1",
                "SOPInstanceUID": f"1.2.276.{number + 1}.1.{index + 1}", "StudyDate": "20261129",
            }
            | fields,
        )
        for index in range(instances)
    ]  # fmt: skip


@contextlib.contextmanager
def listening(folder: Path, **options: Any) -> Iterator[tuple[Listener, list[Filed]]]:
    """Yield a listener on a free port, and what it has filed."""
    limits = {name: options.pop(name) for name in ("max_bytes", "min_free_bytes") if name in options}
    spool = Spool(folder, **{"max_bytes": 0, "min_free_bytes": 0} | limits)
    filed: list[Filed] = []
    given = {"title": "NIGHTREAD", "host": "127.0.0.1", "port": 0, "allowed": [TITLE]} | options
    listener = Listener(spool, ListenerOptions(**given), filed.append)
    try:
        yield listener, filed
    finally:
        listener.close()
        spool.close()


@contextlib.contextmanager
def associated(
    port: int, *classes: str, title: str = TITLE, called: str = "NIGHTREAD", **options: Any
) -> Iterator[Any]:
    """Yield an association with a listener, established or not."""
    ae = AE(ae_title=title)
    syntax = options.pop("syntax", None)
    for one in classes:
        ae.add_requested_context(one, syntax)
    association = ae.associate("127.0.0.1", port, ae_title=called, **options)
    try:
        yield association
    finally:
        if association.is_established:
            association.release()


@contextlib.contextmanager
def accepting(
    *classes: str, title: str = "PACS", answer: Any = 0x0000, tls: ssl.SSLContext | None = None,
    keep: Callable[[Any], Any] = lambda dataset: dataset,
) -> Iterator[tuple[int, list[Any]]]:  # fmt: skip
    """Yield the port of an application that takes instances, and what it keeps of each data set that it got."""
    got: list[Any] = []
    taking = threading.Lock()

    def store(event: evt.Event) -> int:
        with taking:
            got.append(keep(event.dataset))
            return answer(len(got)) if callable(answer) else answer

    ae = AE(ae_title=title)
    for one in classes:
        ae.add_supported_context(one)
    server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, store)], ssl_context=tls)
    try:
        yield server.server_address[1], got
    finally:
        ae.shutdown()
        gc.collect()  # pynetdicom leaves sockets to it when a handshake fails; here their warnings are filtered


@contextlib.contextmanager
def orthanc(folder: Path, peers: dict[str, Any] | None = None, **more: Any) -> Iterator[tuple[int, int]]:
    """Yield the ports of an Orthanc, for HTTP and DICOM; skips the test if it is not installed.

    Args:
        folder: holds its data.
        peers: applications that it sends to by C-MOVE.
        more: settings of its own.
    """
    program = shutil.which("Orthanc")
    if program is None or not _DICOMWEB.exists():
        pytest.skip("Orthanc is not installed: apt-get install orthanc orthanc-dicomweb")
    http, dicom = find_free_port(), find_free_port()
    folder.mkdir()
    settings = {
        "Name": "test", "StorageDirectory": str(folder), "IndexDirectory": str(folder), "HttpPort": http,
        "DicomPort": dicom, "DicomAet": "ORTHANC", "DicomCheckCalledAet": False, "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False, "Plugins": [str(_DICOMWEB)],
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/"}, "DicomAlwaysAllowEcho": True,
        "DicomAlwaysAllowStore": True,
        "DicomAlwaysAllowFind": True, "DicomAlwaysAllowGet": True,
        "DicomAlwaysAllowMove": True, "DicomModalities": peers or {},
    } | more  # fmt: skip
    (folder / "orthanc.json").write_text(json.dumps(settings))
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([program, folder / "orthanc.json"], stdout=log, stderr=log)
    try:
        wait_for(lambda: ask_orthanc(http, "/system"))
        yield http, dicom
    finally:
        process.kill()
        process.wait()


def ask_orthanc(port: int, path: str) -> Any:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
            return json.load(answer)
    except OSError:
        return None


def post_orthanc(port: int, path: str, data: bytes) -> Any:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", data, timeout=20) as answer:
        return json.load(answer)


def wait_for(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 40
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)
