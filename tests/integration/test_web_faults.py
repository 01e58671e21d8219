"""The worklist page and its health check without the run, the tables or the database."""

from pathlib import Path

import pytest
import sqlalchemy

from db.engine import make_engine, write
from db.schema import upgrade
from tests.db_factories import add_run
from tests.web_page import add_night, open_page
from web import pages
from web.lookup import find_requested_run


class TestErrors:
    @pytest.mark.parametrize("reference", ["none", "%00", "x" * 5000, "%ED%A0%80", "<script>"])
    def test_an_unknown_run_is_a_page_that_says_so(self, client, reference):
        response = client.get(f"/runs/{reference}")
        assert response.status_code == 404
        assert "Run not found" in response.text
        assert "<script>" not in response.text  # the page's own one has an address

    def test_a_beginning_of_several_ids_is_no_run(self, engine, client):
        for _ in range(17):
            add_run(engine, 1)
        assert any(client.get(f"/runs/{digit}").status_code == 404 for digit in "0123456789abcdef")

    def test_a_database_that_is_away_is_told_without_its_address(self, engine, client, monkeypatch):
        assert client.get("/").status_code == 200
        break_database(client.app, engine, monkeypatch)
        for address in ("/", "/runs/x", "/runs/x/results.csv"):
            response = client.get(address)
            assert response.status_code == 503
            assert "Database unavailable" in response.text
            assert "sqlite" not in response.text
            assert "postgresql" not in response.text
            assert response.headers["Retry-After"] == "30"

    def test_a_database_that_goes_away_before_the_first_row_of_a_csv_is_told(self, engine, client, monkeypatch):
        run_id = add_night(engine, [0.5])

        def find_and_break(connection, request):
            found = find_requested_run(connection, request)
            break_database(client.app, engine, monkeypatch)
            return found

        monkeypatch.setattr(pages, "find_requested_run", find_and_break)
        assert client.get(f"/runs/{run_id}/results.csv").status_code == 503

    def test_a_database_without_tables_is_told_and_left_alone(self, database_url):
        with open_page(database_url) as client:
            response = client.get("/")
            assert response.status_code == 503
            assert "nightread db upgrade" in response.text
            engine = make_engine(database_url)
            assert sqlalchemy.inspect(engine).get_table_names() == []
            upgrade(engine)
            engine.dispose()
            assert client.get("/").status_code == 200


class TestHealth:
    def test_of_a_quiet_database(self, client):
        response = client.get("/healthz")
        assert response.status_code == 200
        assert response.json() == {
            "status": "ok", "database_reachable": True, "schema_current": True, "open_jobs": 0,
            "seconds_since_last_scan": None,
        }  # fmt: skip

    def test_counts_open_jobs_and_the_time_since_a_scan_ended(self, engine, client):
        add_night(engine, [0.5, None])
        add_night(engine, [0.5], name="done")
        add_run(engine, 4, job_size=2)
        health = client.get("/healthz").json()
        assert health["open_jobs"] == 3
        assert 0 <= health["seconds_since_last_scan"] < 60

    def test_of_an_outdated_database(self, database_url):
        engine = make_engine(database_url)
        upgrade(engine)
        write(engine, lambda connection: connection.execute(
            sqlalchemy.text("UPDATE schema_version SET version_num = '0000'")
        ))  # fmt: skip
        engine.dispose()
        with open_page(database_url) as client:
            response = client.get("/healthz")
        assert response.status_code == 503
        assert response.json()["database_reachable"]
        assert not response.json()["schema_current"]

    def test_of_a_database_that_is_away(self, engine, client, monkeypatch):
        break_database(client.app, engine, monkeypatch)
        response = client.get("/healthz")
        assert response.status_code == 503
        assert response.json() == {
            "status": "unavailable", "database_reachable": False, "schema_current": False, "open_jobs": None,
            "seconds_since_last_scan": None,
        }  # fmt: skip


def break_database(app, engine, monkeypatch):
    """Point the page at a database that cannot be used."""
    if engine.dialect.name == "sqlite":
        file = Path(engine.url.database).with_name("no-database.db")
        file.write_bytes(b"no database" * 100)
        broken = make_engine(f"sqlite:///{file}")
    else:
        broken = make_engine(engine.url.set(host="127.0.0.1", port=1, query={}).render_as_string(hide_password=False))
    monkeypatch.setattr(app.state, "engine", broken)
