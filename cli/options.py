"""Arguments and options that several commands take, said once."""

from pathlib import Path
from typing import Annotated

import typer

Paths = Annotated[
    list[Path], typer.Argument(metavar="PATH...", help="Files and folders; folders are searched to the bottom.")
]
RunReference = Annotated[
    str | None,
    typer.Argument(metavar="RUN", help="A run's id, a unique prefix of it, or its name; the newest run if left out."),
]
NamedRun = Annotated[str, typer.Argument(metavar="RUN", help="A run's id, a unique prefix of it, or its name.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs instead of text for people.")]
Name = Annotated[str | None, typer.Option("--name", help="A name for the run; the folder's own if left out.")]
Model = Annotated[
    str | None, typer.Option("--model", metavar="NAME[@VERSION]", help="The model bundle. Or NIGHTREAD_MODEL.")
]
NoGate = Annotated[
    bool,
    typer.Option(
        "--no-gate",
        help="Score what the model's input gate rejects as well; its verdict is stored all the same. Or "
        "NIGHTREAD_GATE=false.",
    ),
]
Device = Annotated[
    str | None,
    typer.Option(
        "--device",
        help="auto (CUDA where it is really active, else the CPU: the log and every stored row say which), cpu, or "
        "cuda (refuses to start without). Or NIGHTREAD_DEVICE.",
    ),
]
