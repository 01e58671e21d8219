"""Mutation run: break each guard of the queue and the ledger in one place, and see whether a test notices.

    uv run --group test python -m studies.mutants --into mutants.jsonl --minutes 30
    uv run --group test python -m studies.mutants --into mutants.jsonl --table

Mutated are the functions of `TARGETS`, one place at a time, in memory: no file changes. Each mutant meets the tests
that should kill it, in a fork of a process that has collected and passed them and has their servers. A run that stops
goes on where it stopped. Other tools know no conditions and values of SQL statements, which are most of what is guarded
here, and start Python and the servers anew for each mutant.
"""

import argparse
import ast
import contextlib
import functools
import gc
import importlib
import json
import os
import signal
import sys
import time
import types
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

_ROOT = Path(__file__).parent.parent
#: A mutant that loops is killed, too.
_LIMIT_S = 300.0


@dataclass(frozen=True, slots=True)
class Target:
    """Functions that guard something, and the tests that should notice if they do not.

    Attributes:
        guards: what they guard.
        module: dotted name.
        functions: their names; classes stand for all their methods.
        tests: quickest first.
    """

    guards: str
    module: str
    functions: tuple[str, ...]
    tests: tuple[str, ...]


_JOBS = ("tests/integration/test_jobs.py", "tests/integration/test_constraints.py")
_RUNS = ("tests/integration/test_runs.py", "tests/integration/test_tallies.py")
_SCORING = ("tests/integration/test_scoring.py", "tests/integration/test_lost_acknowledgement.py")
_PUBLISHER = (
    "tests/integration/test_publisher.py", "tests/integration/test_database_clock.py",
    "tests/integration/test_sweeper.py",
)  # fmt: skip
TARGETS = (
    Target(
        "leases",
        "db.jobs",
        ("claim_job", "_claim_one", "_begin_run", "renew_lease", "release_job", "uncount_attempt", "reclaim_job",
         "queue_again", "load_open_scans", "_select_open_scans"),
        _JOBS,
    ),
    Target("leases", "db.due_jobs", ("is_due", "has_expired_lease"), (*_JOBS, *_PUBLISHER)),
    Target("leases", "worker.jobs.heartbeat", ("Heartbeat",), _SCORING),
    Target("fencing", "db.jobs", ("is_claim_current", "bind_claim", "confirm_claim", "end_job", "split_job"), _JOBS),
    Target("fencing", "db.cancellation", ("cancel_run", "_cancel_step"), (*_RUNS, *_JOBS)),
    Target(
        "commit order",
        "db.job_results",
        ("store_results", "_end_job", "_put_job_off", "_end_scans"),
        (*_JOBS, "tests/integration/test_tallies.py", "tests/integration/test_measurements.py", *_SCORING),
    ),
    Target("commit order", "db.tallies", ("tally_scans", "change_tally", "begin_tally"), _RUNS[::-1]),
    Target("commit order", "db.runs", ("create_run", "close_finished_runs", "_has_ended", "retry_run"), _RUNS),
    Target(
        "commit order",
        "worker.jobs.job",
        ("_attend", "score_job", "_is_known", "_score_or_release", "_claim", "_release", "_score_claimed",
         "_hand_back", "_store", "_write_where_there_is_room", "_isolate"),
        (*_SCORING, "tests/integration/test_full_disk.py", "tests/integration/test_embedded.py"),
    ),
    Target(
        "publishing",
        "db.due_jobs",
        ("take_due_jobs", "_select_due_runs", "_select_due_of_run", "_is_unsent", "_is_ahead", "mark_unpublished",
         "_set_published", "count_just_published", "_count_published"),
        (*_PUBLISHER, *_JOBS),
    ),
    Target("publishing", "worker.queue.publisher", ("publish", "publish_due", "sweep"), _PUBLISHER),
    Target("publishing", "worker.queue.delivery", ("Delivery",), ("tests/integration/test_publisher.py",)),
    Target(
        "the guard of a night",
        "worker.runs.guards",
        ("end_runs", "judge_run", "find_tripped", "_judge_size", "_exceeds"),
        ("tests/unit/worker/runs/test_guards.py", "tests/integration/test_intake.py"),
    ),
    Target(
        "the guard of a night",
        "db.guards",
        ("find_unjudged", "store_guard", "find_night_sizes"),
        ("tests/integration/test_intake.py", "tests/integration/test_schedules.py"),
    ),
    Target(
        "the guard of the queue",
        "worker.queue.guard",
        ("GuardedQoS", "GuardedChannel", "GuardedTransport", "_read_stored", "clean_message", "_read_job_id"),
        ("tests/unit/worker/queue/test_guard.py", "tests/integration/test_guarded_keys.py"),
    ),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Mutant:
    """One change.

    Attributes:
        target: where it belongs.
        place: function and line.
        change: what is different.
        source: the module, changed.
    """

    target: Target
    place: str
    change: str
    source: str

    @property
    def name(self) -> str:
        """Module, place and change."""
        return f"{self.target.module}.{self.place}: {self.change}"


_COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Eq: ast.NotEq, ast.NotEq: ast.Eq, ast.Lt: ast.GtE, ast.LtE: ast.Gt, ast.Gt: ast.LtE, ast.GtE: ast.Lt,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
}  # fmt: skip
_OPERATORS: dict[type[ast.operator], type[ast.operator]] = {
    ast.BitOr: ast.BitAnd, ast.BitAnd: ast.BitOr, ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.FloorDiv,
}  # fmt: skip
#: Calls of which an argument may be left out: conditions and values.
_PARTED = {"where", "values", "and_", "or_", "with_for_update", "order_by"}
#: Methods of statements that may be left out.
_CHAINED = {"where", "with_for_update", "order_by", "limit"}
#: Calls without an effect on what is stored.
_SILENT = {"failpoint", "_log", "debug", "info", "warning", "error", "exception", "note"}


