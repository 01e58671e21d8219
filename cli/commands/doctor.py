"""`doctor`: checks what a host needs before its first night."""

import typer

from cli.exits import Exit
from cli.options import Json
from cli.output.console import print_json, waiting
from cli.output.tables import make_table, out, paint
from nightread.settings import read_settings
from worker.doctor.checks import run_checks
from worker.doctor.finding import Level


def doctor(as_json: Json = False) -> None:
    """Check this host: machine, database, broker, model and device.

    Each check is ok, warn (scoring works) or fail (it does not); the exit code is 1 if one fails.

    Example: nightread doctor
    """
    with waiting("checking"):
        findings = list(run_checks(read_settings()))
    if as_json:
        print_json(
            [
                {"check": name, "ok": finding.level is not Level.FAIL, "level": finding.level.value,
                 "found": finding.found}
                for name, finding in findings
            ]
        )  # fmt: skip
    else:
        table = make_table("", "check", "found", text=("found",))
        for name, finding in findings:
            table.add_row(paint(finding.level.value), name, finding.found)
        out.print(table)
    if any(finding.level is Level.FAIL for _, finding in findings):
        raise typer.Exit(Exit.ERROR)
