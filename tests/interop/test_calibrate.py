"""Importance and Hessians against what transformers computes, of a trained model and of a tiny one with experts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gguflike
from gguflike.calibrate.statistics import Statistics
from gguflike.calibrate.store import Store
from gguflike.convert import imatrix as imatrices
from tests import tiny
from tests.interop.conftest import AUSTEN, TEXT

CONTEXT = 128
TOKENS = 8 * CONTEXT


def grams(model: Any, ids: np.ndarray, names: dict[str, str]) -> dict[str, np.ndarray]:
    """What each linear layer multiplies: x x^T summed over all tokens."""
    import torch

    found: dict[str, np.ndarray] = {}
    for name, module in model.named_modules():
        parts = name.split(".", 3)
        role = names.get(parts[-1]) if len(parts) == 4 else names.get(name)
        if role is None:
            continue
        key = f"blk.{parts[2]}.{role}.weight" if len(parts) == 4 else f"{role}.weight"

        def hook(_: Any, inputs: Any, key: str = key) -> None:
            x = inputs[0].double().reshape(-1, inputs[0].shape[-1])
            found[key] = found.get(key, 0) + (x.T @ x).numpy()

        module.register_forward_pre_hook(hook)
    with torch.no_grad():
        model(torch.tensor(ids))
    return found


def test_statistics_of_a_trained_model_are_those_of_transformers(tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    gguflike.calibrate(
        AUSTEN, tmp_path / "i.gguf", hessians=tmp_path / "h", calibration=[TEXT], context=CONTEXT, tokens=TOKENS
    )
    gguflike.convert(AUSTEN, tmp_path / "m.gguf", "F32")
    with gguflike.load(tmp_path / "m.gguf") as model:
        ids = np.array(model.tokenize(TEXT.read_text())[:TOKENS]).reshape(-1, CONTEXT)
    reference = AutoModelForCausalLM.from_pretrained(AUSTEN, dtype=torch.float32)
    want = grams(reference, ids, {**tiny.MATRICES, "lm_head": "token_embd"})
    entries, kept = imatrices.read(tmp_path / "i.gguf").entries, Store(tmp_path / "h")
    assert set(entries) == set(kept) == set(want)
    for name, gram in want.items():
        np.testing.assert_allclose(entries[name].sums[0], np.diagonal(gram), rtol=1e-3)
        assert entries[name].counts.tolist() == [TOKENS]
        statistics = kept[name]
        assert isinstance(statistics, Statistics)
        error = np.linalg.norm(statistics.gram * TOKENS - gram) / np.linalg.norm(gram)
        assert error < 1e-4, (name, error)


def test_experts_are_counted_as_transformers_routes(tmp_path: Path) -> None:
    import torch
    from transformers import MixtralConfig, MixtralForCausalLM

    torch.manual_seed(0)
    config = MixtralConfig(
        vocab_size=260,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        num_local_experts=8,
        num_experts_per_tok=2,
        max_position_embeddings=128,
    )
    model = MixtralForCausalLM(config).eval()
    folder = tiny.checkpoint(tmp_path / "model")  # for its tokenizer
    model.save_pretrained(folder)
    (tmp_path / "t.txt").write_text(TEXT.read_text()[:2000])
    gguflike.calibrate(folder, tmp_path / "i.gguf", calibration=[tmp_path / "t.txt"], context=100, tokens=1000)
    ids = torch.tensor(list((tmp_path / "t.txt").read_bytes()[:1000])).reshape(-1, 100)
    with torch.no_grad():
        routed = model(ids, output_router_logits=True).router_logits[0]
    want = np.bincount(routed.topk(2, -1).indices.reshape(-1).numpy(), minlength=8)
    entries = imatrices.read(tmp_path / "i.gguf").entries
    for role in ("ffn_gate_exps", "ffn_up_exps", "ffn_down_exps"):
        entry = entries[f"blk.0.{role}.weight"]
        assert entry.counts.tolist() == want.tolist()
        assert entry.sums.shape == (8, 64 if "down" in role else 32)
    both = entries["blk.0.ffn_gate_exps.weight"].sums.sum(0)
    np.testing.assert_allclose(both, 2 * entries["blk.0.ffn_gate_inp.weight"].sums[0], rtol=1e-4)


def test_llama_imatrix_and_llama_quantize_agree(tmp_path: Path) -> None:
    """Where llama.cpp's tools are on the path: the sums are theirs, and their quantizer takes the file."""
    import shutil
    import subprocess

    if shutil.which("llama-imatrix") is None or shutil.which("llama-quantize") is None:
        pytest.skip("llama.cpp's tools are not on the path")
    gguflike.convert(AUSTEN, tmp_path / "m.gguf", "F32")
    arguments = ["-m", tmp_path / "m.gguf", "-f", TEXT, "-o", tmp_path / "theirs.gguf", "-c", "256", "-b", "256"]
    subprocess.run(["llama-imatrix", *map(str, arguments)], check=True, capture_output=True)
    theirs = imatrices.read(tmp_path / "theirs.gguf")
    gguflike.calibrate(
        tmp_path / "m.gguf", tmp_path / "ours.gguf", calibration=[TEXT], context=256, tokens=256 * theirs.chunks
    )
    ours = imatrices.read(tmp_path / "ours.gguf")
    for name, entry in theirs.entries.items():
        assert ours.entries[name].counts.tolist() == entry.counts.tolist()
        np.testing.assert_allclose(ours.entries[name].sums, entry.sums, rtol=2e-3)
    command = ["llama-quantize", "--imatrix", "ours.gguf", "m.gguf", "q.gguf", "Q4_K_M", "2"]
    said = subprocess.run(command, check=True, capture_output=True, cwd=tmp_path)
    assert f"have {len(ours.entries)} importance matrix entries" in (said.stdout + said.stderr).decode()
