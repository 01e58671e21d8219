import warnings

import pytest
from hypothesis import settings

# The same examples on every machine, however slow it is.
settings.register_profile("steady", derandomize=True, deadline=None)
settings.load_profile("steady")


@pytest.fixture(autouse=True)
def _quiet_decoders():
    """pytest takes back the filters that nightread sets when it is imported; what they do is tested in a process."""
    warnings.filterwarnings("ignore", module=r"(PIL|pydicom)(\.|$)")
