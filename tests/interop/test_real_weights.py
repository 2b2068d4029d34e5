"""Trained weights of others: Gemma 3 270M beside llama.cpp and transformers, a GPT-2 beside transformers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import gguflike
from gguflike.convert import convert, export
from tests.interop.conftest import MODELS, LlamaCpp
from tests.interop.families import vocabularies
from tests.measures import relative_error

TEXT = (Path(__file__).parent / "pride_and_prejudice.txt").read_text(encoding="utf-8")
PROMPTS = ["The capital of France is", "Once upon a time, there was a", "def fibonacci(n):\n    "]


def fetched(name: str) -> Path:
    path = MODELS / name
    if not path.exists():
        pytest.fail(f"{path} is missing; run scripts/get_models.py smollm2 gemma3 mgm minilm")
    return path


def perplexity(logits: np.ndarray, ids: list[int]) -> float:
    """Of each token but the first, given those before."""
    rows = logits[:-1].astype(np.float64)
    rows -= rows.max(axis=-1, keepdims=True)
    likely = rows[np.arange(len(ids) - 1), ids[1:]] - np.log(np.exp(rows).sum(axis=-1))
    return float(np.exp(-likely.mean()))


def by_transformers(folder: Path, ids: list[int]) -> np.ndarray:
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0].numpy()  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def gemma3() -> Path:
    return fetched("gemma3-270m-q4_k_m.gguf")


def test_gemma_3_continues_as_in_llama_cpp(gemma3: Path) -> None:
    theirs = LlamaCpp(gemma3, context=64)
    with gguflike.load(gemma3, context=64) as model:
        for prompt in PROMPTS:
            ids = model.tokenize(prompt)
            ours = model.generate(ids, 12).result().ids
            assert ours == theirs.greedy(ids, 12), prompt


def test_gemma_3_on_a_text(gemma3: Path, tmp_path: Path) -> None:
    """Within half a per cent of llama.cpp's perplexity, and of transformers' on the weights in float32: 200 tokens."""
    with gguflike.load(gemma3, context=256) as model:
        ids = model.tokenize(TEXT)[:200]
        ours = perplexity(model.logits(ids), ids)
    theirs = perplexity(LlamaCpp(gemma3, context=256).logits(ids), ids)
    assert abs(ours / theirs - 1) < 0.005
    export(gemma3, tmp_path / "hf")
    assert abs(ours / perplexity(by_transformers(tmp_path / "hf", ids), ids) - 1) < 0.005


def test_a_gpt_2(tmp_path: Path) -> None:
    """As PyTorch saved it, by way of transformers' own safetensors; its words are names of bacteria, so any tokenizer
    of as many tokens will do."""
    import torch
    from transformers import GPT2LMHeadModel

    model = GPT2LMHeadModel.from_pretrained(fetched("mgm"), dtype=torch.float32)
    model.save_pretrained(tmp_path / "hf")
    vocabularies.write("bpe", tmp_path / "hf", model.config.vocab_size)
    convert(tmp_path / "hf", tmp_path / "x.gguf", "F32")
    ids = [int(i) for i in np.random.default_rng(3).integers(4, model.config.vocab_size, 96)]
    want = by_transformers(tmp_path / "hf", ids)
    with gguflike.load(tmp_path / "x.gguf", cache_type="f32") as ours:
        assert relative_error(ours.logits(ids), want) < 1e-4
        assert abs(perplexity(ours.logits(ids), ids) / perplexity(want, ids) - 1) < 1e-3
        with torch.no_grad():
            greedy = model.generate(torch.tensor([ids[:8]]), max_new_tokens=24, do_sample=False)[0, 8:].tolist()
        continued = ours.generate(ids[:8], 24).result().ids
        assert len(continued) > 4
        assert continued == greedy[: len(continued)]
