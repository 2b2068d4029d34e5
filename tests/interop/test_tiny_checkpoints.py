"""The tiny checkpoints themselves: what the proofs of the families stand on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.interop.families import TABLE, make


def tensors(folder: Path) -> dict[str, Any]:
    from safetensors.numpy import load_file

    return dict(load_file(folder / "model.safetensors"))


@pytest.mark.parametrize("name", TABLE)
def test_every_row_saves_a_folder_without_idle_values(name: str, tmp_path: Path) -> None:
    """No tensor is constant, but where a row says so: a norm of ones or a bias of zeros would hide that someone drops
    it."""
    folder = make(name, tmp_path)
    config = json.loads((folder / "config.json").read_text())
    assert config["architectures"] == [TABLE[name].registered or TABLE[name].model_class]
    idle = [key for key, x in tensors(folder).items() if x.size > 1 and np.ptp(x) == 0]
    meant = [part for part, gain in TABLE[name].gains.items() if gain == 0]
    assert [key for key in idle if not any(part in key for part in meant)] == []


def test_a_row_is_the_same_every_time(tmp_path: Path) -> None:
    first, second = (tensors(make("Qwen3MoeForCausalLM", tmp_path / part)) for part in "ab")
    assert all(np.array_equal(first[key], second[key]) for key in first)
    assert len({x.tobytes() for x in first.values()}) == len(first)
