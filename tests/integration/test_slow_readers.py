"""Readers that take nothing do not keep the page from others."""

import anyio
import pytest

from tests.web_page import add_night
from web import pages


@pytest.fixture
def download(engine, client):
    """Return the function that begins a download whose reader takes the first `taken` messages and then none."""
    client.get("/")
    run_id = add_night(engine, [0.5, 0.6])
    scope = {
        "type": "http", "method": "GET", "path": f"/runs/{run_id}/results.csv", "query_string": b"", "scheme": "http",
        "headers": [(b"host", b"localhost")], "server": ("localhost", 80), "client": ("127.0.0.1", 1),
        "http_version": "1.1",
    }  # fmt: skip

    async def start(taken, sent):
        async def send(message):
            sent.append(message)
            if len(sent) > taken:
                await anyio.sleep_forever()

        async def receive():
            await anyio.sleep_forever()

        await client.app(dict(scope), receive, send)

    return start


def test_a_reader_that_takes_nothing_is_ended_and_its_connection_returned(
    engine, client, download, monkeypatch, caplog
):
    monkeypatch.setattr(pages, "SEND_LIMIT_S", 0.2)
    anyio.run(download, 1, [])
    assert "its reader took nothing for 0.2 s" in caplog.text
    assert client.app.state.engine.pool.checkedout() == 0
    assert pages._STREAMS._value == pages.MOST_STREAMS


def test_sleeping_readers_leave_page_and_health_check_to_others(engine, client, download):
    async def sleep_and_ask():
        asked = []
        async with anyio.create_task_group() as group:
            for _ in range(2 * pages.MOST_STREAMS):
                group.start_soon(download, 1, sent := [])
                asked.append(sent)
            while not all(asked):  # noqa: ASYNC110  # eight readers, and no event of theirs
                await anyio.sleep(0.05)
            answers = [await anyio.to_thread.run_sync(client.get, path) for path in ("/", "/healthz")]
            group.cancel_scope.cancel()
        return [sent[0]["status"] for sent in asked], [answer.status_code for answer in answers]

    downloads, answers = anyio.run(sleep_and_ask)
    assert sorted(downloads) == [200] * pages.MOST_STREAMS + [503] * pages.MOST_STREAMS
    assert answers == [200, 200]
    assert pages._STREAMS._value == pages.MOST_STREAMS
