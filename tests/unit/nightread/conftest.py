import warnings

import pytest


@pytest.fixture(autouse=True)
def _quiet_decoders():
    """pytest takes back the filters that nightread sets when it is imported; what they do is tested in a process."""
    warnings.filterwarnings("ignore", module=r"(PIL|pydicom)(\.|$)")
