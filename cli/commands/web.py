"""`web`: serves the worklist page."""

from importlib import import_module
from pathlib import Path
from typing import Annotated

import typer

from cli.options import Listen, read_listen
from cli.output.console import say
from nightread.errors import NightreadError
from nightread.logs import configure_logging
from nightread.settings import read_settings


def web(
    listen: Listen = "127.0.0.1:8000",
    certificate: Annotated[
        Path | None, typer.Option("--certificate", metavar="FILE", help="PEM file of certificates, to serve TLS.")
    ] = None,
    key: Annotated[Path | None, typer.Option("--key", metavar="FILE", help="PEM file of its private key.")] = None,
) -> None:
    """Serve the worklist page, on which people look at runs and scans.

    Without users it answers this host alone. Others may look once NIGHTREAD_WEB_USERS_FILE names users, who have tokens
    or are named by a proxy (NIGHTREAD_WEB_PROXY) or an identity provider (NIGHTREAD_WEB_OIDC_ISSUER).

    Example: nightread web --listen 127.0.0.1:8000
    """
    if (certificate is None) is not (key is None):
        raise typer.BadParameter("a certificate needs its key: name both --certificate and --key")
    settings = read_settings()
    configure_logging(settings, default="WARNING")
    host, port = read_listen(listen)
    try:
        server = import_module("web.server")  # of the extra `web`
    except ModuleNotFoundError as error:
        raise NightreadError(
            f"the page needs {error.name}, which the extra `web` brings: uv run --extra web nightread web"
        ) from None
    server.serve(
        settings, host, port, certificate=certificate, key=key,
        on_start=lambda address: say(f"Worklist page: {address}   (Ctrl-C ends it)"),
    )  # fmt: skip
