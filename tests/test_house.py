"""The layering of the package: imports only go down, numba is imported in one place, and lazily."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from gguflike import cli
from gguflike.blocks import FORMATS
from gguflike.families import registry

PACKAGE = Path(__file__).parent.parent / "gguflike"

# Which parts of the package each part may import (besides itself).
BELOW = {
    "errors": set(),
    "foreign": set(),
    "blocks": {"errors"},
    "jsontext": set(),
    "lazy": set(),
    "frozen": set(),
    "amounts": set(),
    "progress": set(),
    "machine": set(),
    "texts": set(),
    "kernels": {"progress", "errors", "blocks"},
    "tensor": {"errors", "blocks", "kernels"},
    "container": {"amounts", "errors", "foreign", "texts", "blocks", "tensor"},
    "families": {"errors"},
    "reference": {"families"},
    "calibrate": {"progress", "errors", "foreign", "blocks", "kernels", "tensor", "families", "reference"},
    "checkpoint": {"progress", "errors", "foreign", "texts", "blocks", "families"},
    "locate": {"progress", "container", "checkpoint"},
    "model_card": {"checkpoint", "quality"},
    "upload": {"progress", "errors", "container", "inspect", "checkpoint", "model_card"},
    "inspect": {"errors", "machine", "blocks", "container", "quality", "families", "checkpoint", "chat", "runner"},
    "verify": {"progress", "errors", "container", "locate", "families", "checkpoint", "chat", "runner"},
    "diff": {"progress", "errors", "blocks", "tensor", "container", "convert"},
    "convert": {"progress", "errors", "foreign", "blocks", "kernels", "tensor", "container", "families", "checkpoint"}
    | {"amounts", "calibrate", "activations", "machine"},
    "activations": {"errors", "container"},
    "grammar": {"errors", "checkpoint"},
    "chat": {"errors", "checkpoint", "grammar"},
    "runner": {"progress", "errors", "blocks", "kernels", "tensor", "container", "families", "checkpoint", "locate"}
    | {"activations", "chat", "grammar", "machine"},
    "engine": {"machine", "errors", "container", "runner"},
    "serve": {"machine", "progress", "errors", "container", "families", "grammar", "chat", "runner", "engine"}
    | {"locate"},
    "calibration": {"progress", "errors", "activations", "container", "locate", "convert", "runner", "evaluate"},
    "quality": {"container"},
    "edit": {"errors", "container"},
    "report": {"progress", "errors", "texts", "frozen", "container", "families", "checkpoint", "chat", "inspect"},
    "estimate": {"errors", "container", "locate", "machine", "runner"},
    "evaluate": {"progress", "errors", "container", "checkpoint", "locate", "quality", "diff", "convert", "runner"}
    | {"activations", "calibrate"},
    "torch": {"errors", "blocks", "tensor", "container", "calibrate", "convert"},
    "tuning": {
        "progress",
        "errors",
        "locate",
        "tensor",
        "container",
        "families",
        "calibrate",
        "convert",
        "runner",
        "evaluate",
    },
}
# And which rooms of kernels/ each room may import.
ROOMS = {
    "engine": set(),
    "vector": {"engine"},
    "decode": {"engine", "vector"},
    "encode": {"engine", "vector"},
    "rounding": {"engine", "vector", "encode"},
    "matmul": {"engine", "vector"},
    "attention": {"engine", "vector", "matmul"},
    "experts": {"engine", "vector", "matmul"},
    "args": {"engine"},
    "ops": {"engine", "vector", "args"},
    "embed": {"engine", "vector", "args"},
    "shares": {"engine", "vector", "args"},
    "rows": {"engine", "vector"},
    "recurrent": {"engine", "vector"},
    "table": {"matmul"},  # of which it takes what a row is made of; kernels it names as text
    "by_type": {"engine", "decode", "encode", "matmul", "embed", "table"},
    "dispatch": {"decode", "encode", "matmul", "table"},
    "prepare": {"engine", "table", "dispatch"},
}
TOP = {"__init__", "__main__", "cli", "demo"}  # may import everything
NUMBA_OWNERS = {f"kernels/{name}.py" for name in ("engine/jit", "engine/internals", "vector/lanes", "vector/emitter")}
HEAVY = {"numba", "llvmlite", "huggingface_hub", "jinja2", "tokenizers", "tqdm"}


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def part_of(path: Path) -> str:
    relative = path.relative_to(PACKAGE)
    return relative.parts[0] if len(relative.parts) > 1 else relative.stem


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


@cache
def imports(path: Path) -> list[tuple[int, str]]:
    """(line, dotted name) of every import in the file, also those inside functions."""
    found = []
    for node in ast.walk(tree(path)):
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
            if target not in BELOW[part] | {part, "__version__", "lazy", "frozen", "jsontext"}:
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


def dotted(path: Path) -> str:
    """The name of a file's module."""
    names = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(names[:-1] if names[-1] == "__init__" else names)


