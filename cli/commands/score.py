"""`score`: scores scans in this process."""

import typer

from cli.embedded import score_here
from cli.options import Archives, Device, Json, Model, Name, NoGate
from cli.request_options import (
    AllowEmpty,
    DriftAlarm,
    Expect,
    FromFile,
    MaxFailed,
    MaxRejected,
    OnlyNew,
    Settle,
    SomePaths,
    find_paths,
)
from nightread.settings import read_settings


def score(  # one argument for each option
    paths: SomePaths = None,
    name: Name = None,
    model: Model = None,
    device: Device = None,
    no_gate: NoGate = False,
    archives: Archives = False,
    as_json: Json = False,
    settle: Settle = "0s",  # type: ignore[assignment]  # as typed: the parser makes seconds of it
    only_new: OnlyNew = False,
    from_file: FromFile = None,
    expect: Expect = None,
    max_rejected: MaxRejected = "50%",
    max_failed: MaxFailed = None,
    allow_empty: AllowEmpty = False,
    drift_alarm: DriftAlarm = False,
) -> None:
    """Score scans now, in this process, with no server.

    Results go to the database of NIGHTREAD_DATABASE_URL, by default an SQLite file in the user's data folder. Scans
    with a stored score are not scored again.

    Exit codes: 3 if scans failed, 4 if a guard trips, 6 if there is no scan.

    Example: nightread score ~/scans/tonight
    """
    settings = read_settings(model=model, device=device, gate=False if no_gate else None, archives=archives or None)
    sources, listed = find_paths(paths, from_file)
    asked = {
        "name": name, "settle_s": settle, "only_new": only_new, "max_rejected": max_rejected,
        "max_failed": max_failed, "expect": expect, "allow_empty": allow_empty, "drift_alarm": drift_alarm,
    }  # fmt: skip
    raise typer.Exit(score_here(settings, sources, asked, listed=listed, as_json=as_json))
