"""Pixels compared with DCMTK and GDCM, which share no code with the decoders here; skipped without them."""

import shutil
import subprocess

import numpy as np
import pydicom
import pytest
from PIL import Image

from nightread.scan.acquisition import MODALITIES, Accepted
from nightread.scan.decode import read_scan
from tests import factories
from tests.integration.test_representations import make_compressed, make_native, make_tagged, quantize

CHEST = factories.small_chest()
GRAY = CHEST / np.float32(255)
#: What `dcmj2pnm` does not decode: JPEG-LS, JPEG 2000, HTJ2K, JPEG XL and encapsulated native frames.
NOT_IN_DCMTK = (*(f"1.2.840.10008.1.2.4.{start}" for start in ("8", "9", "20", "11")), "1.2.840.10008.1.2.1.98")
#: What `gdcmconv` does not decode: JPEG 2000 part 2, HTJ2K, JPEG XL and encapsulated native frames.
NOT_IN_GDCM = (*(f"1.2.840.10008.1.2.4.{start}" for start in ("93", "20", "11")), "1.2.840.10008.1.2.1.98")


def run(program, *arguments):
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed (Debian packages dcmtk and libgdcm-tools)")
    return subprocess.run([program, *map(str, arguments)], check=True, capture_output=True, timeout=60)


def shown(data):
    scan = read_scan(data, max_pixels=10**7, accepted=Accepted(frozenset(MODALITIES)))
    return np.clip((scan.pixels.astype(np.float64) - scan.black) / (scan.white - scan.black), 0, 1)


def show_with_dcmtk(path):
    """Return the picture that DCMTK shows, (H, W) in [0, 1], with the first window or table of the file."""
    dataset = pydicom.dcmread(path, force=True, stop_before_pixels=True)
    option = ("+Wl", "1") if "VOILUTSequence" in dataset else ("+Wi", "1") if "WindowCenter" in dataset else ("-W",)
    target = path.with_suffix(".png")
    # +Mv: the bits of a VOI table are those that its entries take.
    run("dcmj2pnm", *option, "+Mv", "-O", "+on2", path, target)
    return np.asarray(Image.open(target)) / 65535


def differ(ours, theirs):
    """Return the largest difference but for one pixel in a thousand: rounding of lossy decoders differs."""
    return float(np.quantile(np.abs(ours - theirs), 0.999))


def test_dcmtk_shows_the_same_pictures(tmp_path):
    path = tmp_path / "scan.dcm"
    wrong, compared = {}, 0
    for name, data in [*make_native(GRAY), *make_tagged(GRAY), *make_compressed(GRAY)]:
        if name.startswith(NOT_IN_DCMTK):
            continue
        path.write_bytes(data)
        difference = differ(shown(data), show_with_dcmtk(path))
        compared += 1
        if difference > 1 / 255:
            wrong[name] = difference
    assert compared > 80
    assert wrong == {}


def test_gdcm_decodes_the_same_values(tmp_path):
    path, raw = tmp_path / "scan.dcm", tmp_path / "raw.dcm"
    wrong, compared = {}, 0
    for name, data in make_compressed(GRAY):
        if name.startswith(NOT_IN_GDCM):
            continue
        path.write_bytes(data)
        run("gdcmconv", "--raw", path, raw)
        theirs = pydicom.dcmread(raw).pixel_array.astype(np.float64)
        ours = read_scan(data, max_pixels=10**7).pixels
        compared += 1
        if differ(ours, theirs) > 1:
            wrong[name] = differ(ours, theirs)
    assert compared > 12
    assert wrong == {}


@pytest.mark.parametrize("bits", [8, 12, 16])
@pytest.mark.parametrize(
    "command",
    [
        *(("dcmcjpeg", "+el", "+sv", str(predictor)) for predictor in range(1, 8)), ("dcmcjpeg", "+e1"),
        ("dcmcjpeg", "+ee", "+q", "100"), ("dcmcjpeg", "+eb", "+q", "100"), ("dcmcjpls", "+el"),
        ("dcmcjpls", "+en", "+md", "1"), ("dcmcrle",), ("dcmconv", "+tb"), ("dcmconv", "+ti"), ("dcmconv", "+td"),
        ("gdcmconv", "--jpeg"), ("gdcmconv", "--jpegls"), ("gdcmconv", "--j2k"), ("gdcmconv", "--rle"),
    ],
    ids=" ".join,
)  # fmt: skip
def test_frames_of_other_encoders_are_decoded(tmp_path, command, bits):
    """Predictors, restart intervals, fragments and offset tables as DCMTK and GDCM write them."""
    pixels = quantize(GRAY, bits)
    window = {"WindowCenter": str(2 ** (bits - 1)), "WindowWidth": str(2**bits)}
    plain, coded = tmp_path / "plain.dcm", tmp_path / "coded.dcm"
    plain.write_bytes(factories.encode_dicom(pixels, BitsStored=bits, HighBit=bits - 1, **window))
    if command[0] == "dcmcjpeg" and (("+eb" in command and bits > 8) or ("+ee" in command and bits > 12)):
        pytest.skip("this process of JPEG is not that deep")
    run(*command, plain, coded)
    is_lossy = {"+ee", "+eb", "+en"} & set(command)
    np.testing.assert_allclose(shown(coded.read_bytes()), shown(plain.read_bytes()), atol=3 / 255 if is_lossy else 1e-9)
