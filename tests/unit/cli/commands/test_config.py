"""`nightread config`."""

import json

import pytest
from typer.testing import CliRunner

from cli.main import app
from nightread.settings import Settings


@pytest.fixture(autouse=True)
def _home(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    (tmp_path / "nightread").mkdir()
    (tmp_path / "nightread" / "settings.toml").write_text('device = "cpu"\nscan_roots = ["/a", "/b"]\n')
    monkeypatch.setenv("NIGHTREAD_BROKER_URL", "redis://publisher:hunter2@queue/0")
    monkeypatch.setenv("NIGHTREAD_NOTIFY_URLS", "slack://hunter2/B/C tgram://hunter2/1")
    monkeypatch.setenv("NIGHTREAD_ACCESSION_KEY", "hunter2hunter2hunter2")


def test_each_setting_has_its_value_and_source(tmp_path):
    shown = CliRunner().invoke(app, ["config", "--json"])
    settings = json.loads(shown.stdout)
    assert list(settings) == list(Settings.model_fields)
    assert settings["broker_url"] == {"value": "redis://publisher:***@queue/0", "source": "environment"}
    assert settings["accession_key"] == {"value": "***", "source": "environment"}
    assert settings["notify_urls"]["value"] == "***"
    assert settings["device"] == {"value": "cpu", "source": str(tmp_path / "nightread" / "settings.toml")}
    assert settings["scan_roots"]["value"] == ["/a", "/b"]
    assert settings["batch_size"] == {"value": 32, "source": "default"}


def test_the_table_shows_no_password():
    shown = CliRunner().invoke(app, ["config"])
    assert shown.exit_code == 0
    assert "hunter2" not in shown.output
    assert "NIGHTREAD_BROKER_URL" in shown.stdout
    assert "/a:/b" in shown.stdout
