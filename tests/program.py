"""The real program as a subprocess, started as by a user or a container."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.factories import UNGATED_MODEL

PROGRAM = Path(sys.executable).with_name("nightread")
#: For what must happen at all, in seconds: a busy machine stands still for half a minute at times.
PATIENCE_S = 100.0


def make_environment(folder: Path, **settings: Any) -> dict[str, str]:
    """Return an environment with only `settings` for Nightread; all its files are below `folder`.

    The default model accepts drawn scans; `model=""` selects the shipped bundle.
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith("NIGHTREAD_")}
    given = {f"NIGHTREAD_{name.upper()}": str(value) for name, value in ({"model": UNGATED_MODEL} | settings).items()}
    homes = {"HOME": folder, "XDG_DATA_HOME": folder / "data", "XDG_CONFIG_HOME": folder / "config"}
    return kept | {name: str(home) for name, home in homes.items()} | {"COLUMNS": "200"} | given


def run(
    *arguments: Any, env: dict[str, str], cwd: Path, expect: int | None = 0, limit_s: float = PATIENCE_S
) -> subprocess.CompletedProcess[str]:
    """Run `nightread`, and check its exit code and that it prints no traceback."""
    done = subprocess.run(
        [PROGRAM, *map(str, arguments)], env=env, cwd=cwd, capture_output=True, text=True, timeout=limit_s, check=False
    )
    said = f"nightread {arguments}\nexit {done.returncode}\n--- stdout\n{done.stdout}\n--- stderr\n{done.stderr}"
    assert "Traceback" not in done.stderr, said
    assert expect is None or done.returncode == expect, said
    return done


def last_json(done: subprocess.CompletedProcess[str]) -> Any:
    return json.loads(done.stdout.splitlines()[-1])


@contextlib.contextmanager
def started(arguments: list[Any], env: dict[str, str], cwd: Path, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Start a long-running command in a process group of its own, which is killed at the end."""
    with log.open("ab") as output:
        process = subprocess.Popen(
            list(map(str, arguments)),
            env=env,
            cwd=cwd,
            stdout=output,
            stderr=output,
            start_new_session=True,
            # A background job of a shell ignores SIGINT, and its children inherit that.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509  # one system call
        )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def worker(env: dict[str, str], cwd: Path, log: Path, *options: str) -> Any:
    return started([PROGRAM, "worker", *options], env, cwd, log)


#: A hook that fails ends its process: Python would only print the error and start without the hook, and the test would
#: test nothing.
_HOOK = """\
import ctypes, importlib, os, time, traceback
try:
    module = importlib.import_module({module!r})
    real = getattr(module, {name!r})
except Exception:
    traceback.print_exc()
    os._exit(70)
def hooked({argument}, *more, **named):
{code}
    return real({argument}, *more, **named)
setattr(module, {name!r}, hooked)
"""


def hook(folder: Path, module: str, name: str, argument: str, code: str) -> dict[str, str]:
    """Return the environment that makes every process run `code` before `module.name`; `argument` is its first one."""
    folder.mkdir()
    source = _HOOK.format(module=module, name=name, argument=argument, code=textwrap.indent(code, "    "))
    (folder / "sitecustomize.py").write_text(source)
    return {"PYTHONPATH": os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)}


def hook_reading(folder: Path, code: str) -> dict[str, str]:
    """Return the environment that makes every process run `code` before it reads a scan; `path` is the scan's."""
    return hook(folder / "hook", "nightread.scan.files", "read_file", "path", code)


def hook_decoding(folder: Path, cases: dict[bytes, str]) -> dict[str, str]:
    """Return the environment that makes every process run code before it decodes a scan that contains certain bytes."""
    code = "".join(f"if {mark!r} in data:\n    {code}\n" for mark, code in cases.items())
    return hook(folder / "decoding-hook", "nightread.scan.preprocessing", "read_scan", "data", code)


def hold_reading(folder: Path, first: str) -> tuple[Path, dict[str, str]]:
    """Return a file, and the setting that lets no process read a scan named `first` or later while that file exists."""
    gate = folder / "gate"
    gate.touch()
    waits = f"while os.path.basename(path) >= {first!r} and os.path.exists({str(gate)!r}): time.sleep(0.05)"
    return gate, hook_reading(folder, waits)


def slow_reading(folder: Path) -> dict[str, str]:
    """Return the environment that makes storage slow, so that a run can be interrupted."""
    return hook_reading(folder, "time.sleep(0.1)")


def wait_until(condition: Callable[[], Any], what: str, timeout_s: float = PATIENCE_S) -> Any:
    """Poll `condition` ten times a second; returns its first true value."""
    deadline = time.monotonic() + timeout_s
    while not (value := condition()):
        assert time.monotonic() < deadline, f"waited {timeout_s} s in vain: {what}"
        time.sleep(0.1)
    return value
