"""A share of scripts/flip_bits.py: verify finds each flipped bit and each truncation of what gguflike wrote."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def flip_bits() -> ModuleType:
    spec = importlib.util.spec_from_file_location("flip_bits", ROOT / "scripts" / "flip_bits.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules["flip_bits"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_all_flips_and_truncations_are_found(flip_bits: ModuleType, tmp_path: Path) -> None:
    flip_bits.made(tmp_path / "x.gguf")
    counts, missed = flip_bits.flip(tmp_path / "x.gguf", 300, 5)
    assert missed == []
    assert set(counts) == {"header", "padding", "data"}
    assert sum(counts.values()) == 300
    counts, missed = flip_bits.cut(tmp_path / "x.gguf", 60, 5)
    assert (counts.total(), missed) == (60, [])


def test_the_script_sees_what_is_missed(flip_bits: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flip_bits.made(tmp_path / "x.gguf")
    whole = flip_bits.verify(tmp_path / "x.gguf")
    monkeypatch.setattr(flip_bits, "verify", lambda _: whole)
    assert len(flip_bits.flip(tmp_path / "x.gguf", 5, 1)[1]) == 5
    assert len(flip_bits.cut(tmp_path / "x.gguf", 5, 1)[1]) == 5
