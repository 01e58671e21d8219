"""`enqueue`: creates a run for workers."""

from typing import Annotated

import typer

from cli.database import open_database
from cli.exits import Exit
from cli.options import Archives, Json, Model, Name, NoGate, Wait, read_duration_option
from cli.output.console import print_json, say, waiting
from cli.output.follow import follow_run
from cli.output.run_summary import say_nothing_new
from cli.request import AsPriority, make_request
from cli.request_options import (
    AllowEmpty,
    DriftAlarm,
    Expect,
    FromFile,
    Key,
    MaxFailed,
    MaxRejected,
    OnlyNew,
    Settle,
    SomePaths,
    find_paths,
)
from db.types import Priority
from nightread.settings import check_shared_broker, read_settings
from worker.errors import NothingNew
from worker.runs.enqueue import Enqueued, enqueue_run


def enqueue(  # one argument for each option
    paths: SomePaths = None,
    name: Name = None,
    model: Model = None,
    no_gate: NoGate = False,
    archives: Archives = False,
    priority: AsPriority = Priority.NORMAL,
    wait: Wait = False,
    timeout: Annotated[
        float | None,
        typer.Option(
            "--timeout",
            metavar="DURATION",
            parser=read_duration_option,
            help="With --wait: longest wait; then exit code 5, and the run goes on.",
        ),
    ] = None,
    as_json: Json = False,
    key: Key = None,
    settle: Settle = "0s",  # type: ignore[assignment]  # as typed: the parser makes seconds of it
    only_new: OnlyNew = False,
    from_file: FromFile = None,
    expect: Expect = None,
    max_rejected: MaxRejected = "50%",
    max_failed: MaxFailed = None,
    allow_empty: AllowEmpty = False,
    drift_alarm: DriftAlarm = False,
) -> None:
    """Create a run for workers, publish its jobs and print its id.

    Exit codes with --wait: 3 if scans failed, 4 if a guard trips, 6 if there is no scan (without --wait, too).

    Example: nightread enqueue /scans/2026-11-22 --key 2026-11-22/ward-a --settle 60s --expect 200..900
    """  # fmt: skip
    settings = read_settings(model=model, gate=False if no_gate else None, archives=archives or None)
    check_shared_broker(settings, "enqueue")
    request = make_request(
        name=name, key=key, priority=priority, settle_s=settle, only_new=only_new, max_rejected=max_rejected,
        max_failed=max_failed, expect=expect, allow_empty=allow_empty, drift_alarm=drift_alarm,
    )  # fmt: skip
    sources, listed = find_paths(paths, from_file)
    written: list[Enqueued] = []
    try:
        with waiting("listing scans"):
            engine = open_database(settings)
            enqueue_run(engine, settings, sources, request=request, listed=listed, on_commit=written.append)
    except NothingNew as nothing:
        say_nothing_new(str(nothing), as_json)
        return
    except KeyboardInterrupt:
        say(
            "Interrupted: the run is written, and workers score it." if written else "Interrupted: nothing is enqueued."
        )
        raise typer.Exit(Exit.INTERRUPTED) from None
    finally:  # the run exists even if the broker does not answer
        for enqueued in written:
            _print(enqueued, as_json)
    if wait:
        raise typer.Exit(follow_run(engine, written[0].run_id, as_json=as_json, timeout_s=timeout))


def _print(enqueued: Enqueued, as_json: bool) -> None:
    skipped = enqueued.skipped
    if as_json:
        print_json(
            {
                "run": enqueued.run_id, "found": enqueued.found, "skipped": sum(skipped.values()),
                "skipped_by_reason": skipped, "existed": enqueued.existed,
            }
        )  # fmt: skip
        return
    note = f" ({', '.join(f'{count} {reason}' for reason, count in skipped.items())} skipped)" if skipped else ""
    if enqueued.existed:
        say(f"enqueued before with this key, {enqueued.found:,} scans; run:")
    else:
        say(f"{enqueued.found:,} scans enqueued{note}; run:")
    typer.echo(enqueued.run_id)
