"""Mutation run: break each guard of the queue and the ledger in one place, and see whether a test notices.

    uv run --group test python -m studies.mutants --into mutants.jsonl --minutes 30
    uv run --group test python -m studies.mutants --into mutants.jsonl --table

Mutated are the functions of `mutant_targets`, one place at a time, in memory: no file changes. Each mutant meets the
tests that should kill it and call its function, in a fork of a process that has collected and passed them and has their
servers. A run that stops goes on where it stopped. Other tools know no conditions and values of SQL statements, which
are most of what is guarded here, and start Python and the servers anew for each mutant.
"""

import argparse
import ast
import contextlib
import functools
import gc
import importlib
import itertools
import json
import os
import signal
import sys
import time
import types
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from studies.ast_changes import list_changes
from studies.mutant_targets import TARGETS, Target
from tests.services import RedisServer

_ROOT = Path(__file__).parent.parent
_PASSED = b"\n"
_LIMIT_S = 100.0  # of one test: a mutant that hangs is killed, too


@dataclass(frozen=True, slots=True)
class Mutant:
    """One change.

    Attributes:
        target: where it belongs.
        function: its name.
        place: function and line.
        change: what is different.
        source: the module, changed.
    """

    target: Target
    function: str
    place: str
    change: str
    source: str

    @property
    def name(self) -> str:
        """Module, place and change."""
        return f"{self.target.module}.{self.place}: {self.change}"


def list_mutants(target: Target) -> Iterator[Mutant]:
    """Yield the mutants of a target, function by function."""
    seen: Counter[str] = Counter()
    file = _ROOT / f"{target.module.replace('.', '/')}.py"
    tree = ast.parse(file.read_text(encoding="utf-8"))
    for function in _find_functions(tree, target.functions):
        for line, change in list_changes(function):  # each is undone before the next
            source = ast.unparse(ast.fix_missing_locations(tree))
            place = f"{function.name}:{line}"
            seen[place + change] += 1
            nth = f" (place {seen[place + change]})" if seen[place + change] > 1 else ""
            yield Mutant(target, function.name, place, change + nth, source)


def _find_functions(tree: ast.AST, names: Sequence[str]) -> Iterator[ast.FunctionDef]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef) and node.name in names:
            yield from (one for one in node.body if isinstance(one, ast.FunctionDef))
        elif isinstance(node, ast.FunctionDef) and node.name in names:
            yield node


