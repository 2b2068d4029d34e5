"""Numbers beside matrices of 4-bit floats, by which products are multiplied: NVFP4 as llama.cpp writes it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gguflike
from gguflike.blocks import format_by_name
from gguflike.errors import GGUFError, UnsupportedError
from tests import stored, tiny

IDS = [1, 50, 60, 70, 80, 90]
ROLES = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")


def changed(path: Path, source: Path, change: Callable[[str, np.ndarray], np.ndarray], beside: dict[str, Any]) -> Path:
    """A copy of a file whose blocks of NVFP4 are ``change``d, with further tensors."""
    with gguflike.open(source) as file:
        tensors = []
        for name, tensor in file.tensors.items():
            data = tensor.data.copy()
            if tensor.format.name == "NVFP4":
                blocks = data.reshape(-1, tensor.format.block_bytes)
                blocks[:, :4] = change(name, blocks[:, :4])
            tensors.append(gguflike.QuantizedTensor(name, tensor.format, tensor.shape, data))
        metadata = {key: file.metadata.typed(key) for key in file.metadata if not key.startswith("gguflike.")}
        f32 = format_by_name("F32")
        further = [gguflike.QuantizedTensor(n, f32, v.shape, v.view(np.uint8).reshape(-1)) for n, v in beside.items()]
        gguflike.write(path, metadata, [*tensors, *further])
    return path


def halved(_: str, codes: np.ndarray) -> np.ndarray:
    """Scales of blocks (E4M3) by half: one less in the exponent."""
    assert np.all((codes >= 16) | (codes == 0))
    return np.where(codes >= 16, codes - 8, codes)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scales")
    tiny.checkpoint(folder / "hf", attention_bias=True, mlp_bias=True, **stored.SIZES)
    gguflike.convert(folder / "hf", folder / "m.gguf", "NVFP4")
    return folder / "m.gguf"


def scales(number: float, roles: tuple[str, ...] = ROLES) -> dict[str, np.ndarray]:
    return {f"blk.0.{role}.scale": np.array([number], np.float32) for role in roles}


def test_products_are_multiplied_and_biases_are_not(made: Path, tmp_path: Path) -> None:
    """Half of a scale in each block, or for the whole, is the same to the last bit."""
    inside = gguflike.load(changed(tmp_path / "a.gguf", made, halved, {}))
    beside = gguflike.load(changed(tmp_path / "b.gguf", made, lambda _, codes: codes, scales(0.5)))
    plain = gguflike.load(made)
    np.testing.assert_array_equal(beside.logits(IDS), inside.logits(IDS))
    np.testing.assert_array_equal(beside.logits(IDS[:1]), inside.logits(IDS[:1]))
    assert not np.array_equal(beside.logits(IDS), plain.logits(IDS))
    assert list(beside.generate(IDS, 8)) == list(inside.generate(IDS, 8))


def test_scales_of_some_matrices(made: Path, tmp_path: Path) -> None:
    for role in ROLES:
        inside = changed(tmp_path / "a.gguf", made, lambda n, c, r=role: halved(n, c) if f".{r}." in n else c, {})
        beside = changed(tmp_path / "b.gguf", made, lambda _, codes: codes, scales(0.5, (role,)))
        np.testing.assert_array_equal(gguflike.load(beside).logits(IDS), gguflike.load(inside).logits(IDS))


def test_scales_that_cannot_be_computed_with(made: Path, tmp_path: Path) -> None:
    several = {"blk.0.attn_q.scale": np.ones(2, np.float32)}
    with pytest.raises(GGUFError, match=r"'blk.0.attn_q.scale': scale is not one number; got \(2,\)"):
        gguflike.load(changed(tmp_path / "a.gguf", made, lambda _, codes: codes, several))
    of_experts = {"blk.0.ffn_up_exps.scale": np.ones(4, np.float32)}
    with pytest.raises(UnsupportedError, match=r"_exps.scale': experts of 4-bit floats have numbers beside them"):
        gguflike.load(changed(tmp_path / "d.gguf", made, lambda _, codes: codes, of_experts))
    other = {"token_embd.scale": np.ones(1, np.float32)}
    with pytest.raises(UnsupportedError, match=r"'token_embd.scale': the file has a tensor that no part"):
        gguflike.load(changed(tmp_path / "b.gguf", made, lambda _, codes: codes, other))
    of_activations = {"blk.0.attn_q.input_scale": np.ones(1, np.float32)}
    same = gguflike.load(changed(tmp_path / "c.gguf", made, lambda _, codes: codes, of_activations))
    np.testing.assert_array_equal(same.logits(IDS), gguflike.load(made).logits(IDS))