def only_types(module: ast.Module) -> set[int]:
    """The lines of imports that only type checkers read."""
    blocks = [
        node for node in ast.walk(module) if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    ]
    return {line for block in blocks for part in block.body for line in range(part.lineno, (part.end_lineno or 0) + 1)}


def circles(arrows: dict[str, set[str]]) -> list[set[str]]:
    """The groups of modules of which each imports, by way of others, all the others."""
    # Whatever imports nothing that is left is in no circle.
    while ends := {name for name, targets in arrows.items() if not targets}:
        arrows = {name: targets - ends for name, targets in arrows.items() if name not in ends}
    reached = {name: _reached(arrows, name) for name in arrows}
    groups = {frozenset(b for b in reached[a] if a in reached[b]) for a in arrows if a in reached[a]}
    return [set(group) for group in groups]


def _reached(arrows: dict[str, set[str]], start: str) -> set[str]:
    found: set[str] = set()
    left = list(arrows[start])
    while left:
        name = left.pop()
        if name not in found:
            found.add(name)
            left += arrows[name]
    return found


# Rooms in which not even types look up.
WITHOUT_UPWARD_TYPES = {"calibrate", "checkpoint", "chat", "cli", "container", "convert", "engine", "kernels", "verify"}
# What belongs together although it is two files: numpy asks an array on a tape what its functions do, and they make
# such arrays.
TWO_FILES = {"gguflike.reference.gradient.rules", "gguflike.reference.gradient.tape"}


def test_no_imports_in_circles() -> None:
    """Also none by way of an import inside a function."""
    names = {dotted(path): path for path in modules()}
    arrows: dict[str, set[str]] = {}
    for name, path in names.items():
        typed = only_types(tree(path)) if part_of(path) not in WITHOUT_UPWARD_TYPES else set()
        targets = {
            target if target in names else target.rpartition(".")[0]
            for line, target in imports(path)
            if line not in typed
        }
        arrows[name] = targets & (names.keys() - {name, "gguflike"})
    assert [circle for circle in circles(arrows) if circle != TWO_FILES] == []


def test_a_circle_is_seen() -> None:
    arrows = {"a": {"b"}, "b": {"c"}, "c": {"b", "d"}, "d": set(), "e": {"f"}, "f": {"e", "a"}}
    assert sorted(map(sorted, circles(arrows))) == [["b", "c"], ["e", "f"]]
    source = "if TYPE_CHECKING:\n    import a\nimport b\ndef f():\n    import c"
    assert only_types(ast.parse(source)) == {2}


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
    assert users == {"checkpoint/hub/client.py"}


@pytest.mark.parametrize(
    "module",
    ["gguflike", "gguflike.container", "gguflike.verify.verification", "gguflike.inspect.summary", "gguflike.cli"],
)
def test_light_modules_load_nothing_heavy(module: str) -> None:
    code = f"import sys, {module}; print(*sorted({HEAVY!r} & set(sys.modules)))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert loaded == []


TABLES = {"blocks/table.py", "kernels/table.py"}
# Names of these files are dtypes of safetensors, some of which are called as block types are.
OF_SAFETENSORS = {
    *("checkpoint/safetensors.py", "checkpoint/save.py", "convert/to_checkpoint.py"),
    *(str(path.relative_to(PACKAGE)) for path in (PACKAGE / "checkpoint" / "quantized").iterdir()),
    "checkpoint/pickled/machine.py",
}
AFFIXES = {"startswith", "endswith", "removeprefix", "removesuffix"}


