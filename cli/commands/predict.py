"""`predict`: scores single scans."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from cli.exits import Exit
from cli.options import Archives, Device, Json, Model, NoGate, read_source
from cli.output.tables import make_table, out, paint
from nightread import api
from nightread.scan.archives import split_path
from nightread.scan.files import encode_path
from nightread.scan.object_address import read_address, spell_address
from nightread.settings import read_settings
from worker.registry.choose import choose_without_run


def predict(
    scans: Annotated[
        list[Path],
        typer.Argument(
            metavar="SCAN...",
            parser=read_source,
            help="Files or s3://BUCKET/KEY: JPEG, PNG, TIFF, DICOM; ARCHIVE!MEMBER with --archives.",
        ),
    ],
    model: Model = None,
    device: Device = None,
    no_gate: NoGate = False,
    archives: Archives = False,
    as_json: Json = False,
) -> None:
    """Score single scans and print the decisions; nothing is stored.

    The exit code is 3 if a scan gets no score, whether it is rejected or failed.

    Example: nightread predict chest_xray/test/NORMAL/IM-0001-0001.jpeg
    """
    settings = read_settings(model=model, device=device, gate=False if no_gate else None, archives=archives or None)
    if folders := [path for path in scans if path.is_dir()]:
        raise typer.BadParameter(f"{folders[0]} is a folder; `nightread score {folders[0]}` scores its files")
    if absent := [path for path in scans if not (_is_there(path) or (settings.archives and split_path(str(path))))]:
        raise typer.BadParameter(f"there is no file {absent[0]}")
    rows = list(api.Model(choose_without_run(settings), settings, gate=settings.gate).predict(scans))
    if as_json:
        typer.echo(json.dumps([_describe(row) for row in rows]))
    else:
        table = make_table("scan", "label", "score", "decision", right=("score",), spare=("label",))
        for row in rows:
            if row.reason is not None:
                table.add_row(_name(row), "", "", paint(f"{row.status}: {row.reason}"))
            for label, score in row.scores.items():
                decision = row.decisions[label]
                table.add_row(_name(row), label, f"{score:.4f}", paint(decision, is_finding=decision == label))
        out.print(table)
    if any(row.reason is not None for row in rows):
        raise typer.Exit(Exit.SOME_FAILED)


def _is_there(path: Path) -> bool:
    """Return whether a path is one of a file; what an address leads to is found out when it is read."""
    try:
        return read_address(path) is not None or path.exists()
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


def _name(row: api.ScanResult) -> str:
    """Return a scan's path as `results` shows it: a file's name may be no text."""
    return encode_path(spell_address(row.path or ""))


def _describe(row: api.ScanResult) -> dict[str, Any]:
    origin = row.provenance
    described: dict[str, Any] = {"path": _name(row), "model": f"{origin.model}@{origin.version}"}
    if row.gate_verdict is not None:
        described["gate_verdict"] = row.gate_verdict
    if row.reason is not None:
        return described | {"status": row.status, "reason": row.reason.value, "message": row.text}
    labels = {label: {"score": score, "decision": row.decisions[label]} for label, score in row.scores.items()}
    return described | {"status": row.status, "labels": labels}
