"""The layering of the package: imports only go down, numba is imported in one place, and lazily."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "gguflike"

# Which parts of the package each part may import (besides itself).
BELOW = {
    "errors": set(),
    "blocks": {"errors"},
    "lazy": set(),
    "progress": set(),
    "texts": set(),
    "kernels": {"errors", "blocks"},
    "tensor": {"errors", "blocks", "kernels"},
    "container": {"errors", "texts", "blocks", "tensor"},
    "arch": {"errors", "blocks"},
    "checkpoint": {"errors", "texts", "blocks", "arch"},
    "describe": {"errors", "blocks", "tensor", "container"},
    "verify": {"progress", "errors", "blocks", "tensor", "container"},
    "diff": {"progress", "errors", "blocks", "tensor", "container"},
    "convert": {"progress", "errors", "blocks", "kernels", "tensor", "container", "arch", "checkpoint"},
    "runner": {"progress", "errors", "blocks", "kernels", "tensor", "container", "arch", "checkpoint"},
}
# And which rooms of kernels/ each room may import.
ROOMS = {
    "engine": set(),
    "vector": {"engine"},
    "decode": {"engine", "vector"},
    "encode": {"engine", "vector"},
    "matmul": {"engine", "vector"},
    "attention": {"engine", "vector", "matmul"},
    "args": {"engine"},
    "ops": {"engine", "vector", "args"},
    "embed": {"engine", "vector", "args"},
    "table": {"matmul"},  # of which it takes what a row is made of; kernels it names as text
    "by_type": {"engine", "matmul", "embed", "table"},
    "dispatch": {"decode", "matmul", "table"},
}
TOP = {"__init__", "__main__", "cli", "demo"}  # may import everything
NUMBA_OWNERS = {f"kernels/{name}.py" for name in ("engine/jit", "engine/internals", "vector/lanes", "vector/emitter")}
HEAVY = {"numba", "llvmlite", "huggingface_hub", "jinja2", "tokenizers", "tqdm"}


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def part_of(path: Path) -> str:
    relative = path.relative_to(PACKAGE)
    return relative.parts[0] if len(relative.parts) > 1 else relative.stem


def imports(path: Path) -> list[tuple[int, str]]:
    """(line, dotted name) of every import in the file, also those inside functions."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            found += [(node.lineno, f"{node.module}.{alias.name}") for alias in node.names]
    return found


def test_imports_only_go_down() -> None:
    wrong = []
    for path in modules():
        part = part_of(path)
        for line, name in imports(path):
            if name.split(".")[0] != "gguflike" or part in TOP:
                continue
            target = [*name.split("."), "__version__"][1]
            if target not in BELOW[part] | {part, "__version__", "lazy"}:
                wrong.append(f"{path.relative_to(PACKAGE)}:{line}: {part} imports {name}")
    assert not wrong, "\n".join(wrong)


def test_kernels_import_only_rooms_below() -> None:
    wrong = []
    for path in modules():
        relative = path.relative_to(PACKAGE)
        if relative.parts[0] != "kernels" or relative.parts[1] == "__init__.py":
            continue
        room = relative.parts[1].removesuffix(".py")
        for line, name in imports(path):
            if name.startswith("gguflike.kernels.") and name.split(".")[2] not in ROOMS[room] | {room}:
                wrong.append(f"{relative}:{line}: {room} imports {name}")
    assert not wrong, "\n".join(wrong)


def test_every_part_has_a_place() -> None:
    assert {part_of(path) for path in modules()} <= set(BELOW) | TOP


def test_numba_is_imported_by_its_owners_only() -> None:
    users = {
        str(path.relative_to(PACKAGE))
        for path in modules()
        for _, name in imports(path)
        if name.split(".")[0] == "numba"
    }
    assert users <= NUMBA_OWNERS


def test_llvm_is_known_to_the_kernels_only() -> None:
    users = {
        part_of(path) for path in modules() for _, name in imports(path) if name.split(".")[0] in {"numba", "llvmlite"}
    }
    assert users == {"kernels"}


def test_huggingface_hub_is_imported_in_one_place() -> None:
    users = {
        str(path.relative_to(PACKAGE))
        for path in modules()
        for _, name in imports(path)
        if name.split(".")[0] == "huggingface_hub"
    }
    assert users == {"checkpoint/hub.py"}


@pytest.mark.parametrize(
    "module", ["gguflike", "gguflike.container", "gguflike.verify", "gguflike.describe", "gguflike.cli"]
)
def test_light_modules_load_nothing_heavy(module: str) -> None:
    code = f"import sys, {module}; print(*sorted({HEAVY!r} & set(sys.modules)))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert loaded == []


def test_no_branch_on_a_block_type() -> None:
    """Block types differ by their row in the table, not by comparisons spread over the code."""
    wrong = []
    for path in modules():
        # Kernels and safetensors have scalar types of their own.
        quantized = part_of(path) in ("kernels", "checkpoint")
        for node in ast.walk(ast.parse(path.read_text())):
            if _asks_for_a_type(node, quantized):
                wrong.append(f"{path.relative_to(PACKAGE)}:{node.lineno}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("code", "asks"),
    [
        ('x == "Q4_K"', True),
        ('x in ("Q4_K", y)', True),
        ('"BF16" != x', True),
        ('x.startswith("IQ")', True),
        ('x.endswith("_K")', True),
        ('x == "F32"', False),  # the type that holds every value
        ('x in {"general.name"}', False),
        ('x.startswith("blk.")', False),
    ],
)
def test_what_counts_as_a_branch_on_a_type(code: str, asks: bool) -> None:
    assert any(_asks_for_a_type(node) for node in ast.walk(ast.parse(code))) is asks


def _asks_for_a_type(node: ast.AST, quantized: bool = False) -> bool:
    """Whether an expression compares with the name of a type but F32, or looks at how such a name begins or ends."""
    from gguflike.blocks import FORMATS

    names = [name for name, fmt in FORMATS.items() if name != "F32" and (fmt.is_quantized or not quantized)]
    texts = [each.value for each in ast.walk(node) if isinstance(each, ast.Constant) and isinstance(each.value, str)]
    match node:
        case ast.Compare():
            return any(text in names for text in texts)
        case ast.Call(func=ast.Attribute(attr="startswith" | "endswith" as method)):
            return any(getattr(name, method)(text) for name in names for text in texts if text)
    return False
