import warnings

import pytest

from nightread.bundle import find_bundle, load_bundle


@pytest.fixture(scope="session")
def shipped(tmp_path_factory):
    """The bundle that travels with the package."""
    return load_bundle(find_bundle("", tmp_path_factory.mktemp("no-models")))


@pytest.fixture(autouse=True)
def _quiet_decoders():
    """pytest takes back the filters that nightread sets when it is imported."""
    warnings.filterwarnings("ignore", module=r"(PIL|pydicom)(\.|$)")
