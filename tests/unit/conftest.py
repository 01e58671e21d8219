import warnings

import pytest
from hypothesis import settings

from nightread.model.bundle import find_bundle, load_bundle
from tests.factories import UNGATED_MODEL

# The same examples on every machine, however slow it is.
settings.register_profile("steady", derandomize=True, deadline=None)
settings.load_profile("steady")


@pytest.fixture(scope="session")
def shipped(tmp_path_factory):
    """The small bundle that travels with the package, which scores whatever it is shown."""
    return load_bundle(find_bundle(UNGATED_MODEL, tmp_path_factory.mktemp("no-models")))


@pytest.fixture(autouse=True)
def _quiet_decoders():
    """pytest takes back the filters that nightread sets when it is imported; what they do is tested in a process."""
    warnings.filterwarnings("ignore", module=r"(PIL|pydicom)(\.|$)")
