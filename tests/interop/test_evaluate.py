"""The divergence that `gguflike eval` measures beside the one that llama.cpp's logits give for the same tokens."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gguflike
from gguflike.evaluate import texts
from gguflike.evaluate.scores import pairs
from gguflike.evaluate.texts import Protocol

HELD_OUT = Path(__file__).parent / "pride_and_prejudice.txt"
PROTOCOL = Protocol(512, 4096)


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_K_M", "Q3_K_M", "Q2_K", "IQ4_XS", "IQ3_XXS"])
def test_divergence_through_llama_cpp(kind: str, austen: Callable[[str], Path], llama_cpp: Any) -> None:
    """The same protocol on llama.cpp's logits: the two round activations differently, which decides a few per cent."""
    text = {"pride": HELD_OUT.read_text()}
    found = gguflike.evaluate(
        austen(kind), text, reference=austen("F32"), context=PROTOCOL.context, tokens=PROTOCOL.tokens
    ).of("pride")
    with gguflike.load(austen("F32")) as model:
        chunks = texts.cut("pride", text["pride"], model.tokenizer, PROTOCOL).chunks
    first, second = (llama_cpp(austen(each)) for each in ("F32", kind))
    kl, nll, same = [], [], []
    for chunk in chunks:
        rows = slice(PROTOCOL.first, PROTOCOL.context - 1)
        wanted, got = (peer.logits(list(chunk))[rows].astype(np.float32) for peer in (first, second))
        scored = pairs(wanted, got, chunk[PROTOCOL.first + 1 :])
        kl.append(scored.kl)
        nll.append(scored.nll)
        same.append(scored.same)
    assert found.tokens == sum(each.size for each in kl) == 8 * 255
    assert found.kl is not None
    assert found.same_top is not None
    theirs = float(np.mean(kl))
    assert abs(found.kl.value / theirs - 1) < 0.08, (found.kl, theirs)
    assert found.perplexity.value == pytest.approx(float(np.exp(np.mean(nll))), rel=0.01)
    assert found.same_top.value == pytest.approx(float(np.mean(same)), abs=0.012)
