"""The page in a browser: the morning's way, marks by keyboard, login, both themes and three widths."""

import re
import shutil
import socket
import threading
from contextlib import contextmanager

import pytest
import uvicorn
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect, sync_playwright

from db.engine import make_engine
from db.types import ScanStatus
from nightread.settings import Settings
from tests.factories import small_chest, write_jpeg
from tests.program import make_environment, run, worker
from tests.web_page import add_night, list_files, shipped_model
from web.app import make_app

CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(not CHROMIUM, reason="no chromium: apt-get install chromium")
expect.set_options(timeout=30_000)
WIDTHS = {"laptop": (1280, 720), "tablet": (820, 1180), "phone": (390, 844)}
TOKEN = "t" * 64


def decide(score):
    return "pneumonia" if score > 0.9 else "uncertain" if score > 0.2 else "normal"


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@contextmanager
def serve(url, **settings):
    """Serve the page over a database; yields its address."""
    app = make_app(Settings(database_url=url, web_cache_bytes=0, **settings))
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, ws="none"))
    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        server.should_exit = True
        thread.join(20)


@contextmanager
def open_tab(browser, size=WIDTHS["laptop"], theme="dark", address=None):
    """Open a tab; at its end its console must hold no error."""
    context = browser.new_context(viewport={"width": size[0], "height": size[1]})
    if address:
        context.add_cookies([{"name": "nightread_theme", "value": theme, "url": address}])
    tab = context.new_page()
    tab.set_default_timeout(30_000)
    errors = []
    tab.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    tab.on("pageerror", lambda error: errors.append(str(error)))
    yield tab
    context.close()
    assert errors == []


def check_reading(tab, **options):
    """Check that axe-core finds nothing, and that nothing is wider than the window."""
    violations = Axe().run(tab, options=options or None).response["violations"]
    assert [(one["id"], [node["html"] for node in one["nodes"]]) for one in violations] == [], tab.url
    assert is_within(tab), tab.url


def is_within(tab):
    """Return whether nothing is wider than the window."""
    return tab.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


@pytest.fixture(scope="module")
def night(tmp_path_factory):
    """A night of 24 drawn scans in a database of its own, two of them uncertain; returns its URL."""
    folder = tmp_path_factory.mktemp("page")
    (folder / "night").mkdir()
    for number in range(24):
        write_jpeg(folder / "night" / f"patient-{number:02}.jpg", small_chest(number))
    url = f"sqlite:///{folder / 'nightread.db'}"
    environment = make_environment(folder, database_url=url)
    run("db", "upgrade", env=environment, cwd=folder)
    engine = make_engine(url)
    listed = list_files(folder / "night")
    scores = [0.95, 0.5, 0.4, *(0.1 + place / 1000 for place in range(len(listed) - 3))]
    add_night(
        engine, scores, found=listed, model=shipped_model(), sources=[str(folder / "night")], decide=decide,
        name="ward-1",
    )  # fmt: skip
    add_night(
        engine, [0.3, *[ScanStatus.REJECTED] * 2, ScanStatus.FAILED], found=list_files(folder / "night")[:4],
        model=shipped_model(), name="ward-2",
    )  # fmt: skip
    engine.dispose()
    return url


@pytest.fixture(scope="module")
def address(night):
    with serve(night, web_name="TEST", web_color="orange") as opened:
        yield opened


@pytest.mark.parametrize("theme", ["dark", "light"])
def test_the_way_of_a_morning_by_keyboard(browser, address, theme):
    with open_tab(browser, theme=theme, address=address) as tab:
        tab.goto(address)
        tab.get_by_role("link", name="ward-1").click()
        tab.get_by_role("link", name=re.compile("^uncertain")).click()
        tab.wait_for_url("**decision=uncertain")  # loaded: its script listens to keys
        expect(tab.locator("[data-row]")).to_have_count(2)
        tab.keyboard.press("j")
        tab.keyboard.press("Enter")
        tab.wait_for_url("**/scans/**")
        first = tab.url
        tab.keyboard.press("m")
        expect(tab.locator(".scale")).to_be_visible()
        tab.wait_for_function("document.querySelector('img.evidence').naturalWidth > 0")
        check_reading(tab)
        tab.goto(first)
        tab.keyboard.press("1")  # it is pneumonia, says the reader
        tab.wait_for_url(lambda url: url != first)
        expect(tab.locator("#marks")).to_contain_text("Nobody has reviewed it")
        tab.keyboard.press("u")
        tab.wait_for_url(first)
        expect(tab.locator("#marks")).to_contain_text("Nobody has reviewed it")
        tab.keyboard.press("n")
        tab.wait_for_url(lambda url: url != first)
        tab.keyboard.press("Escape")
        expect(tab.locator("[data-row]")).to_have_count(2)
        assert "decision=uncertain" in tab.url


def test_rows_are_marked_where_they_are(browser, address):
    with open_tab(browser) as tab:
        tab.goto(f"{address}/runs/ward-1")
        boxes = [row.bounding_box() for row in tab.locator("[data-row]").all()]
        assert sum(box["y"] + box["height"] <= 720 for box in boxes) >= 18
        tab.keyboard.press("j")
        tab.keyboard.press("a")
        row = tab.locator("[data-row]").first
        expect(row.locator("[data-review]")).to_contain_text("agree")
        expect(tab.locator("#filters")).to_contain_text("reviewed")
        expect(tab.locator("[data-row]").nth(1).locator("a")).to_be_focused()
        tab.keyboard.press("u")
        expect(row.locator("[data-review]")).to_be_empty()


