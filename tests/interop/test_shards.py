"""Models in several files, as llama.cpp loads them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gguflike.convert import convert, merge, split
from tests.interop.conftest import AUSTEN

PROMPT = "It is a truth universally acknowledged"


def logits(path: str | Path) -> np.ndarray:
    """Of the prompt's tokens, by llama.cpp."""
    import llama_cpp

    model: Any = llama_cpp.Llama(str(path), n_ctx=64, n_threads=1, logits_all=True, verbose=False)
    tokens = model.tokenize(PROMPT.encode())
    model.eval(tokens)
    return np.array(model.scores[: len(tokens)])


@pytest.mark.parametrize(
    "options", [{"split_max_tensors": 20}, {"split_max_size": "2M", "no_tensor_first_split": True}]
)
def test_llama_cpp_loads_what_was_split(austen: Callable[[str], Path], tmp_path: Path, options: dict[str, Any]) -> None:
    """By its first file, the same model: one that was split, one that was written so, and one that was merged."""
    whole = austen("Q8_0")
    want = logits(whole)
    made = split(whole, tmp_path / "split", **options)
    written = convert(AUSTEN, tmp_path / "written.gguf", "Q8_0", **options)
    assert len(made.paths) == len(written.paths) > 2
    for path in (made.paths[0], written.paths[0]):
        assert np.array_equal(logits(path), want)
    merge(written.paths[0], tmp_path / "merged.gguf")
    assert (tmp_path / "merged.gguf").read_bytes() == whole.read_bytes()
    assert np.array_equal(logits(tmp_path / "merged.gguf"), want)
