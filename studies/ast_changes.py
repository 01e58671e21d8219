"""Changes of a function's syntax tree, one place at a time: what may be wrong in a guard."""

import ast
from collections.abc import Iterator

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


def list_changes(function: ast.FunctionDef) -> Iterator[tuple[int, str]]:
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
        # Never executed rather than gone: without its `super()` a method would have another closure.
        block[place] = ast.copy_location(ast.If(ast.Constant(value=False), [statement], []), statement)
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