def block_type_branches(module: ast.Module) -> list[tuple[int, str]]:
    """(line, what) of code that asks for a block type's name.

    It compares with one (==, in, match), tests for the start or end of one, or has a dictionary keyed by several.
    """
    found = []
    for node in ast.walk(module):
        names: list[str] = []
        if isinstance(node, ast.Compare):
            names = [name for side in [node.left, *node.comparators] for name in _texts(side) if name in FORMATS]
        elif isinstance(node, ast.MatchValue):
            names = [name for name in _texts(node.value) if name in FORMATS]
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in AFFIXES:
            parts = [part for argument in node.args for part in _texts(argument)]
            names = [part for part in parts if any(part and part in (n[: len(part)], n[-len(part) :]) for n in FORMATS)]
        elif isinstance(node, ast.Dict):
            names = [name for key in node.keys if key for name in _texts(key) if name in FORMATS]
            names = names if len(names) > 1 else []
        if names:
            found.append((node.lineno, f"{type(node).__name__} with {', '.join(names)}"))
    return found


def _texts(node: ast.expr) -> list[str]:
    """The strings of a constant, or of a tuple, list or set of constants."""
    if isinstance(node, ast.Tuple | ast.List | ast.Set):
        return [text for element in node.elts for text in _texts(element)]
    return [node.value] if isinstance(node, ast.Constant) and isinstance(node.value, str) else []


def test_no_branch_on_a_block_type() -> None:
    """Block types differ by their rows in the two tables, not by comparisons or tables spread over the code."""
    wrong = []
    for path in modules():
        place = str(path.relative_to(PACKAGE))
        if place not in TABLES | OF_SAFETENSORS:
            wrong += [f"{place}:{line}: {what}" for line, what in block_type_branches(tree(path))]
    assert not wrong, "\n".join(wrong)


FAMILY_MODULES = {place.partition(":")[0] for place, *_ in registry.FAMILIES}
FAMILY_NAMES = FAMILY_MODULES | set(registry.CLASSES) | set(registry.ARCHITECTURES)
WITHOUT_FAMILIES = ("calibrate", "convert", "kernels", "reference", "runner", "families/parts")
OF_TOKENIZERS = {"runner/tokenizer.py"}  # kinds of vocabularies are called as families are


def family_branches(module: ast.Module) -> list[int]:
    """Lines that compare with the name of a model family, or have a dictionary keyed by several."""
    found = []
    for node in ast.walk(module):
        if isinstance(node, ast.Compare):
            names = [name for side in [node.left, *node.comparators] for name in _texts(side) if name in FAMILY_NAMES]
        elif isinstance(node, ast.MatchValue):
            names = [name for name in _texts(node.value) if name in FAMILY_NAMES]
        elif isinstance(node, ast.Dict):
            names = [name for key in node.keys if key for name in _texts(key) if name in FAMILY_NAMES]
            names = names if len(names) > 1 else []
        else:
            names = []
        found += [node.lineno for _ in names[:1]]  # type: ignore[attr-defined]
    return found


def test_no_branch_on_a_family() -> None:
    """The part is the unit: what runs, converts or defines models neither asks for a family nor imports one."""
    wrong = []
    for path in (path for folder in WITHOUT_FAMILIES for path in (PACKAGE / folder).rglob("*.py")):
        place = str(path.relative_to(PACKAGE))
        for line, name in imports(path):
            if name.startswith("gguflike.families.") and name.split(".")[2] in FAMILY_MODULES:
                wrong.append(f"{place}:{line}: imports {name}")
        if place not in OF_TOKENIZERS:
            wrong += [f"{place}:{line}: asks for a family" for line in family_branches(tree(path))]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    "source",
    ["x == 'llama'", "x in ('qwen3', 'y')", "x = {'gemma': 1, 'BertModel': 2}", "match x:\n case 'glm4': pass"],
)
def test_a_branch_on_a_family_is_seen(source: str) -> None:
    assert family_branches(ast.parse(source)) == [2 if "\n" in source else 1]


def literal_offsets(source: str) -> list[int]:
    """Lines that add a number to the address of a block, or multiply the number of a block by one."""
    return sorted(
        node.lineno
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.BinOp)
        and isinstance(node.op, ast.Add | ast.Mult)
        and isinstance(node.left, ast.Name)
        and node.left.id in {"at", "block"}
        and isinstance(node.right, ast.Constant)
    )


def test_kernels_take_the_offsets_of_fields_from_the_format() -> None:
    places = [*PACKAGE.glob("kernels/decode/*.py"), PACKAGE / "kernels" / "matmul" / "scatter.py"]
    wrong = [f"{path.relative_to(PACKAGE)}:{line}" for path in places for line in literal_offsets(path.read_text())]
    assert not wrong, "\n".join(wrong)
    assert literal_offsets("d = f16(at + 2)\nq = u8(block + 16 + i)\nat = source + block * 18") == [1, 2, 3]


