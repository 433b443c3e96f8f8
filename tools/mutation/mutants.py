"""All mutants of a module: its source with one small change each.

What is changed: comparisons, arithmetic, and/or/not, numbers and booleans, conditions, min/max, any/all, orders
(`reversed`, `sorted`), and statements that are left out. What is not: strings (messages to people), assertions (for
type checkers), annotations, decorators and docstrings.
"""

import ast
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

SWAPPED_COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
SWAPPED_ARITHMETIC: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.FloorDiv,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.FloorDiv,
    ast.BitOr: ast.BitAnd,
}
SWAPPED_CALLS = {"min": "max", "max": "min", "any": "all", "all": "any"}
ORDERING_CALLS = ("reversed", "sorted")


@dataclass(frozen=True, slots=True)
class Mutant:
    """One change.

    Attributes:
        module: dotted name.
        place: function or class that holds the change; "" at the top of the module.
        text: the line as it was.
        source: the whole changed module.
    """

    module: str
    line: int
    column: int
    place: str
    text: str
    before: str
    after: str
    source: str

    @property
    def key(self) -> str:
        """Names the mutant as long as the module does not change."""
        return hashlib.blake2b(f"{self.module}\n{self.source}".encode(), digest_size=8).hexdigest()

    def __str__(self) -> str:
        return f"{self.module}:{self.line} {self.place}: {self.before!r} -> {self.after!r}"


def mutants_of(module: str, path: Path) -> list[Mutant]:
    """All mutants, in the order of their lines."""
    source = path.read_text(encoding="utf-8")
    found = [
        _spliced(module, source, node, place, changed)
        for node, place, is_condition in _nodes(ast.parse(source), "")
        for changed in _changes(node, is_condition)
    ]
    return sorted(found, key=lambda mutant: (mutant.line, mutant.column))


def _nodes(parent: ast.AST, place: str) -> Iterator[tuple[ast.stmt | ast.expr, str, bool]]:
    """Statements and expressions that may be changed, where they are, and whether something hangs on their truth."""
    for name, value in ast.iter_fields(parent):
        if name in ("annotation", "returns", "decorator_list"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if not isinstance(child, ast.AST) or isinstance(child, ast.Assert | ast.JoinedStr):
                continue
            inner = place
            if isinstance(child, ast.FunctionDef | ast.ClassDef):
                inner = f"{place}.{child.name}".lstrip(".")
            if isinstance(child, ast.stmt | ast.expr):
                yield child, inner, name in ("test", "ifs")
            yield from _nodes(child, inner)


def _changes(node: ast.stmt | ast.expr, is_condition: bool) -> Iterator[ast.AST]:
    if isinstance(node, ast.stmt):
        yield from _changed_statement(node)
        return
    yield from _changed_expression(node)
    if is_condition and isinstance(node, ast.Name | ast.Attribute | ast.Call):
        yield ast.UnaryOp(ast.Not(), node)


def _changed_expression(node: ast.expr) -> Iterator[ast.AST]:
    match node:
        case ast.Compare(left, [operator], comparators):
            yield ast.Compare(left, [SWAPPED_COMPARISONS[type(operator)]()], comparators)
        case ast.BinOp(left, operator, right) if type(operator) in SWAPPED_ARITHMETIC:
            yield ast.BinOp(left, SWAPPED_ARITHMETIC[type(operator)](), right)
        case ast.BoolOp(ast.And(), values):
            yield ast.BoolOp(ast.Or(), values)
            yield from (ast.BoolOp(ast.And(), _without(values, i)) for i in range(len(values)))
        case ast.BoolOp(ast.Or(), values):
            yield ast.BoolOp(ast.And(), values)
            yield from (ast.BoolOp(ast.Or(), _without(values, i)) for i in range(len(values)))
        case ast.UnaryOp(ast.Not() | ast.USub(), operand):
            yield operand
        case ast.Constant(bool() as value):
            yield ast.Constant(not value)
        case ast.Constant(int() as value):
            yield ast.Constant(value + 1)
        case ast.IfExp(test, body, orelse):
            yield ast.IfExp(test, orelse, body)
        case ast.Call(ast.Name(name), args, keywords) if name in SWAPPED_CALLS:
            yield ast.Call(ast.Name(SWAPPED_CALLS[name]), args, keywords)
        case ast.Call(ast.Name(name), [first, *_], _) if name in ORDERING_CALLS:
            yield first
        case ast.Slice(lower, upper, step):
            if lower is not None:
                yield ast.Slice(None, upper, step)
            if upper is not None:
                yield ast.Slice(lower, None, step)
    match node:
        case ast.Call(function, args, [*keywords, ast.keyword("key")]):
            yield ast.Call(function, args, keywords)


def _changed_statement(node: ast.stmt) -> Iterator[ast.AST]:
    match node:
        case ast.Expr(ast.Constant()):
            return  # a docstring
        case ast.Expr() | ast.AugAssign() | ast.Delete() | ast.Raise():
            yield ast.Pass()
        case ast.Assign([ast.Attribute() | ast.Subscript(), *_]):
            yield ast.Pass()
        case ast.Return(value) if value is not None and not _is_none(value):
            yield ast.Return(ast.Constant(None))
        case ast.Break():
            yield ast.Continue()
        case ast.Continue():
            yield ast.Break()
    match node:
        case ast.AugAssign(target, operator, value) if type(operator) in SWAPPED_ARITHMETIC:
            yield ast.AugAssign(target, SWAPPED_ARITHMETIC[type(operator)](), value)


def _without(values: list[ast.expr], index: int) -> list[ast.expr]:
    return values[:index] + values[index + 1 :]


def _is_none(value: ast.expr) -> bool:
    return isinstance(value, ast.Constant) and value.value is None


def _spliced(module: str, source: str, node: ast.stmt | ast.expr, place: str, changed: ast.AST) -> Mutant:
    """The mutant in which `changed` stands for `node`. Columns of a syntax tree count bytes of UTF-8."""
    assert node.end_lineno is not None
    assert node.end_col_offset is not None
    lines = source.encode().splitlines(keepends=True)
    start = sum(len(line) for line in lines[: node.lineno - 1]) + node.col_offset
    end = sum(len(line) for line in lines[: node.end_lineno - 1]) + node.end_col_offset
    text = ast.unparse(ast.fix_missing_locations(changed))
    if isinstance(node, ast.expr) and not isinstance(node, ast.Slice):
        text = f"({text})"
    whole = source.encode()
    return Mutant(
        module,
        node.lineno,
        node.col_offset,
        place,
        lines[node.lineno - 1].decode().strip(),
        whole[start:end].decode(),
        text,
        (whole[:start] + text.encode() + whole[end:]).decode(),
    )
