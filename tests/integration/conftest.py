"""Fixtures of several integration tests."""

import pytest

from tests.web_page import open_page


@pytest.fixture
def client(engine):
    """The worklist page; SQLite and PostgreSQL in turn."""
    with open_page(engine.url.render_as_string(hide_password=False)) as client:
        yield client
