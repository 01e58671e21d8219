"""`score`: scores scans in this process."""

import typer

from cli.embedded import score_here
from cli.options import Archives, Device, Json, Model, Name, NoGate, Paths
from nightread.settings import read_settings


def score(
    paths: Paths,
    name: Name = None,
    model: Model = None,
    device: Device = None,
    no_gate: NoGate = False,
    archives: Archives = False,
    as_json: Json = False,
) -> None:
    """Score scans now, in this process, with no server.

    Results go to the database of NIGHTREAD_DATABASE_URL, by default an SQLite file in the user's data folder. Scans
    with a stored score are not scored again.

    Example: nightread score ~/scans/tonight
    """
    settings = read_settings(model=model, device=device, gate=False if no_gate else None, archives=archives or None)
    raise typer.Exit(score_here(settings, paths, name=name, as_json=as_json))