def list_mutants(target: Target) -> Iterator[Mutant]:
    """Yield the mutants of a target, function by function."""
    seen: Counter[str] = Counter()
    file = _ROOT / f"{target.module.replace('.', '/')}.py"
    tree = ast.parse(file.read_text(encoding="utf-8"))
    for function in _find_functions(tree, target.functions):
        for line, change in _list_changes(function):  # each is undone before the next
            source = ast.unparse(ast.fix_missing_locations(tree))
            place = f"{function.name}:{line}"
            seen[place + change] += 1
            nth = f" (place {seen[place + change]})" if seen[place + change] > 1 else ""
            yield Mutant(target, place, change + nth, source)


def _find_functions(tree: ast.AST, names: Sequence[str]) -> Iterator[ast.FunctionDef]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef) and node.name in names:
            yield from (one for one in node.body if isinstance(one, ast.FunctionDef))
        elif isinstance(node, ast.FunctionDef) and node.name in names:
            yield node


def _list_changes(function: ast.FunctionDef) -> Iterator[tuple[int, str]]:
    """Make one change after the other, each for as long as the caller looks at it; yields its line and what it is."""
    silent = {
        id(inner)
        for node in ast.walk(function)
        if isinstance(node, ast.Call) and _name(node.func) in _SILENT
        for inner in ast.walk(node)
    }
    hints = [function.returns, *(one.annotation for one in (*function.args.args, *function.args.kwonlyargs))]
    hints += [node.annotation for node in ast.walk(function) if isinstance(node, ast.AnnAssign)]
    silent |= {id(inner) for hint in hints if hint is not None for inner in ast.walk(hint)}
    for node in ast.walk(function):
        if id(node) not in silent and not isinstance(node, ast.JoinedStr):
            yield from _list_changes_of(node)


