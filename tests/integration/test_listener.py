"""The listener over the network: DCMTK and pynetdicom as senders."""

import logging
import socket
import ssl
import struct
import threading
import time

import pytest
import trustme
from pydicom import dcmread, uid
from pynetdicom.sop_class import CTImageStorage, Verification

from nightread.errors import SettingsError
from pacs.ae_title import Peer, check_title, read_address
from pacs.listener import STORAGE_CLASSES, TRANSFER_SYNTAXES
from pacs.tls import TlsFiles
from tests.dicom_peers import associated, listening, storescu, write_study
from tests.factories import CANARY, encode_jpeg, small_chest, write_dicom

CR = uid.ComputedRadiographyImageStorage


def test_dcmtk_sends_a_study_once_or_twice(tmp_path):
    files = write_study(tmp_path / "in", 0)
    with listening(tmp_path / "spool") as (listener, filed):
        storescu(listener.port, *files)
        storescu(listener.port, *files)
    assert [one.is_new for one in filed] == [True, True, False, False]
    for sent, one in zip(files, filed, strict=False):
        received = dcmread(tmp_path / "spool" / one.name)
        assert received.PixelData == dcmread(sent).PixelData
        assert received.PatientName == CANARY
    assert list((tmp_path / "spool/.incoming").iterdir()) == []


@pytest.mark.parametrize(
    ("option", "syntax"),
    [
        ("-xi", uid.ImplicitVRLittleEndian), ("-xb", uid.ExplicitVRBigEndian), ("-xy", uid.JPEGBaseline8Bit),
        ("-xx", uid.JPEGExtended12Bit), ("-xs", uid.JPEGLosslessSV1), ("-xt", uid.JPEGLSLossless),
        ("-xv", uid.JPEG2000Lossless), ("-xr", uid.RLELossless),
    ],
)  # fmt: skip
def test_dcmtk_sends_in_the_transfer_syntax(tmp_path, option, syntax):
    frame = encode_jpeg() if uid.UID(syntax).is_compressed else None
    file = write_dicom(tmp_path / "one.dcm", small_chest(), syntax=syntax, frame=frame)
    with listening(tmp_path / "spool") as (listener, filed):
        storescu(listener.port, option, file)
    assert dcmread(tmp_path / "spool" / filed[0].name).file_meta.TransferSyntaxUID == syntax


def test_answers_echo_and_takes_radiographs_only(tmp_path):
    with (
        listening(tmp_path / "spool") as (listener, _),
        associated(listener.port, Verification, CR, CTImageStorage) as peer,
    ):
        assert peer.send_c_echo().Status == 0
        assert {str(context.abstract_syntax) for context in peer.accepted_contexts} == {Verification, CR}
    assert len(STORAGE_CLASSES) < len(TRANSFER_SYNTAXES)


@pytest.mark.parametrize(("title", "called"), [("STRANGER", "NIGHTREAD"), ("MODALITY", "ANY-SCP")])
def test_refuses_other_titles(tmp_path, title, called):
    with (
        listening(tmp_path / "spool") as (listener, _),
        associated(listener.port, Verification, title=title, called=called) as peer,
    ):
        assert peer.is_rejected


def test_refuses_more_associations_than_allowed_for_now(tmp_path):
    with (
        listening(tmp_path / "spool", associations=1) as (listener, _),
        associated(listener.port, Verification) as first,
    ):
        assert first.is_established
        with associated(listener.port, Verification) as second:
            assert second.is_rejected


def test_other_threads_of_the_process_take_no_room(tmp_path):
    """Such as those of connections to its metrics."""
    done = threading.Event()
    others = [threading.Thread(target=done.wait) for _ in range(100)]
    for other in others:
        other.start()
    try:
        with listening(tmp_path / "spool") as (listener, _), associated(listener.port, Verification) as peer:
            assert peer.is_established
    finally:
        done.set()
        for other in others:
            other.join()


