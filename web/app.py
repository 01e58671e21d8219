"""The ASGI application of the worklist page: its routes. `nightread web` serves it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from db.engine import make_engine
from nightread.settings import Settings
from web.access import read_access
from web.api import make_routes
from web.drift_page import make_drifts, show_drift
from web.errors import ERROR_HANDLERS
from web.guard import Guard
from web.identity_provider import IdentityProvider
from web.login import begin_login, end_login, log_in, log_out, show_actions, show_login
from web.marks import mark_scan, show_next, undo
from web.model_pages import show_model, show_models, show_shadow
from web.pages import check_health, download_csv, show_run, show_runs
from web.pictures import Pictures
from web.queue_page import show_queue
from web.reason_page import show_failures
from web.recent import Recent
from web.run_actions import cancel, retry
from web.scan_page import send_evidence, send_picture, send_thumbnail, show_scan
from web.sessions import Attempts, Sessions
from web.showing import STATIC_FOLDER


def make_app(settings: Settings) -> Starlette:
    """Return the worklist page as an ASGI application; it connects to the database on the first request.

    Args:
        settings: database, users, and where scans and bundles lie.

    Raises:
        SettingsError: the users of the page are wrong.
        DatabaseUnavailable: the URL of the database is malformed.
    """
    access = read_access(settings)
    sessions = Sessions(access.key)
    engine = make_engine(settings.database_url.get_secret_value())

    @asynccontextmanager
    async def live(_app: Starlette) -> AsyncIterator[None]:
        yield
        engine.dispose()

    app = Starlette(
        routes=[
            Route("/", show_runs, name="runs"),
            Route("/runs/{reference}", show_run, name="run"),
            Route("/runs/{reference}/results.csv", download_csv, name="csv"),
            Route("/runs/{reference}/failures", show_failures, name="failures"),
            Route("/runs/{reference}/drift", show_drift, name="drift"),
            Route("/runs/{reference}/next", show_next, name="next"),
            Route("/runs/{reference}/undo", undo, methods=["POST"], name="undo"),
            Route("/runs/{reference}/retry", retry, methods=["POST"], name="retry"),
            Route("/runs/{reference}/cancel", cancel, methods=["POST"], name="cancel"),
            Route("/scans/{scan_id}/marks", mark_scan, methods=["POST"], name="mark"),
            Route("/scans/{scan_id}", show_scan, name="scan"),
            Route("/scans/{scan_id}/picture.png", send_picture, name="picture"),
            Route("/scans/{scan_id}/thumbnail.webp", send_thumbnail, name="thumbnail"),
            Route("/scans/{scan_id}/evidence.png", send_evidence, name="evidence"),
            Route("/queue", show_queue, name="queue"),
            Route("/models", show_models, name="models"),
            Route("/models/{name}/{version}", show_model, name="model"),
            Route("/models/{name}/{version}/beside/{other}/{other_version}", show_shadow, name="shadow"),
            Route("/login", show_login, name="login"),
            Route("/login", log_in, methods=["POST"]),
            Route("/login/begin", begin_login, name="begin_login"),
            Route("/login/return", end_login),
            Route("/logout", log_out, methods=["POST"], name="logout"),
            Route("/actions", show_actions, name="actions"),
            Route("/healthz", check_health, name="health"),
            *make_routes(),
            Mount("/static", StaticFiles(directory=STATIC_FOLDER), name="static"),
        ],
        middleware=[Middleware(Guard, access=access, sessions=sessions)],
        exception_handlers=ERROR_HANDLERS,
        lifespan=live,
    )
    app.router.redirect_slashes = False  # would redirect to the requested host, which is wrong behind a proxy
    app.state.engine = engine
    app.state.schema_checked = False
    app.state.pictures = Pictures(settings)
    app.state.facets = Recent(32)  # of runs, until their counts change
    app.state.drifts = make_drifts()
    app.state.access = access
    app.state.provider = IdentityProvider(settings, access.key) if access.has_provider else None
    app.state.settings = settings
    app.state.sessions = sessions
    app.state.attempts = Attempts()
    return app