def _list_changes_of(node: ast.AST) -> Iterator[tuple[int, str]]:
    line = getattr(node, "lineno", 0)
    match node:
        case ast.Compare(ops=[kind]) if type(kind) in _COMPARISONS:
            node.ops = [_COMPARISONS[type(kind)]()]
            yield line, f"{type(kind).__name__} is {type(node.ops[0]).__name__}"
            node.ops = [kind]
        case ast.BinOp(op=op) if type(op) in _OPERATORS:
            node.op = _OPERATORS[type(op)]()
            yield line, f"{type(op).__name__} is {type(node.op).__name__}"
            node.op = op
        case ast.BoolOp(values=values):
            for place, part in enumerate(values):
                node.values = [one for one in values if one is not part]
                yield line, f"without part {place + 1} of {'and' if isinstance(node.op, ast.And) else 'or'}"
            node.values = values
        case ast.UnaryOp(op=ast.Not() | ast.Invert() | ast.USub()) as negated:
            kept = negated.op
            negated.op = ast.UAdd() if isinstance(kept, ast.USub) else ast.Invert()
            if isinstance(kept, ast.USub):
                yield line, "without its sign"
            elif isinstance(kept, ast.Not):
                operand, negated.op = negated.operand, kept
                negated.operand = ast.UnaryOp(ast.Not(), operand)
                yield line, "without not"
                negated.operand = operand
            else:
                operand = negated.operand
                negated.operand = ast.UnaryOp(ast.Invert(), operand)
                yield line, "without ~"
                negated.operand = operand
            negated.op = kept
        case ast.If(test=test) | ast.While(test=test) | ast.IfExp(test=test):
            if not isinstance(test, (ast.Compare, ast.Constant)):
                node.test = ast.UnaryOp(ast.Not(), test)
                yield line, f"{type(node).__name__.lower()} is turned round"
                node.test = test
        case ast.Constant(value=bool() | int() | float() as value):
            node.value = (not value) if isinstance(value, bool) else value + 1
            yield line, f"{value} is {node.value}"
            node.value = value
    yield from _list_omissions(node, line)


def _list_omissions(node: ast.AST, line: int) -> Iterator[tuple[int, str]]:
    match node:
        case ast.Call(func=called, args=arguments, keywords=named) if _name(called) in _PARTED:
            for place, argument in enumerate(arguments):
                if len(arguments) > 1 or named:
                    node.args = [one for one in arguments if one is not argument]
                    yield line, f"{_name(called)} without part {place + 1}, {ast.unparse(argument)[:60]}"
            node.args = arguments
            for one in named:
                node.keywords = [other for other in named if other is not one]
                yield line, f"{_name(called)} without {one.arg or ast.unparse(one.value)[:60]}"
            node.keywords = named
        case ast.Dict(keys=keys, values=values) if len(keys) > 1:
            for place, key in enumerate(keys):
                node.keys = [one for at, one in enumerate(keys) if at != place]
                node.values = [one for at, one in enumerate(values) if at != place]
                yield line, f"without {ast.unparse(key) if key else 'a part'}"
            node.keys, node.values = keys, values
    match node:
        case ast.Call(func=ast.Attribute(attr=name, value=before) as called, args=arguments, keywords=named) if (
            name in _CHAINED and (name != "where" or len(arguments) == 1)
        ):
            node.func, node.args, node.keywords = ast.Lambda(_one_argument(), ast.Name("x")), [before], []
            yield line, f"without {name}({', '.join(map(ast.unparse, arguments))[:60]})"
            node.func, node.args, node.keywords = called, arguments, named
    for name in ("body", "orelse", "finalbody"):
        block = getattr(node, name, None)
        if isinstance(block, list):
            yield from _list_other_blocks(block)


def _list_other_blocks(block: list[ast.stmt]) -> Iterator[tuple[int, str]]:
    """Leave each statement of a block out, and exchange each with the next."""
    for place, statement in enumerate(block):
        if not _may_go(statement):
            continue
        said = ast.unparse(statement).splitlines()[0][:70]
        block[place] = ast.copy_location(ast.Pass(), statement)
        yield statement.lineno, f"without {said}"
        block[place] = statement
        if place + 1 < len(block) and _may_go(block[place + 1]):
            block[place : place + 2] = block[place + 1], statement
            yield statement.lineno, f"after the next: {said}"
            block[place : place + 2] = statement, block[place]


def _one_argument() -> ast.arguments:
    return ast.arguments(posonlyargs=[], args=[ast.arg("x")], kwonlyargs=[], kw_defaults=[], defaults=[])


def _may_go(statement: ast.AST) -> bool:
    """Whether a statement can be left out: one with an effect that is not its value."""
    if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call):
        return not {_name(statement.value.func), _name(getattr(statement.value.func, "value", None))} & _SILENT
    return isinstance(statement, (ast.AugAssign, ast.Raise))


def _name(node: ast.AST | None) -> str:
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


