"""SmolLM2-135M-Instruct from end to end: opened, exported, converted, run here and in llama.cpp: the same result."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGUFReader
from gguf.quants import dequantize

import gguflike
from tests.interop.conftest import TEXT

PROMPTS = (
    "The capital of France is",
    "Once upon a time, in a small village by the sea,",
    "def fibonacci(n):\n    ",
)
TYPES = ("F16", "Q8_0", "Q4_0", "Q4_K_M", "Q2_K")


def relative_error(got: np.ndarray, want: np.ndarray) -> float:
    return float(np.linalg.norm(np.asarray(got, np.float64) - want) / np.linalg.norm(want))


def greedy(model: Any, ids: list[int], count: int) -> list[int]:
    """``count`` tokens by argmax, not stopping at the end token (see LlamaCpp.greedy)."""
    return list(model.generate(ids, max_tokens=count, temperature=0, ignore_eos=True).tokens)


@pytest.mark.parametrize("kind", ["F16", "Q8_0"])
def test_same_greedy_tokens_as_llama_cpp(kind: str, converted: Callable[[str], Path], llama_cpp: Any) -> None:
    path = converted(kind)
    peer, model = llama_cpp(path), gguflike.load(path)
    for prompt in PROMPTS:
        ids = peer.tokenize(prompt)
        assert model.tokenize(prompt) == ids
        assert greedy(model, ids, 32) == peer.greedy(ids, 32), prompt


@pytest.mark.parametrize("kind", TYPES)
def test_every_type_loads_in_llama_cpp_and_agrees(kind: str, converted: Callable[[str], Path], llama_cpp: Any) -> None:
    path = converted(kind)
    peer, model = llama_cpp(path), gguflike.load(path)
    ids = peer.tokenize(PROMPTS[1])
    want = peer.logits(ids)
    # Both quantize activations to int8, each in its own way: the fewer bits, the more the difference shows.
    assert relative_error(model.logits(ids), want) < (1e-2 if kind == "F16" else 6e-2)
    assert len(peer.greedy(ids, 32)) == 32


@pytest.mark.parametrize("kind", TYPES)
def test_gguf_package_reads_every_tensor(kind: str, converted: Callable[[str], Path]) -> None:
    path = converted(kind)
    with gguflike.open(path) as ours:
        theirs = {t.name: t for t in GGUFReader(path).tensors}
        assert list(theirs) == list(ours.tensors)
        for name, tensor in ours.tensors.items():
            other = theirs[name]
            assert tuple(int(n) for n in reversed(other.shape)) == tensor.shape
            assert other.tensor_type == tensor.format.id
            assert np.array_equal(dequantize(other.data, other.tensor_type).reshape(tensor.shape), tensor.dequantize())


def test_token_ids_are_the_originals(
    smollm2: Path, exported: Path, converted: Callable[[str], Path], llama_cpp: Any
) -> None:
    """Original file in llama.cpp, exported folder in transformers, converted file here: the same ids on real text."""
    from transformers import AutoTokenizer

    shared = Path(__file__).parents[3] / "shared" / "text"
    texts = [TEXT.read_text(), (Path(__file__).parent / "many_scripts.txt").read_text()]
    texts += [path.read_text()[:200_000] for path in sorted(shared.glob("*.txt"))]
    original = llama_cpp(smollm2)
    theirs = AutoTokenizer.from_pretrained(exported)
    model = gguflike.load(converted("Q8_0"))
    for text in texts:
        want = original.tokenize(text)
        assert model.tokenize(text) == want
        assert theirs(text, add_special_tokens=False)["input_ids"] == want


def test_logits_of_f16_equal_transformers(exported: Path, converted: Callable[[str], Path]) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    model = gguflike.load(converted("F16"))
    reference = AutoModelForCausalLM.from_pretrained(exported, dtype=torch.float32)
    for prompt in PROMPTS:
        ids = model.tokenize(prompt)
        with torch.no_grad():
            want = reference(torch.tensor([ids])).logits[0].double().numpy()
        assert relative_error(model.logits(ids), want) < 1e-2


def test_chat_template_is_applied_as_transformers_does(exported: Path, converted: Callable[[str], Path]) -> None:
    from transformers import AutoTokenizer

    messages = [{"role": "user", "content": "Say hello."}]
    want = AutoTokenizer.from_pretrained(exported).apply_chat_template(
        messages, tokenize=False, add_generation_prompt=True
    )
    model = gguflike.load(converted("Q8_0"))
    assert model.tokenizer.apply_chat_template(messages) == want


def test_quantize_from_gguf_equals_convert_from_folder(
    smollm2: Path, converted: Callable[[str], Path], tmp_path: Path
) -> None:
    """A GGUF source and the folder exported from it hold the same values, so they give the same blocks."""
    direct = tmp_path / "direct.gguf"
    gguflike.quantize_file(smollm2, direct, type="Q8_0")
    with gguflike.open(direct) as a, gguflike.open(converted("Q8_0")) as b:
        assert list(a.tensors) == list(b.tensors) or set(a.tensors) == set(b.tensors)
        for name in a.tensors:
            assert np.array_equal(a.tensors[name].data, b.tensors[name].data), name