@pytest.mark.parametrize(
    "source",
    [
        "x == 'Q4_K'",
        "'F16' != x",
        "x in ('BF16', 'F16')",
        "x not in {'Q8_0'}",
        "x.startswith('IQ')",
        "x.startswith(('a', 'TQ'))",
        "x.endswith('_K')",
        "match x:\n case 'Q6_K' | 'Q5_K': pass",
        "x = {'Q4_0': 1, 'Q4_1': 2}",
    ],
)
def test_a_branch_on_a_block_type_is_seen(source: str) -> None:
    assert len(block_type_branches(ast.parse(source))) >= 1


@pytest.mark.parametrize("source", ["x = 'Q4_K'", "x.startswith('blk.')", "f('Q4_K')", "x == 'q4'", "x = {'Q8_0': 1}"])
def test_naming_a_block_type_is_no_branch(source: str) -> None:
    assert block_type_branches(ast.parse(source)) == []


def test_the_map_of_the_families_names_what_they_are_made_with() -> None:
    folder = PACKAGE / "families"
    shared = {path.stem for path in folder.iterdir() if not path.name.startswith("__")} - FAMILY_MODULES
    page = ast.get_docstring(ast.parse((folder / "__init__.py").read_text()), clean=False) or ""
    assert {line.split()[0].rstrip("/") for line in page.splitlines() if line.startswith("    ")} == shared
    wrong = [
        f"{path.relative_to(PACKAGE)}:{line}: imports the family {name}"
        for path in sorted(folder.rglob("*.py"))
        if path.relative_to(folder).parts[0].removesuffix(".py") in shared
        for line, name in imports(path)
        if name.startswith("gguflike.families.") and name.split(".")[2] in FAMILY_MODULES
    ]
    assert not wrong, "\n".join(wrong)


def test_the_map_of_the_kernels_names_every_room() -> None:
    page = ast.get_docstring(ast.parse((PACKAGE / "kernels" / "__init__.py").read_text()), clean=False) or ""
    start, end = page.index("**Map.**"), page.index("**Two kinds of kernels.**")
    named = set(page[start:end].replace("/", " ").replace(":", " ").split())
    assert set(ROOMS) <= named
    assert {path.stem for path in (PACKAGE / "kernels").iterdir() if not path.name.startswith("__")} == set(ROOMS)


KERNELS = ("engine", "vector", "matmul", "attention", "experts", "recurrent", "rows", "rounding")


MAPPED = (
    *(f"kernels/{name}" for name in (*KERNELS, "by_type", "decode")),
    *(f"checkpoint/{name}" for name in ("hub", "pickled", "quantized", "tokenizer", "tokenizer/sources")),
    *("blocks", "calibrate", "chat", "checkpoint", "cli", "cli/talk", "container", "convert", "engine", "evaluate"),
    *("families/parts", "inspect", "reference", "report", "runner", "runner/parts", "runner/sampling", "serve"),
    *("serve/openai", "verify"),
)


@pytest.mark.parametrize("room", MAPPED)
def test_maps_of_rooms_name_every_file(room: str) -> None:
    """The page at the top of a room says what each of its files and folders is for, in a line that begins with its
    name. The modules of commands are in the table of these."""
    folder = PACKAGE / room
    page = ast.get_docstring(ast.parse((folder / "__init__.py").read_text()), clean=False) or ""
    lines = [match[1] for line in page.splitlines() if (match := re.match(r"(?:    )?(\w+/?(?:, \w+)*) {2,}\S", line))]
    rooms = {f"{path.name}/" for path in folder.iterdir() if path.is_dir() and path.name != "__pycache__"}
    files = {path.stem for path in folder.glob("*.py") if path.stem != "__init__"}
    files -= cli.COMMANDS.keys() if room == "cli" else set()
    assert sorted(name for line in lines for name in line.split(", ")) == sorted(files | rooms)


def test_parts_families_and_rows_are_no_dataclasses() -> None:
    """Half a millisecond each, before the first token: frozen.py makes the same."""
    folders = ("blocks", "families", "runner/parts")
    users = [
        str(path.relative_to(PACKAGE))
        for folder in folders
        for path in (PACKAGE / folder).rglob("*.py")
        if any(name.split(".")[0] == "dataclasses" for _, name in imports(path))
    ]
    assert users == [], "use frozen and replace of gguflike.frozen"
