"""Every variant of the Llama family: transformers on the checkpoint, llama.cpp on our file, both on what we export."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gguflike.convert import convert, export
from tests import tiny
from tests.interop.conftest import LlamaCpp
from tests.measures import relative_error
from tests.tiny import LLAMA3, VARIANTS, YARN

IDS = [256, *b"In the beginning was the word, and some more of them follow it here.", 257, 1, 2, 3]
MORE: dict[str, dict[str, Any]] = {
    "all heads": {"num_key_value_heads": 4},
    # positions reach past the original context, so the scaling shows
    "llama3": {"rope_scaling": {**LLAMA3, "original_max_position_embeddings": 32}, "head_dim": 16},
    "yarn": {"rope_scaling": YARN, "max_position_embeddings": 128},
    "everything": {"attention_bias": True, "mlp_bias": True, "head_dim": 16, "tie_word_embeddings": True},
}
CASES = {name: MORE.get(name, changes) for name, changes in VARIANTS.items()} | {"everything": MORE["everything"]}


def transformers_logits(folder: Path) -> np.ndarray:
    """float32 logits (tokens, vocabulary)."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        return model(torch.tensor([IDS])).logits[0].numpy()  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", CASES)
def test_one_model_everywhere(name: str, tmp_path: Path) -> None:
    folder = tiny.checkpoint(tmp_path / "hf", **CASES[name])
    convert(folder, tmp_path / "x.gguf", "F32")
    export(tmp_path / "x.gguf", tmp_path / "back")
    want = transformers_logits(folder)
    np.testing.assert_array_equal(transformers_logits(tmp_path / "back"), want)
    got = LlamaCpp(tmp_path / "x.gguf", context=128).logits(IDS)
    # llama.cpp keeps keys and values in float16, which costs 4e-4 to 8e-4 here
    assert relative_error(got, want) < 1.5e-3


def test_the_tokenizer_of_the_export(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    folder = tiny.checkpoint(tmp_path / "hf")
    convert(folder, tmp_path / "x.gguf", "F32")
    export(tmp_path / "x.gguf", tmp_path / "back")
    text = "Hello <s> wörld, 日本語 and   spaces </s>"
    original, exported = (AutoTokenizer.from_pretrained(path) for path in (folder, tmp_path / "back"))
    assert exported(text).input_ids == original(text).input_ids
    assert exported.bos_token == original.bos_token