class MutantRun:
    """A plugin of pytest that collects the tests once, runs them, and then runs them in a fork for each mutant."""

    def __init__(self, mutants: Sequence[Mutant], deadline: float, into: Path) -> None:
        """Try nothing yet."""
        self._mutants = mutants
        self._deadline = deadline
        self._into = into

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Try the mutants until the deadline; servers and tables that tests share are made once."""
        calls = _record(session, {one.target.module: one.target for one in self._mutants})
        for number, mutant in enumerate(self._mutants):
            if time.monotonic() > self._deadline:
                print(f"stopped with {len(self._mutants) - number} left", file=sys.stderr, flush=True)
                break
            began = time.monotonic()
            killer = _find_killer(session, mutant, calls)
            outcome, seconds = "killed" if killer else "survived", time.monotonic() - began
            line = {"mutant": mutant.name, "guards": mutant.target.guards, "outcome": outcome, "s": round(seconds, 1)}
            line["by"] = killer
            with self._into.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
            print(f"{outcome:8} {seconds:5.1f} s  {mutant.name}", file=sys.stderr, flush=True)
        return True


def _record(session: pytest.Session, modules: Iterable[str]) -> dict[str, set[str]]:
    """Run the tests without a mutant; returns the functions of the modules that each calls, by test.

    Raises:
        RuntimeError: one fails.
    """
    called: set[str] = set()
    for name in modules:
        module, functions = importlib.import_module(name), [one for target in TARGETS for one in target.functions]
        tree = ast.parse(Path(str(module.__file__)).read_text(encoding="utf-8"))
        for function in _find_functions(tree, functions):
            function.body[:0] = ast.parse(f"_called.add({name + '.' + function.name!r})").body
        vars(module)["_called"] = called
        graft(name, ast.unparse(ast.fix_missing_locations(tree)))
    os.register_at_fork(before=lambda: called.add("fork"))  # a child may call any
    caches, calls = _find_caches(), {}
    for item in session.items:
        called.clear()
        for cache in caches:
            cache.cache_clear()
        if _passes(session, item):
            calls[item.nodeid] = set(called)
        else:
            print(f"left out, since it fails without a mutant: {item.nodeid}", file=sys.stderr, flush=True)
            session.testsfailed = 0
    for name in modules:
        graft(name, Path(str(importlib.import_module(name).__file__)).read_text(encoding="utf-8"))
    return calls


def _passes(session: pytest.Session, item: pytest.Item) -> bool:
    """Run a test; what it shares with others stays as it is."""
    session._setupstate.teardown_exact(item)  # noqa: SLF001  # pytest's own loop knows what comes next
    other = session.items[session.items.index(item) - 1]
    item.config.hook.pytest_runtest_protocol(item=item, nextitem=other)
    return not session.testsfailed


def _choose(items: Sequence[pytest.Item], calls: dict[str, set[str]], mutant: Mutant) -> list[pytest.Item]:
    """Return the tests of a mutant that call its function, or may; all of them if none does."""
    name, files = f"{mutant.target.module}.{mutant.function}", mutant.target.tests
    of_target = [item for item in items if item.nodeid in calls and item.nodeid.split("::")[0] in files]
    of_target.sort(key=lambda item: files.index(item.nodeid.split("::")[0]))
    return [item for item in of_target if calls[item.nodeid] & {name, "fork"}] or of_target


def _find_killer(session: pytest.Session, mutant: Mutant, calls: dict[str, set[str]]) -> str:
    """Return the test that kills a mutant; a test that fails in a fork without a mutant, too, is left out from then on.

    Such a test stops a server, for instance, which no fork may.
    """
    while killer := _try(session, mutant, _choose(session.items, calls, mutant)):
        if killer not in calls or "sound" in calls[killer]:
            return killer
        if not _try(session, None, [item for item in session.items if item.nodeid == killer]):
            calls[killer].add("sound")
            return killer
        print(f"left out, since it fails in a fork without a mutant: {killer}", file=sys.stderr, flush=True)
        del calls[killer]
    return ""


def _try(session: pytest.Session, mutant: Mutant | None, items: Sequence[pytest.Item]) -> str:
    """Return the test that fails under a mutant, or without one; empty if none does."""
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        os.setpgid(0, 0)
        killer = "its import"  # a module that cannot be executed is one that no start of a program survives
        try:
            quiet = os.open(os.devnull, os.O_WRONLY)
            for descriptor in (1, 2):
                os.dup2(quiet, descriptor)
            RedisServer.start = RedisServer.kill = _refuse  # type: ignore[method-assign]
            if mutant is not None:
                graft(mutant.target.module, mutant.source)
            passed = (_passes(session, item) and os.write(write_end, _PASSED) for item in items)
            killer = next((item.nodeid for item, has_passed in zip(items, passed, strict=True) if not has_passed), "")
        finally:
            os.write(write_end, killer.encode())
            os._exit(int(bool(killer)))
    os.close(write_end)
    os.set_blocking(read_end, False)
    told, ended, status, deadline = b"", 0, 0, time.monotonic() + _LIMIT_S
    while not ended and time.monotonic() < deadline:
        ended, status = os.waitpid(child, os.WNOHANG)
        with contextlib.suppress(BlockingIOError):
            if more := os.read(read_end, 10_000):
                told, deadline = told + more, time.monotonic() + _LIMIT_S
        time.sleep(0.02)
    os.close(read_end)
    if ended:
        return (told.strip(_PASSED).decode() or "its end") if os.waitstatus_to_exitcode(status) else ""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    _clean(session)
    return "its limit"


def _refuse(*_: object, **__: object) -> None:
    """Fail a test that stops a server: it belongs to the process before the fork, and would not come back."""
    raise RuntimeError("a fork may not stop a server that all forks share")


def _clean(session: pytest.Session) -> None:
    """Run one test of each database again, which empties the tables that a killed process has left."""
    for item in [next((one for one in session.items if name in one.name), None) for name in ("postgres", "sqlite")]:
        if item is not None:
            _passes(session, item)


def graft(name: str, source: str) -> None:
    """Give the functions of a module the code of another source, wherever they are imported already."""
    module = importlib.import_module(name)
    changed = types.ModuleType(module.__name__)
    changed.__file__ = module.__file__
    exec(compile(source, str(module.__file__), "exec"), vars(changed))  # noqa: S102  # our own source
    for part in vars(changed):
        if part in vars(module):
            _graft(vars(module)[part], vars(changed)[part], module.__name__)
    for cache in _find_caches():
        cache.cache_clear()


def _find_caches() -> list[Any]:
    """Return the caches of this program, which hold statements that were built from the functions as they were."""
    gc.unfreeze()  # `WorkerProcess` hides all objects that were there when it was made
    cached = [one for one in gc.get_objects() if isinstance(one, functools._lru_cache_wrapper)]  # noqa: SLF001
    return [one for one in cached if str(one.__module__).split(".", 1)[0] in {"db", "worker", "nightread"}]


def _graft(old: Any, new: Any, module: str) -> None:
    if isinstance(old, type) and old.__module__ == module:
        for name, part in list(vars(old).items()):
            if name in vars(new):
                _graft(part, vars(new)[name], module)
    elif isinstance(old, types.FunctionType) and old.__module__ in (module, "db.dialects"):
        cached = zip(old.__closure__ or (), new.__closure__ or (), strict=False)
        for one, other in cached:
            if hasattr(one.cell_contents, "cache_clear"):
                _graft(one.cell_contents.__wrapped__, other.cell_contents.__wrapped__, module)
        if old.__module__ == module and len(old.__code__.co_freevars) == len(new.__code__.co_freevars):
            old.__code__, old.__defaults__, old.__kwdefaults__ = new.__code__, new.__defaults__, new.__kwdefaults__
        if hasattr(old, "__wrapped__"):
            _graft(old.__wrapped__, new.__wrapped__, module)
    elif isinstance(old, (staticmethod, classmethod)):
        _graft(old.__func__, new.__func__, module)


def main() -> None:
    """Try the mutants that the file does not hold yet, or print what it holds."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--into", type=Path, required=True, help="JSON Lines file, one line per mutant")
    parser.add_argument("--minutes", type=float, default=30.0, help="stop after these")
    parser.add_argument(
        "--only", nargs="*", default=[""], help="of targets whose module or guard contains one of these"
    )
    parser.add_argument("--most", type=int, default=1_000, help="of each function so many mutants, evenly chosen")
    parser.add_argument("--again", action="store_true", help="try survivors again")
    parser.add_argument("--list", action="store_true", help="name the mutants without trying them")
    parser.add_argument("--table", action="store_true", help="print the counts and the survivors of --into")
    arguments = parser.parse_args()
    os.chdir(_ROOT)
    known = _read(arguments.into)
    if arguments.table:
        print(make_table(known))
        return
    deadline = time.monotonic() + 60 * arguments.minutes
    chosen = [
        mutant
        for target in TARGETS
        if any(only in target.module or only in target.guards for only in arguments.only)
        for _, group in itertools.groupby(list_mutants(target), key=lambda mutant: mutant.function)
        for mutant in _thin_out(list(group), arguments.most)
    ]
    todo = [one for one in chosen if known.get(one.name, {}).get("outcome") in (None, *["survived"][: arguments.again])]
    print(f"{len(chosen)} mutants, {len(todo)} to try", flush=True)
    if arguments.list:
        print("\n".join(one.name for one in todo))
        return
    if todo:
        files = dict.fromkeys(file for mutant in todo for file in mutant.target.tests)
        options = ["-n0", "-p", "no:cacheprovider", f"--rootdir={_ROOT}", "--timeout=100"]
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # pytest's own report
        pytest.main([*files, *options], plugins=[MutantRun(todo, deadline, arguments.into)])


def _thin_out(mutants: Sequence[Mutant], most: int) -> Sequence[Mutant]:
    return mutants[:: -(-len(mutants) // most)]


def _read(file: Path) -> dict[str, dict[str, Any]]:
    """Return the newest line of each mutant."""
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    return {line["mutant"]: line for line in map(json.loads, lines)}


def make_table(known: dict[str, dict[str, Any]]) -> str:
    """Return Markdown: the counts of each guard, then its survivors."""
    rows = ["| guard | mutants | killed | survived |", "|---|---|---|---|"]
    for guard in dict.fromkeys(line["guards"] for line in known.values()):
        outcomes = [line["outcome"] for line in known.values() if line["guards"] == guard]
        rows.append(f"| {guard} | {len(outcomes)} | {outcomes.count('killed')} | {outcomes.count('survived')} |")
    survivors = [f"- `{name}`" for name, line in known.items() if line["outcome"] != "killed"]
    return "\n".join([*rows, "", *survivors])


if __name__ == "__main__":
    main()
