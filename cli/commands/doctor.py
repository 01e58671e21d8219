"""`doctor`: checks what a host needs before its first night."""

from collections.abc import Callable
from typing import Any

import typer

from cli.database import open_database
from cli.exits import Exit, explain
from cli.options import Json
from cli.output.console import print_json
from cli.output.tables import make_table, out, paint
from db.engine import make_engine
from db.schema import ensure_schema, read_revision
from db.server import describe_server, read_server
from nightread.settings import Settings, check_roots, read_settings
from worker.process import WorkerProcess
from worker.registry.choose import choose_bundle


def doctor(as_json: Json = False) -> None:
    """Check settings, database, broker, model, device and roots.

    The exit code is 1 if a check fails.

    Example: nightread doctor
    """
    settings = read_settings()
    checks: dict[str, Callable[[Settings], str]] = {
        "database": _check_database,
        "server": _check_server,
        "broker": _check_broker,
        "model": _check_model,
        "roots": _check_roots,
    }
    findings = [_run_check(name, check, settings) for name, check in checks.items()]
    if as_json:
        print_json(findings)
    else:
        table = make_table("", "check", "found", text=("found",))
        for finding in findings:
            table.add_row(paint("ok" if finding["ok"] else "fail"), finding["check"], finding["found"])
        out.print(table)
    if not all(finding["ok"] for finding in findings):
        raise typer.Exit(Exit.ERROR)


def _run_check(name: str, check: Callable[[Settings], str], settings: Settings) -> dict[str, Any]:
    try:
        return {"check": name, "ok": True, "found": check(settings)}
    except Exception as error:
        understood = explain(error)
        if understood is None:
            raise
        return {"check": name, "ok": False, "found": understood[0]}


def _check_database(settings: Settings) -> str:
    engine = open_database(settings)
    return f"{engine.url.render_as_string(hide_password=True)}, schema {read_revision(engine)}"


def _check_server(settings: Settings) -> str:
    engine = make_engine(settings.database_url.get_secret_value())
    if engine.dialect.name == "sqlite":
        return "none: one file, for the processes of this host"
    return describe_server(read_server(engine))


def _check_broker(settings: Settings) -> str:
    if not settings.has_shared_broker:
        return "in this process: `score` works; `enqueue` and `worker` need NIGHTREAD_BROKER_URL=redis://HOST:6379/0"
    from worker.queue.celery_app import make_app  # Celery, which a laptop does not wait for
    from worker.queue.publisher import Publisher

    publisher = Publisher(make_app(settings), settings)
    return f"answers, {publisher.count_waiting()} messages waiting, {publisher.count_refused()} refused so far"


def _check_model(settings: Settings) -> str:
    process = WorkerProcess(settings)
    ensure_schema(process.engine)
    choice = choose_bundle(process.engine, settings)
    process.open_bundle(choice.bundle)
    card = choice.bundle.card
    return f"{card.reference} on {process.provider} (device {settings.device.value}), {card.digest[:12]}; {choice.why}"


def _check_roots(settings: Settings) -> str:
    check_roots(settings)
    if not settings.scan_roots:
        return "NIGHTREAD_SCAN_ROOTS is not set: jobs may read any folder that their run names; set it in production"
    return ", ".join(map(str, settings.scan_roots))
