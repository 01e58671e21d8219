"""Templates, and formatting of values for people; text from file names is hostile until it is formatted here."""

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response

from db.runs import RunInfo
from nightread import text
from nightread.page_settings import STUDY_FIELD
from nightread.settings import Settings

_FOLDER: Final = Path(__file__).parent
STATIC_FOLDER: Final = _FOLDER / "static"
#: Path of the HTTP API.
API: Final = "/api/"
_PARTS_SHOWN = 2
#: The reader's theme, `light` or `dark`; the page's script sets it.
THEME_COOKIE: Final = "nightread_theme"


def render(
    request: Request, name: str, *, status_code: int = 200, headers: Mapping[str, str] | None = None, **context: Any
) -> HTMLResponse:
    """Render a template as a response; all values in `context` are escaped.

    Templates know `visitor` besides: the `web.guard.Visitor` of the request, None before it was admitted.
    """

    def link(route: str, **parameters: str) -> str:
        # A path without host: behind a proxy the host differs, and there may be a prefix (uvicorn --root-path).
        return f"{request.scope.get('root_path', '')}{request.app.url_path_for(route, **parameters)}"

    visitor = request.scope.get("state", {}).get("visitor")
    theme = "light" if request.cookies.get(THEME_COOKIE) == "light" else "dark"
    settings: Settings = request.app.state.settings
    html = _TEMPLATES.get_template(name).render(
        link=link, theme=theme, visitor=visitor, environment=(settings.web_name, settings.web_color), **context
    )
    # A URL may contain a lone surrogate, which cannot be encoded; text from the database does not.
    return HTMLResponse(html.encode("utf-8", "replace"), status_code, headers)


def is_api(request: Request) -> bool:
    """Return whether a program asks."""
    path: str = request.scope["path"]
    return path.removeprefix(request.scope.get("root_path", "")).startswith(API)


def refuse(
    request: Request, status_code: int, title: str, explanation: str, headers: Mapping[str, str] | None = None
) -> Response:
    """Say why a request is refused: to people as a page, to programs as JSON."""
    if is_api(request):
        # What a request held may be no text that can be encoded.
        told = explanation.encode("utf-8", "replace").decode()
        return JSONResponse({"error": told}, status_code, headers)
    return render(request, "error.html", status_code=status_code, headers=headers, title=title, explanation=explanation)


def link_viewer(settings: Settings, study_uid: str | None) -> str | None:
    """Return the address of a study in another viewer; None without a study, or without a viewer."""
    if not settings.web_viewer or not study_uid:
        return None
    return settings.web_viewer.replace(STUDY_FIELD, quote(study_uid, safe=""))


def show_text(text: str | None) -> str:
    """Escape invisible characters, such as line feeds and those that change the text direction."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text or "")


def show_path(path: str) -> list[str]:
    """Return the last parts of a path, after an ellipsis if there are more.

    The parts are displayed in elements of their own, so that two right-to-left names do not change places.
    """
    parts = [show_text(part) for part in path.split("/") if part] or [show_text(path)]
    return parts if len(parts) <= _PARTS_SHOWN else ["…", *parts[-_PARTS_SHOWN:]]


def show_score(score: float) -> str:
    """Format a score with four decimals; the CSV has all of them."""
    return f"{score:.4f}"


def show_count(count: int) -> str:
    """Format a count with thousands separators."""
    return f"{count:,}"


def show_time(time: datetime) -> str:
    """Format a time in the server's time zone."""
    return time.astimezone().strftime("%Y-%m-%d %H:%M")


def show_zone(time: datetime) -> str:
    """Return the name of the server's time zone at a time."""
    return time.astimezone().strftime("%Z")


def show_duration(run: RunInfo) -> str:
    """Format the duration of a run; "" if it has not ended."""
    if run.finished_at is None:
        return ""
    return text.show_duration((run.finished_at - run.created_at).total_seconds())


def _make_templates() -> Environment:
    loader = FileSystemLoader(_FOLDER / "templates")
    templates = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    templates.filters |= {
        "text": show_text, "path_parts": show_path, "score": show_score, "count": show_count, "time": show_time,
        "zone": show_zone, "duration": show_duration, "seconds": text.show_duration, "size": text.show_size,
    }  # fmt: skip
    return templates


_TEMPLATES: Final = _make_templates()
