from pathlib import Path

import pytest
import typer

from cli.commands.receive import receive
from nightread.errors import SettingsError


@pytest.mark.parametrize(
    ("options", "error", "line"),
    [
        ({"allow": ["A" * 17]}, SettingsError, "is no AE title"),
        ({"listen": "nowhere"}, typer.BadParameter, "is no address"),
        ({"tls_key": Path("key.pem")}, SettingsError, "--tls-cert"),
        ({"tls_cert": Path("none.pem")}, SettingsError, "cannot be read"),
    ],
)
def test_wrong_option_is_named(tmp_path, monkeypatch, options, error, line):
    monkeypatch.setenv("NIGHTREAD_BROKER_URL", "redis://127.0.0.1:1/0")
    with pytest.raises(error, match=line):
        receive(**{"spool": tmp_path / "spool", "allow": ["PACS"]} | options)


def test_needs_a_broker_that_workers_share(tmp_path):
    with pytest.raises(SettingsError, match="broker"):
        receive(spool=tmp_path / "spool", allow=["PACS"])
