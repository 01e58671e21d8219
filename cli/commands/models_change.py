"""`models import`, `promote`, `rollback` and `retire`: what changes the registry."""

import getpass
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.options import Json

if TYPE_CHECKING:
    from db.registry import Request, Turnover
    from nightread.scan.preprocessing import InputSpec, Tensor
    from worker.registry.import_model import Imported

#: Inputs of a parity file: drawn ones where none are given, and the most of those that are.
_DRAWN_INPUTS = 8
_MOST_INPUTS = 32
#: Sides of a drawn chest, larger than any network's input in use.
_DRAWN_PX = (600, 720)

Version = Annotated[str, typer.Argument(metavar="NAME@VERSION", help="One version of a model bundle.")]


def add_commands(app: typer.Typer) -> None:
    """Add the commands to `nightread models`."""
    app.command("import")(import_model)
    for command in (promote, rollback, retire):
        app.command()(command)


def import_model(
    source: Annotated[
        Path, typer.Argument(metavar="SOURCE", help="A bundle's folder, or an ONNX file from elsewhere.")
    ],
    card: Annotated[Path | None, typer.Option("--card", help="The card of an ONNX file, as JSON.")] = None,
    inputs: Annotated[
        list[Path] | None,
        typer.Option(
            "--inputs",
            help="Scans whose prepared pixels the new bundle carries for its parity check; may be repeated. Drawn "
            "chests if left out.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Take a model into NIGHTREAD_MODELS_DIR and the database, as a candidate.

    A bundle's folder is checked and copied. An ONNX file needs a card: the fields that `nightread models show --json`
    prints, without digest and files. Bundles never change: another digest needs another version.

    Example: nightread models import model.onnx --card card.json
    """
    from cli.commands.runs import open_database
    from cli.output.console import print_json, say, waiting
    from nightread.errors import NightreadError
    from nightread.settings import read_settings
    from worker.errors import WrongPaths
    from worker.registry.import_model import import_bundle, import_onnx

    settings = read_settings()
    if not source.exists():
        raise WrongPaths(f"there is no {source}: name a bundle's folder or an ONNX file")
    if source.is_dir() and (card or inputs):
        raise NightreadError(
            f"{source} is a folder, and a bundle brings its own card and inputs: leave out the options"
        )
    if not source.is_dir() and card is None:
        raise NightreadError(
            f"{source} is no bundle's folder; an ONNX file needs --card card.json, which holds what "
            "`nightread models show --json` prints, without digest and files"
        )
    engine = open_database()
    with waiting("checking the model"):
        if card is None:
            imported = import_bundle(engine, settings, source)
        else:
            imported = import_onnx(
                engine, settings, source, card, lambda spec: _make_inputs(spec, inputs or [], settings.max_pixels)
            )
    if as_json:
        print_json(_describe_import(imported))
        return
    reference = imported.bundle.card.reference
    if not imported.is_new:
        say(f"{reference} was imported before: nothing changed")
        return
    say(f"{reference} is a candidate, in {imported.folder}; digest {imported.bundle.digest}")
    say(f"next: nightread models check {reference}; nightread shadow RUN --model {reference}; "
        f"nightread models promote {reference}", style="dim")  # fmt: skip


def promote(model: Version, as_json: Json = False) -> None:
    """Make a bundle the production model: new runs take it where none is named. Runs that have begun keep theirs.

    It is checked on this machine first. The production model before becomes a candidate again. No worker is restarted,
    but every host of workers must have the bundle.

    Example: nightread models promote pneumonia-cnn75@2
    """
    from cli.commands.runs import open_database
    from cli.output.console import waiting
    from db.engine import write
    from db.registry import promote_model
    from nightread.inference.scorer import Scorer
    from nightread.machine import count_cores
    from nightread.settings import read_settings
    from worker.registry.choose import choose_bundle, describe_model

    settings = read_settings(model=_need_version(model))
    engine = open_database()
    with waiting("checking the model"):
        bundle = choose_bundle(engine, settings).bundle
        Scorer(bundle, settings.device, settings.threads or count_cores())
    request = _make_request()
    _tell_turnover(
        write(engine, lambda connection: promote_model(connection, describe_model(bundle), request)), as_json
    )


def rollback(as_json: Json = False) -> None:
    """Put the production model before back in production; repeated, the one before that.

    Models that were retired meanwhile are passed over.

    Example: nightread models rollback
    """
    from cli.commands.runs import open_database
    from db.engine import write
    from db.registry import roll_back

    engine = open_database()
    request = _make_request()
    _tell_turnover(write(engine, lambda connection: roll_back(connection, request)), as_json)


def retire(
    model: Version,
    undo: Annotated[bool, typer.Option("--undo", help="Make a retired model a candidate again.")] = False,
    as_json: Json = False,
) -> None:
    """Take a model out of use: new runs with it are refused. What it has scored stays, and its runs go on.

    The production model cannot be retired: promote another first.

    Example: nightread models retire pneumonia-cnn75@1
    """
    from cli.commands.runs import open_database
    from cli.output.console import print_json, say
    from db.engine import reading, write
    from db.registry import find_model, register_model, restore_model, retire_model
    from nightread.model.bundle import find_bundle, load_bundle
    from nightread.settings import read_settings
    from worker.registry.choose import describe_model

    name, _, version = _need_version(model).partition("@")
    engine = open_database()
    with reading(engine) as connection:
        stored = find_model(connection, name, version)
    if stored is None:  # a bundle that lies here and was never used
        unused = describe_model(load_bundle(find_bundle(model, read_settings().models_dir)))
        write(engine, lambda connection: register_model(connection, unused))
        digest = unused.digest
    else:
        digest = stored.digest
    request = _make_request()
    change = restore_model if undo else retire_model
    changed = write(engine, lambda connection: change(connection, digest, request))
    with reading(engine) as connection:
        now = find_model(connection, name, version)
    stage = now.stage.value if now is not None else ""
    if as_json:
        print_json({"model": model, "stage": stage, "changed": changed})
    else:
        say(f"{model} is {stage}" + ("" if changed else "; nothing changed"))


def _make_request() -> "Request":
    from db.registry import Request

    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user may have a number and no name
        user = str(os.getuid())
    return Request(f"{user}@{os.uname().nodename}")


def _need_version(model: str) -> str:
    """Return NAME@VERSION as it was given; a name alone would mean another bundle tomorrow."""
    name, _, version = model.partition("@")
    if not (name and version):
        raise typer.BadParameter(f"{model} names no version: write NAME@VERSION", param_hint="NAME@VERSION")
    return model


def _tell_turnover(turnover: "Turnover", as_json: bool) -> None:
    from cli.output.console import print_json, say

    now, before = turnover.production.reference, turnover.replaced.reference if turnover.replaced else None
    if as_json:
        print_json({"production": now, "digest": turnover.production.digest, "replaced": before})
        return
    say(f"{now} is in production{f', in place of {before}' if before else ''}")
    say("new runs take it; runs that have begun keep theirs. Every host of workers needs its bundle", style="dim")


def _describe_import(imported: "Imported") -> dict[str, Any]:
    card = imported.bundle.card
    return {
        "model": card.reference, "digest": card.digest, "folder": str(imported.folder), "new": imported.is_new,
        "parity_scans": len(imported.bundle.parity_inputs),
    }  # fmt: skip


def _make_inputs(spec: "InputSpec", paths: list[Path], max_pixels: int) -> "Tensor":
    """Return (N, H, W, C) prepared inputs: of given scans, else of drawn chests."""
    import numpy as np

    from nightread.errors import ScanError
    from nightread.scan.drawn_chest import draw_chest
    from nightread.scan.formats import Format
    from nightread.scan.preprocessing import prepare, read_and_prepare
    from nightread.scan.scan import Scan
    from worker.errors import WrongPaths

    files = sorted(file for path in paths for file in (path.rglob("*") if path.is_dir() else [path]) if file.is_file())
    if paths and not files:
        raise WrongPaths(f"there is no file in {', '.join(map(str, paths))}: name scans with --inputs")
    prepared = []
    for file in files[:_MOST_INPUTS]:
        try:
            prepared.append(read_and_prepare(file.read_bytes(), spec, max_pixels=max_pixels)[0])
        except ScanError as error:
            raise WrongPaths(f"{file} is no scan: {error}; leave it out of --inputs") from None
        except OSError as error:
            raise WrongPaths(f"{file} cannot be read: {error.strerror}") from None
    for seed in range(0 if files else _DRAWN_INPUTS):
        drawn = draw_chest(seed, *_DRAWN_PX, has_opacity=seed % 2 == 1)
        height_px, width_px = drawn.shape
        prepared.append(prepare(Scan(drawn, 0.0, 255.0, Format.PNG, width_px, height_px), spec))
    return np.stack(prepared)
