"""Trained weights of others: Gemma 3 270M beside llama.cpp and transformers, a GPT-2 beside transformers."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

import gguflike
from gguflike.convert import convert, export, quantize_file
from tests.interop.conftest import MODELS, LlamaCpp
from tests.interop.families import vocabularies
from tests.interop.families.row import VOCABULARY
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


def test_gemma_3_in_float_is_what_transformers_computes(gemma3: Path, tmp_path: Path) -> None:
    """The same logits on a text, and the same words after prompts."""
    import torch
    from transformers import AutoModelForCausalLM

    quantize_file(gemma3, tmp_path / "float.gguf", "F32")
    export(gemma3, tmp_path / "hf")
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "hf", dtype=torch.float32)
    with gguflike.load(tmp_path / "float.gguf", context=256, cache_type="f32") as ours:
        ids = ours.tokenize(TEXT)[:150]
        with torch.no_grad():
            want = theirs(torch.tensor([ids])).logits[0].numpy()
        assert relative_error(ours.logits(ids), want) < 1e-4
        for prompt in PROMPTS:
            ids = ours.tokenize(prompt)
            with torch.no_grad():
                greedy = theirs.generate(torch.tensor([ids]), max_new_tokens=12, do_sample=False)[0, len(ids) :]
            assert ours.generate(ids, 12).result().tokens == greedy.tolist(), prompt


def test_gemma_3_quantized_is_as_likely_as_in_llama_cpp(gemma3: Path) -> None:
    """Perplexity within half a per cent of llama.cpp's, in five windows of 256 tokens: both round activations to 8
    bits, in their own ways."""
    theirs = LlamaCpp(gemma3, context=256)
    losses: dict[str, list[float]] = {"ours": [], "theirs": []}
    with gguflike.load(gemma3, context=256) as model:
        text = model.tokenize(TEXT)
        for start in range(1, 1 + 5 * 255, 255):
            ids = [text[0], *text[start : start + 255]]
            losses["ours"].append(math.log(perplexity(model.logits(ids), ids)))
            losses["theirs"].append(math.log(perplexity(theirs.logits(ids), ids)))
    assert abs(math.exp(np.mean(losses["ours"]) - np.mean(losses["theirs"])) - 1) < 0.005


def test_a_gpt_2(tmp_path: Path) -> None:
    """As PyTorch saved it, by way of transformers' own safetensors; its words are names of bacteria, so any tokenizer
    will do, and the ids that it has no tokens for are padding."""
    import torch
    from transformers import GPT2LMHeadModel

    model = GPT2LMHeadModel.from_pretrained(fetched("mgm"), dtype=torch.float32)
    model.save_pretrained(tmp_path / "hf")
    vocabularies.write("bpe", tmp_path / "hf", VOCABULARY, {})
    convert(tmp_path / "hf", tmp_path / "x.gguf", "F32")
    ids = [int(i) for i in np.random.default_rng(3).integers(4, model.config.vocab_size, 96)]
    want = by_transformers(tmp_path / "hf", ids)
    with gguflike.load(tmp_path / "x.gguf", cache_type="f32") as ours:
        assert relative_error(ours.logits(ids), want) < 1e-4
        assert abs(perplexity(ours.logits(ids), ids) / perplexity(want, ids) - 1) < 1e-3
        with torch.no_grad():
            greedy = model.generate(torch.tensor([ids[:8]]), max_new_tokens=24, do_sample=False)[0, 8:].tolist()
        continued = ours.generate(ids[:8], 24).result().tokens
        assert len(continued) > 4
        assert continued == greedy[: len(continued)]
