"""The ASGI application of the worklist page, which is read-only.

Start it with `uv run --extra web uvicorn --app-dir / web.app:make_app --factory`: without `--app-dir`, uvicorn would
import `web` from the current folder. It has no login: see docs/how-to/worklist.md.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from db.engine import make_engine
from nightread.errors import DatabaseError, SettingsError
from nightread.settings import Settings, read_settings
from web.errors import ERROR_HANDLERS
from web.guard import Guard
from web.pages import check_health, download_csv, show_run, show_runs
from web.pictures import Pictures
from web.scan_page import send_evidence, send_picture, send_thumbnail, show_scan
from web.showing import STATIC_FOLDER


def make_app(settings: Settings | None = None) -> Starlette:
    """Return the worklist page as an ASGI application; it connects to the database on the first request.

    Args:
        settings: settings with the database URL; None reads them from the environment.

    Raises:
        SystemExit: the environment's settings are wrong; uvicorn, which calls this function, prints the message.
        DatabaseUnavailable: the URL in `settings` is malformed.
    """
    try:
        known = settings or read_settings()
        engine = make_engine(known.database_url.get_secret_value())
    except (SettingsError, DatabaseError) as error:
        if settings is not None:
            raise
        raise SystemExit(f"error: {error}") from None

    @asynccontextmanager
    async def live(_app: Starlette) -> AsyncIterator[None]:
        yield
        engine.dispose()

    app = Starlette(
        routes=[
            Route("/", show_runs, name="runs"),
            Route("/runs/{reference}", show_run, name="run"),
            Route("/runs/{reference}/results.csv", download_csv, name="csv"),
            Route("/scans/{scan_id}", show_scan, name="scan"),
            Route("/scans/{scan_id}/picture.png", send_picture, name="picture"),
            Route("/scans/{scan_id}/thumbnail.webp", send_thumbnail, name="thumbnail"),
            Route("/scans/{scan_id}/evidence.png", send_evidence, name="evidence"),
            Route("/healthz", check_health, name="health"),
            Mount("/static", StaticFiles(directory=STATIC_FOLDER), name="static"),
        ],
        middleware=[Middleware(Guard)],
        exception_handlers=ERROR_HANDLERS,
        lifespan=live,
    )
    app.router.redirect_slashes = False  # would redirect to the requested host, which is wrong behind a proxy
    app.state.engine = engine
    app.state.schema_checked = False
    app.state.pictures = Pictures(known)
    return app
