"""`send`: results back to a PACS."""

from typing import Annotated

import typer

from cli.dicom_extra import import_dicom
from cli.exits import Exit
from cli.options import Json, NamedRun, read_duration_option
from cli.output.console import print_json, say, waiting
from cli.pacs_options import DespiteGuard, Only, Title, TlsCa, TlsCert, TlsKey, WithPictures, make_tls
from db.engine import reading
from db.runs import find_run
from db.schema import ensure_schema
from nightread.logs import configure_logging
from nightread.settings import read_settings
from worker.process import WorkerProcess


def send(
    run: NamedRun,
    to: Annotated[
        str, typer.Option("--to", metavar="PLACE", help="TITLE@HOST:PORT, or the URL of a DICOMweb server.")
    ],
    only: Only = None,
    sc: WithPictures = False,
    despite_guard: DespiteGuard = False,
    retry: Annotated[bool, typer.Option("--retry", help="Try deliveries again that were given up.")] = False,
    wait: Annotated[
        float,
        typer.Option(
            "--wait", metavar="DURATION", parser=read_duration_option,
            help="Keep trying for this long while the destination does not answer.",
        ),
    ] = "0s",  # type: ignore[assignment]  # as typed: the parser makes seconds of it
    aet: Title = "NIGHTREAD",
    tls_cert: TlsCert = None,
    tls_key: TlsKey = None,
    tls_ca: TlsCa = None,
    as_json: Json = False,
) -> None:  # fmt: skip
    """Send a Structured Report of each study to a PACS, each at most once.

    Needs the extra `dicom`. Repeat it until nothing waits: what was sent is not sent again. Exit codes: 5 if deliveries
    wait for another attempt, 1 if some were given up, 4 if a guard of the run tripped, so that nothing was sent. A
    schedule sends each night: `nightread schedule add --to`.

    Example: nightread send ward-a --to PACS@10.0.0.5:104 --only pneumonia
    """
    places, sender, reports = (import_dicom(name) for name in ("destination", "sender", "study_reports"))
    settings = read_settings()
    configure_logging(settings, default="WARNING")
    destination = places.open_destination(to, aet, make_tls(tls_cert, tls_key, tls_ca))
    kinds = [reports.Kind.REPORT, *([reports.Kind.CAPTURE] if sc else [])]
    process = WorkerProcess(settings)
    try:
        ensure_schema(process.engine)
        with reading(process.engine) as connection:
            found = find_run(connection, run)
        with waiting("sending"):
            done = sender.send_run(
                process,
                found,
                destination,
                kinds,
                only=only or (),
                revive=retry,
                despite_guard=despite_guard,
                wait_s=wait,
            )
    finally:
        destination.close()
        process.close()
    if as_json:
        print_json(
            {
                "run": found.id, "destination": destination.name, "sent": done.sent, "waiting": done.waiting,
                "dead": done.dead, "errors": done.errors,
            }
        )  # fmt: skip
    else:
        say(f"{destination.name}: {done.sent:,} sent, {done.waiting:,} waiting, {done.dead:,} given up")
        for error, count in done.errors.items():
            say(f"{count:,} x {error}")
    if done.waiting:
        raise typer.Exit(Exit.UNAVAILABLE)
    if done.dead:
        raise typer.Exit(Exit.ERROR)
