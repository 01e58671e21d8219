"""The hashed requirements of the container images."""

import re

import pytest

from tests.project import read

pytestmark = pytest.mark.parametrize("image", ["worker", "worker-cuda", "worker-dicom"])


def test_every_requirement_is_pinned_and_hashed(image):
    requirements = re.sub(r"\\\n\s*", " ", read(f"requirements/{image}.txt"))
    lines = [line for line in requirements.splitlines() if line and not line.lstrip().startswith("#")]
    assert len(lines) > 30
    for line in lines:
        requirement, *hashes = line.partition(" #")[0].split("--hash=")
        assert re.match(r"[a-z0-9][a-z0-9.-]*(\[[\w,]+\])?==\S+ ", requirement), line
        assert hashes, line
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", digest.strip()) for digest in hashes), line


def test_names_no_host_and_no_path(image):
    text = read(f"requirements/{image}.txt")
    assert "://" not in text
    assert "-i " not in text
    assert "/tmp" not in text


def test_holds_what_the_worker_imports_and_no_tensorflow(image):
    names = set(re.findall(r"^([a-z0-9-]+)==", read(f"requirements/{image}.txt"), re.MULTILINE))
    assert {"celery", "kombu", "redis", "sqlalchemy", "onnxruntime-gpu", "pillow", "pydicom", "psycopg"} <= names
    assert not {"tensorflow", "keras", "tf2onnx", "pytest", "nightread"} & names
