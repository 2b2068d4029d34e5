"""The bundled checkpoint against transformers and llama.cpp."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import gguflike
from tests.interop.conftest import AUSTEN, TEXT
from tests.measures import relative_error

WINDOW = 256


# The first 51,200 tokens of a novel that the model never saw (public domain).
HELD_OUT = Path(__file__).parent / "pride_and_prejudice.txt"
TOKENS = 51_200


def test_perplexity_of_f32_is_that_of_transformers(austen: Callable[[str], Path]) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    model = gguflike.load(austen("F32"))
    ids = model.tokenize(HELD_OUT.read_text())[:TOKENS]
    reference = AutoModelForCausalLM.from_pretrained(AUSTEN, dtype=torch.float32)
    windows = torch.tensor(ids).reshape(-1, WINDOW)
    with torch.no_grad():
        log_probs = torch.log_softmax(reference(windows).logits[:, :-1].double(), -1)
    want = float(torch.exp(-log_probs.gather(-1, windows[:, 1:, None]).mean()))
    assert abs(model.perplexity(ids, window=WINDOW) / want - 1) < 1e-3


def test_logits_equal_transformers(austen: Callable[[str], Path]) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    ids = gguflike.load(austen("F32")).tokenize(TEXT.read_text())[:200]
    got = np.asarray(gguflike.load(austen("F32")).logits(ids), np.float64)
    with torch.no_grad():
        want = (
            AutoModelForCausalLM.from_pretrained(AUSTEN, dtype=torch.float32)(torch.tensor([ids]))
            .logits[0]
            .double()
            .numpy()
        )
    # Weights and activations are float32 here; keys and values pass through the float16 cache (2**-11 each).
    assert relative_error(got, want) < 3e-4


def test_perplexity_grows_with_fewer_bits(austen: Callable[[str], Path]) -> None:
    values = []
    for kind in ("F32", "Q8_0", "Q4_K_M", "Q2_K"):
        with gguflike.load(austen(kind)) as model:
            values.append(model.perplexity(model.tokenize(HELD_OUT.read_text())[:TOKENS], window=WINDOW))
    assert values == sorted(values), values
    assert values[1] < 1.002 * values[0]
    assert values[2] < 1.02 * values[0]
    assert values[3] < 1.1 * values[0]


def test_loads_in_llama_cpp(austen: Callable[[str], Path], llama_cpp: Any) -> None:
    for kind in ("F16", "Q8_0", "Q4_K_M", "Q2_K", "TQ2_0"):
        peer, model = llama_cpp(austen(kind)), gguflike.load(austen(kind))
        ids = peer.tokenize("It is a truth universally acknowledged, that")
        assert model.tokenize("It is a truth universally acknowledged, that") == ids
        want = peer.logits(ids)
        assert relative_error(model.logits(ids), want) < 6e-2, kind


def test_exported_folder_loads_in_transformers(austen: Callable[[str], Path], tmp_path: Path) -> None:
    """GGUF and back: the float tensors are those of the file, bit for bit, and the tokenizer gives the same ids."""
    from safetensors.numpy import load_file
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = tmp_path / "hf"
    gguflike.export(austen("F32"), folder)
    AutoModelForCausalLM.from_pretrained(folder)
    got = load_file(folder / "model.safetensors")
    with gguflike.open(austen("F32")) as f:
        assert (
            got["model.embed_tokens.weight"].astype(np.float32).tobytes()
            == f.tensors["token_embd.weight"].dequantize().tobytes()
        )
    text = TEXT.read_text()
    ids = [AutoTokenizer.from_pretrained(f)(text, add_special_tokens=False)["input_ids"] for f in (AUSTEN, folder)]
    assert ids[0] == ids[1]
