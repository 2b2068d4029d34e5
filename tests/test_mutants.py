"""scripts/mutants.py: what is changed, what is left alone, and that a function takes its mutant's code."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "scripts"))

from mutants_changes import Mutant, mutants_of  # noqa: E402
from mutants_plugin import replace_code  # noqa: E402

SOURCE = '''
"""Text 1."""
LIMIT: Literal[4] = 7

@decorator(1)
def f(a: int | None, b=2) -> int | None:
    if not a or b < 3:
        raise ValueError(f"{a + 1} at byte {5 - b}")
    log(a)
    return a * (b + 4)
'''


def after(found: list[Mutant]) -> list[str]:
    return [mutant.after for mutant in found]


def test_each_kind_of_change() -> None:
    assert after(mutants_of("m.py", SOURCE)) == [
        "LIMIT: Literal[4] = 8",
        "def f(a: int | None, b=3) -> int | None:",
        "if (not a and b < 3):",
        "if a or b < 3:",
        "if not a or (b <= 3):",
        "if not a or (b >= 3):",
        "if not a or b < 4:",
        "pass",
        "pass",
        "return None",
        "return (a // (b + 4))",
        "return a * ((b - 4))",
        "return a * (b + 5)",
    ]


def test_a_mutant_differs_in_one_piece() -> None:
    for path in (ROOT / "gguflike" / "container").glob("*.py"):
        source = path.read_text("utf-8")
        found = mutants_of("m.py", source)
        assert len({mutant.name for mutant in found}) == len(found)
        for mutant in found:
            compile(mutant.source, "m.py", "exec")
            assert mutant.source != source
            lines, changed = source.splitlines(), mutant.source.splitlines()
            assert lines[: mutant.line - 1] == changed[: mutant.line - 1]
            assert lines[mutant.end_line :] == changed[len(changed) - len(lines) + mutant.end_line :]


def test_names_stay_when_lines_move() -> None:
    moved = mutants_of("m.py", "import os\n\n" + SOURCE)
    assert [mutant.name for mutant in moved] == [mutant.name for mutant in mutants_of("m.py", SOURCE)]


def test_functions_take_the_code_of_a_mutant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = """
class A:
    def method(self):
        return [self.inner(n)() for n in (1, 2)]

    @staticmethod
    def inner(n):
        return lambda: n + 10

    @property
    def size(self):
        return 3
"""
    (tmp_path / "mutated_module.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    import mutated_module  # type: ignore[import-not-found]

    object_ = mutated_module.A()
    assert (object_.method(), object_.size) == ([11, 12], 3)
    assert replace_code("mutated_module.py", source, source.replace("n + 10", "n - 10"))
    assert (object_.method(), object_.size) == ([-9, -8], 3)
    assert replace_code("mutated_module.py", source, source.replace("return 3", "return 4"))
    assert object_.size == 4
    assert not replace_code("mutated_module.py", source, source + "\nLIMIT = 4\n")


def test_explanations_are_of_code_that_is_there() -> None:
    def bare(text: str) -> str:
        return "".join(text.split())

    explained = json.loads((ROOT / "scripts" / "mutants_explained.json").read_text())
    gone = [each for each in explained if bare(each["before"]) not in bare((ROOT / each["path"]).read_text())]
    assert explained
    assert gone == []