PAGES = (
    "/", "/runs/ward-1", "/scans/1", "/runs/ward-2/failures", "/runs/ward-1/drift", "/queue", "/models",
    "/models/pneumonia-lite0/5", "/actions", "/login",
)  # fmt: skip


def test_pages_fit_each_width_and_are_read_by_everybody_in_both_themes(browser, night):
    with serve(night, web_role="operate", web_name="TEST", web_color="red") as address, open_tab(browser) as tab:
        for page in PAGES:
            tab.set_viewport_size({"width": 1280, "height": 720})
            tab.goto(f"{address}{page}")
            check_reading(tab)
            tab.evaluate("document.documentElement.dataset.theme = 'light'")
            check_reading(tab, runOnly=["color-contrast"])
            for width, height in (WIDTHS["tablet"], WIDTHS["phone"]):
                tab.set_viewport_size({"width": width, "height": height})
                assert is_within(tab), (page, width)
            check_reading(tab, runOnly=["color-contrast", "target-size", "scrollable-region-focusable"])


def test_a_long_word_in_an_error_fits_a_phone_and_times_name_their_zone(browser, address):
    width, height = WIDTHS["phone"]
    context = browser.new_context(viewport={"width": width, "height": height}, timezone_id="Europe/Berlin")
    tab = context.new_page()
    assert tab.goto(f"{address}/runs/{'W' * 300}").status == 404
    assert is_within(tab)
    tab.goto(f"{address}/")
    expect(tab.locator("caption")).to_have_text("Newest first. Times: your time zone, Europe/Berlin.")
    context.close()


def test_filters_of_a_phone_open_when_they_are_asked_for(browser, address):
    with open_tab(browser, WIDTHS["phone"]) as tab:
        tab.goto(f"{address}/runs/ward-1")
        assert tab.locator("[data-row]").first.bounding_box()["y"] < WIDTHS["phone"][1]
        uncertain = tab.get_by_role("link", name=re.compile("^uncertain"))
        expect(uncertain).to_be_hidden()
        tab.locator("summary", has_text="Filters").click()
        uncertain.click()
        expect(tab.locator("[data-row]")).to_have_count(2)
        expect(tab.locator("summary", has_text="Filters (1 chosen)")).to_be_visible()


def test_login_gives_a_role_and_logout_takes_it(browser, night):
    users = f"ana view {TOKEN}"
    with serve(night, web_users=users) as address, open_tab(browser) as tab:
        tab.goto(f"{address}/runs/ward-1?decision=uncertain")
        tab.get_by_label("Your token").fill(TOKEN)
        tab.keyboard.press("Enter")
        expect(tab.locator("[data-row]")).to_have_count(2)
        assert tab.url.endswith("/runs/ward-1?decision=uncertain")
        expect(tab.get_by_role("button", name="Undo my last mark")).to_have_count(0)
        tab.get_by_role("button", name="Log out").click()
        expect(tab.get_by_label("Your token")).to_be_visible()


def test_a_run_of_two_workers_is_live_and_what_failed_is_retried(browser, redis_url, tmp_path):
    (tmp_path / "night").mkdir()
    for number in range(48):
        write_jpeg(tmp_path / "night" / f"{number:02}.jpg", small_chest(number))
    file = tmp_path / "night" / "00.jpg"
    url = f"sqlite:///{tmp_path / 'nightread.db'}"
    environment = make_environment(
        tmp_path,
        database_url=url,
        broker_url=redis_url,
        scan_roots=tmp_path / "night",
        sweep_s=1,
        job_size=16,
        threads=1,
        max_attempts=1,
    )
    run("db", "upgrade", env=environment, cwd=tmp_path)
    run("enqueue", tmp_path / "night", "--name", "live", env=environment, cwd=tmp_path)
    away = file.rename(tmp_path / "away")
    given = {"web_role": "operate", "broker_url": redis_url}
    with serve(url, **given) as address, open_tab(browser) as tab:
        tab.goto(f"{address}/runs/live")
        expect(tab.locator("#sum")).to_contain_text("48 still to be scored")
        log = tmp_path / "workers.log"
        with worker(environment, tmp_path, log), worker(environment, tmp_path, log):
            # Not reloaded here: the page asks by itself, and loads itself again when the run has ended.
            expect(tab.locator("[data-connection]")).to_have_text("live", timeout=60_000)
            expect(tab.locator("h1 .badge")).to_have_text("finished", timeout=90_000)
            expect(tab.locator("#sum")).to_contain_text("48 found = 47 scored + 0 rejected + 1 failed")
            tab.get_by_role("link", name="Without a score").click()
            expect(tab.locator("main")).to_contain_text("mount the share on every host")
            away.rename(file)
            tab.get_by_role("button", name="Retry 1 failed").click()
            expect(tab.locator("#sum")).to_contain_text("48 found = 48 scored", timeout=90_000)