def test_refuses_associations_while_the_spool_is_full(tmp_path, caplog):
    with listening(tmp_path / "spool", min_free_bytes=2**62) as (listener, filed):
        said = storescu(listener.port, *write_study(tmp_path / "in", 0), expect=None).stderr
    assert "Temporary Congestion" in said
    assert filed == []
    assert "the spool is full" in caplog.text


def test_cuts_an_instance_that_is_too_large(tmp_path):
    with listening(tmp_path / "spool", max_file_bytes=10_000) as (listener, filed):
        large = write_dicom(tmp_path / "large.dcm", small_chest(0, 480, 576))
        assert storescu(listener.port, large, expect=None).returncode != 0
        storescu(listener.port, write_dicom(tmp_path / "small.dcm", small_chest(0, 40, 48)))
    assert len(filed) == 1
    assert list((tmp_path / "spool/.incoming").iterdir()) == []


def test_reads_no_pdu_of_a_length_that_was_not_announced(tmp_path):
    with listening(tmp_path / "spool") as (listener, _):
        with socket.create_connection(("127.0.0.1", listener.port), timeout=10) as peer:
            peer.sendall(struct.pack(">BBL", 1, 0, 2**31))
            assert peer.recv(1) == b""
        with associated(listener.port, Verification) as other:
            assert other.send_c_echo().Status == 0


def test_refuses_an_instance_without_study_and_says_nothing_of_it(tmp_path, caplog):
    caplog.set_level(logging.DEBUG)
    file = write_dicom(tmp_path / "one.dcm", StudyInstanceUID=None)
    with listening(tmp_path / "spool") as (listener, filed):
        assert "CannotUnderstand" in storescu(listener.port, file, expect=None).stderr
    assert filed == []
    assert "missing or no UID" in caplog.text
    assert CANARY not in caplog.text


def test_log_at_debug_holds_nobody(tmp_path, caplog):
    caplog.set_level(logging.DEBUG)
    logging.getLogger("pynetdicom").setLevel(logging.DEBUG)
    with listening(tmp_path / "spool") as (listener, _):
        storescu(listener.port, *write_study(tmp_path / "in", 0))
        storescu(listener.port, "-aec", "CANARY", *write_study(tmp_path / "in", 0), expect=None)
    assert "CANARY" not in caplog.text


def test_tls_asks_for_a_certificate_and_a_silent_client_delays_no_other(tmp_path):
    authority = trustme.CA()
    server, client = authority.issue_cert("127.0.0.1"), authority.issue_cert("client.example")
    server.private_key_and_cert_chain_pem.write_to_path(tmp_path / "server.pem")
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    context = TlsFiles(str(tmp_path / "server.pem"), authority=str(tmp_path / "ca.pem")).listen()
    trusting = ssl.create_default_context(cafile=str(tmp_path / "ca.pem"))
    with (
        listening(tmp_path / "spool", tls=context) as (listener, _),
        socket.create_connection(("127.0.0.1", listener.port)),
    ):
        began = time.monotonic()
        with (
            socket.create_connection(("127.0.0.1", listener.port), timeout=20) as plain,
            pytest.raises(ssl.SSLError),
            trusting.wrap_socket(plain, server_hostname="127.0.0.1") as anonymous,
        ):
            anonymous.recv(1)
        client.configure_cert(trusting)
        with associated(listener.port, Verification, tls_args=(trusting, "127.0.0.1")) as known:
            assert known.send_c_echo().Status == 0
        assert time.monotonic() - began < 20
    assert threading.active_count() < 50


def test_reads_names_and_addresses():
    assert str(Peer.read("PACS@[::1]:104")) == "PACS@[::1]:104"
    assert read_address("10.0.0.1:104") == ("10.0.0.1", 104)
    assert read_address("host") == ("", 0)
    for wrong in ("PACS", "PACS@host", "@host:1", "P\\S@host:1", "PACS@host:0", "PACS@host:99999"):
        with pytest.raises(SettingsError):
            Peer.read(wrong)
    with pytest.raises(SettingsError, match="16"):
        check_title("A" * 17)
