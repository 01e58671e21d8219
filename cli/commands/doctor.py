"""`db` and `doctor`: what an operator does before the first night."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import typer

from cli.exits import Exit, explain
from cli.options import Json

if TYPE_CHECKING:
    from nightread.settings import Settings

db_app = typer.Typer(help="The results database.", no_args_is_help=True)


@db_app.callback()
def db() -> None:
    """The results database."""


@db_app.command()
def upgrade(as_json: Json = False) -> None:
    """Create the tables, or bring them to this release's schema.

    Example: nightread db upgrade
    """
    from cli.output.console import print_json, say
    from db.engine import make_engine
    from db.schema import upgrade as upgrade_schema
    from nightread.settings import read_settings

    before, now = upgrade_schema(make_engine(read_settings().database_url.get_secret_value()))
    if as_json:
        print_json({"before": before, "now": now})
    else:
        say(f"schema {now}, nothing to do" if before == now else f"schema {before or '(none)'} -> {now}")


def doctor(as_json: Json = False) -> None:
    """Check settings, database, broker, model, device and roots, and say what is wrong.

    Example: nightread doctor
    """
    from cli.output.console import print_json
    from cli.output.tables import make_table, out
    from nightread.settings import read_settings

    settings = read_settings()
    checks: dict[str, Callable[[Settings], str]] = {
        "database": _check_database,
        "broker": _check_broker,
        "model": _check_model,
        "roots": _check_roots,
    }
    findings = [_run_check(name, check, settings) for name, check in checks.items()]
    if as_json:
        print_json(findings)
    else:
        table = make_table("", "check", "found")
        for finding in findings:
            table.add_row("ok" if finding["ok"] else "WRONG", finding["check"], finding["found"])
        out.print(table)
    if not all(finding["ok"] for finding in findings):
        raise typer.Exit(Exit.ERROR)


def _run_check(name: str, check: "Callable[[Settings], str]", settings: "Settings") -> dict[str, Any]:
    try:
        return {"check": name, "ok": True, "found": check(settings)}
    except Exception as error:
        understood = explain(error)
        if understood is None:
            raise
        return {"check": name, "ok": False, "found": understood[0]}


def _check_database(settings: "Settings") -> str:
    from db.engine import make_engine
    from db.schema import REVISION, ensure_schema

    engine = make_engine(settings.database_url.get_secret_value())
    ensure_schema(engine)
    return f"{engine.url.render_as_string(hide_password=True)}, schema {REVISION}"


def _check_broker(settings: "Settings") -> str:
    if not settings.has_shared_broker:
        return "in this process: `score` works; `enqueue` and `worker` need NIGHTREAD_BROKER_URL=redis://HOST:6379/0"
    from worker.queue.celery_app import make_app
    from worker.queue.publisher import Publisher

    publisher = Publisher(make_app(settings), settings)
    return f"answers, {publisher.count_waiting()} messages waiting, {publisher.count_refused()} refused so far"


def _check_model(settings: "Settings") -> str:
    from db.schema import ensure_schema
    from worker.process import WorkerProcess
    from worker.registry.choose import choose_bundle

    process = WorkerProcess(settings)
    ensure_schema(process.engine)
    choice = choose_bundle(process.engine, settings)
    process.open_bundle(choice.bundle)
    card = choice.bundle.card
    return f"{card.reference} on {process.provider} (device {settings.device.value}), {card.digest[:12]}; {choice.why}"


def _check_roots(settings: "Settings") -> str:
    from nightread.settings import check_roots

    check_roots(settings)
    if not settings.scan_roots:
        return "NIGHTREAD_SCAN_ROOTS is not set: jobs may read whatever folders their run names; set it in production"
    return ", ".join(map(str, settings.scan_roots))
