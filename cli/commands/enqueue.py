"""`enqueue`: creates a run for workers."""

import typer

from cli.database import open_database
from cli.options import Archives, Json, Model, Name, NoGate, Paths, Wait
from cli.output.console import print_json, say, waiting
from cli.output.follow import follow_run
from nightread.settings import check_shared_broker, read_settings
from worker.runs.enqueue import Enqueued, enqueue_run


def enqueue(
    paths: Paths,
    name: Name = None,
    model: Model = None,
    no_gate: NoGate = False,
    archives: Archives = False,
    wait: Wait = False,
    as_json: Json = False,
) -> None:
    """Create a run for workers, publish its jobs and print its id.

    Example: nightread enqueue /scans/2026-11-22 --name ward-a --wait
    """
    settings = read_settings(model=model, gate=False if no_gate else None, archives=archives or None)
    check_shared_broker(settings, "enqueue")
    written: list[Enqueued] = []
    try:
        with waiting("listing scans"):
            engine = open_database(settings)
            enqueue_run(engine, settings, paths, name=name, on_commit=written.append)
    finally:  # the run exists even if the broker does not answer
        for enqueued in written:
            _print(enqueued, as_json)
    if wait:
        raise typer.Exit(follow_run(engine, written[0].run_id, as_json=as_json))


def _print(enqueued: Enqueued, as_json: bool) -> None:
    skipped = enqueued.skipped
    if as_json:
        print_json(
            {
                "run": enqueued.run_id, "found": enqueued.found, "skipped": sum(skipped.values()),
                "skipped_by_reason": skipped,
            }
        )  # fmt: skip
        return
    note = f" ({', '.join(f'{count} {reason}' for reason, count in skipped.items())} skipped)" if skipped else ""
    say(f"{enqueued.found:,} scans enqueued{note}; run:")
    typer.echo(enqueued.run_id)
