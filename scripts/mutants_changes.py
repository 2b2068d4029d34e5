"""The small changes that mutants.py makes, found in a module's syntax tree."""

from __future__ import annotations

import ast
import copy
import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

SWAPPED: dict[type[ast.AST], tuple[type[ast.AST], ...]] = {
    # comparisons: off by one, and turned round
    ast.Lt: (ast.LtE, ast.GtE),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
    # arithmetic
    ast.Add: (ast.Sub,),
    ast.Sub: (ast.Add,),
    ast.Mult: (ast.FloorDiv,),
    ast.Div: (ast.Mult,),
    ast.FloorDiv: (ast.Mult,),
    ast.Mod: (ast.FloorDiv,),
    ast.Pow: (ast.Mult,),
    ast.LShift: (ast.RShift,),
    ast.RShift: (ast.LShift,),
    ast.BitAnd: (ast.BitOr,),
    ast.BitOr: (ast.BitAnd,),
    ast.BitXor: (ast.BitAnd,),
    # logic
    ast.And: (ast.Or,),
    ast.Or: (ast.And,),
}


@dataclass(frozen=True)
class Mutant:
    """A module with one change: ``before`` and ``after`` are the changed piece's lines, ``source`` the whole text."""

    name: str  # eight hexadecimal digits that stay the same while the piece and its function do
    path: str  # below the repository's root
    line: int
    end_line: int
    function: str  # the function or method around it; empty at a module's or class's level
    before: str
    after: str
    source: str

    def __str__(self) -> str:
        return f"{self.name} {self.path}:{self.line}: {self.before}  =>  {self.after}"


def mutants_of(path: str, source: str) -> list[Mutant]:
    """Every mutant of one module, by line."""
    lines = source.encode().splitlines(keepends=True)
    found: list[Mutant] = []
    seen: Counter[str] = Counter()
    for node, function, replacement in _walk(ast.parse(source), ""):
        text = ast.unparse(replacement)
        if isinstance(replacement, ast.expr) and not isinstance(replacement, ast.Constant | ast.Name):
            text = f"({text})"
        assert node.end_lineno is not None
        first, last = node.lineno - 1, node.end_lineno - 1
        changed = lines[first][: node.col_offset] + text.encode() + lines[last][node.end_col_offset :]
        whole = b"".join([*lines[:first], changed, *lines[last + 1 :]]).decode()
        before = " ".join(line.strip().decode() for line in lines[first : last + 1])
        after = " ".join(changed.decode().split())
        if (" ".join(before.split())) == after:
            continue
        digest = hashlib.sha256("\0".join((path, function, before, after)).encode()).hexdigest()[:8]
        seen[digest] += 1
        name = digest if seen[digest] == 1 else f"{digest}-{seen[digest]}"
        found.append(Mutant(name, path, node.lineno, node.end_lineno, function, before, after, whole))
    return sorted(found, key=lambda mutant: mutant.line)


Piece = ast.expr | ast.stmt


def _walk(node: ast.AST, function: str) -> Iterator[tuple[Piece, str, Piece]]:
    """The changes below a node: a piece, the function it is in, and what takes its place.

    Annotations, decorators, texts and what describes an error are left alone.
    """
    if isinstance(node, ast.expr | ast.stmt):
        for piece, replacement in _changes(node):
            yield piece, function, replacement
    if isinstance(node, ast.JoinedStr | ast.Raise | ast.Import | ast.ImportFrom):
        return
    if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
        return
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns", "decorator_list", "type_params"):
            continue
        inside = node.name if name == "body" and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) else function
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST):
                yield from _walk(child, inside)


def _changes(node: Piece) -> Iterator[tuple[Piece, Piece]]:
    """What may be changed at one node, and into what."""
    match node:
        case ast.Compare(ops=[*operators]):
            for index, operator in enumerate(operators):
                for other in SWAPPED[type(operator)]:
                    yield node, _with(node, ops=[*operators[:index], other(), *operators[index + 1 :]])
        case ast.BinOp(left=ast.JoinedStr() | ast.Constant(value=str() | bytes())):
            pass  # texts that are put together
        case ast.BinOp(op=operator) | ast.BoolOp(op=operator) | ast.AugAssign(op=operator):
            for other in SWAPPED.get(type(operator), ()):
                yield node, _with(node, op=other())
        case ast.UnaryOp(op=ast.Not()):
            yield node, node.operand
        case ast.If(test=test) | ast.IfExp(test=test) if isinstance(test, ast.Name | ast.Call | ast.Attribute):
            yield test, ast.UnaryOp(ast.Not(), test)
        case ast.Constant(value=bool() as value):
            yield node, ast.Constant(not value)
        case ast.Constant(value=int() | float() as value):
            yield node, ast.Constant(value + 1)
        case ast.Expr(value=ast.Call()) | ast.Raise():
            yield node, ast.Pass()
        case ast.Return(value=ast.expr() as value) if not isinstance(value, ast.Constant):
            yield node, ast.Return(ast.Constant(None))


def _with(node: Piece, **fields: object) -> Piece:
    changed = copy.copy(node)
    for name, value in fields.items():
        setattr(changed, name, value)
    return changed
