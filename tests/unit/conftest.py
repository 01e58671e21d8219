import warnings

import pytest
from hypothesis import settings

from nightread.model.bundle import find_bundle, load_bundle
from tests.factories import UNGATED_MODEL

# Equal examples on every machine, without a time limit for slow ones.
settings.register_profile("steady", derandomize=True, deadline=None)
settings.load_profile("steady")


@pytest.fixture(scope="session")
def shipped(tmp_path_factory):
    """The small shipped bundle, which has no input gate."""
    return load_bundle(find_bundle(UNGATED_MODEL, tmp_path_factory.mktemp("no-models")))


@pytest.fixture(autouse=True)
def _quiet_decoders():
    """Restore the warning filters that nightread sets at import and pytest resets; a subprocess test covers them."""
    warnings.filterwarnings("ignore", module=r"(PIL|pydicom)(\.|$)")