class MutantRun:
    """A plugin of pytest that collects the tests once, runs them, and then runs them in a fork for each mutant.

    Attributes:
        outcomes: by name of a mutant killed or survived, and seconds.
    """

    def __init__(self, mutants: Sequence[Mutant], deadline: float, into: Path) -> None:
        """Try nothing yet."""
        self._mutants = mutants
        self._deadline = deadline
        self._into = into

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Try the mutants until the deadline; servers and tables that tests share are made once."""
        _run_items(session)
        if session.testsfailed:
            raise RuntimeError("the tests fail without a mutant")
        for number, mutant in enumerate(self._mutants):
            if time.monotonic() > self._deadline:
                print(f"stopped with {len(self._mutants) - number} left", file=sys.stderr, flush=True)
                break
            outcome, seconds = _try(session, mutant)
            line = {"mutant": mutant.name, "guards": mutant.target.guards, "outcome": outcome, "s": round(seconds, 1)}
            with self._into.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
            print(f"{outcome:8} {seconds:5.1f} s  {mutant.name}", file=sys.stderr, flush=True)
        return True


def _run_items(session: pytest.Session) -> None:
    """Run the tests until one fails; what they share stays as it is."""
    items = session.items
    for item, following in zip(items, [*items[1:], items[0]], strict=True):
        item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
        if session.testsfailed:
            return


def _try(session: pytest.Session, mutant: Mutant) -> tuple[str, float]:
    began = time.monotonic()
    child = os.fork()
    if child == 0:
        os.setpgid(0, 0)
        code = 1  # a module that cannot be executed is one that no start of a program survives
        try:
            quiet = os.open(os.devnull, os.O_WRONLY)
            for descriptor in (1, 2):
                os.dup2(quiet, descriptor)
            graft(mutant)
            _run_items(session)
            code = int(session.testsfailed > 0)
        finally:
            os._exit(code)
    outcome = None
    while outcome is None and time.monotonic() < began + _LIMIT_S:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            outcome = "killed" if os.waitstatus_to_exitcode(status) else "survived"
        time.sleep(0.02)
    if outcome is None:  # it hangs, which a test notices by its own limit
        outcome = "killed"
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)
        os.waitpid(child, 0)
        _clean(session)
    return outcome, time.monotonic() - began


def _clean(session: pytest.Session) -> None:
    """Run one test of each database again, which empties the tables that a killed process has left."""
    for item in [next((one for one in session.items if name in one.name), None) for name in ("postgres", "sqlite")]:
        if item is not None:
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=item)


def graft(mutant: Mutant) -> None:
    """Give the functions of a module the code of the mutant, wherever they are imported already."""
    module = importlib.import_module(mutant.target.module)
    changed = types.ModuleType(module.__name__)
    changed.__file__ = module.__file__
    exec(compile(mutant.source, str(module.__file__), "exec"), vars(changed))  # noqa: S102  # our own source
    for name in vars(changed):
        if name in vars(module):
            _graft(vars(module)[name], vars(changed)[name], module.__name__)
    for cached in [one for one in gc.get_objects() if isinstance(one, functools._lru_cache_wrapper)]:  # noqa: SLF001
        if str(cached.__module__).split(".", 1)[0] in {"db", "worker", "nightread"}:
            cached.cache_clear()  # statements that were built from the functions as they were


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
    parser.add_argument("--only", default="", help="of targets whose module or guard contains this")
    parser.add_argument("--every", type=int, default=1, help="of each target every n-th mutant")
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
        if arguments.only in target.module or arguments.only in target.guards
        for mutant in list(list_mutants(target))[:: arguments.every]
    ]
    todo = [one for one in chosen if known.get(one.name, {}).get("outcome") in (None, *["survived"][: arguments.again])]
    print(f"{len(chosen)} mutants, {len(todo)} to try", flush=True)
    if arguments.list:
        print("\n".join(one.name for one in todo))
        return
    for files in dict.fromkeys(mutant.target.tests for mutant in todo):
        run = MutantRun([one for one in todo if one.target.tests == files], deadline, arguments.into)
        child = os.fork()  # each set of tests has its own imports and servers
        if child == 0:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # pytest's own report
            options = ["-n0", "-p", "no:cacheprovider", f"--rootdir={_ROOT}", "--timeout=100"]
            os._exit(int(pytest.main([*files, *options], plugins=[run])))
        if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]):
            raise RuntimeError(f"the tests do not run without a mutant: {' '.join(files)}")


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
