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
    """Half of a scale in each block, or for the whole, is the same; but for when biases are added, to the last bit."""
    inside = gguflike.load(changed(tmp_path / "a.gguf", made, halved, {}))
    beside = gguflike.load(changed(tmp_path / "b.gguf", made, lambda _, codes: codes, scales(0.5)))
    plain = gguflike.load(made)
    np.testing.assert_allclose(beside.logits(IDS), inside.logits(IDS), rtol=0, atol=0.02)
    np.testing.assert_allclose(beside.logits(IDS[:1]), inside.logits(IDS[:1]), rtol=0, atol=0.02)
    assert abs(beside.logits(IDS) - plain.logits(IDS)).max() > 1
    assert list(beside.generate(IDS, 8)) == list(inside.generate(IDS, 8))


def test_one_token_at_a_time_is_as_several(made: Path, tmp_path: Path) -> None:
    """A thread that found no rows of a product to do once read activations of another layer: some passes in a hundred
    went wrong."""
    model = gguflike.load(changed(tmp_path / "a.gguf", made, lambda _, codes: codes, scales(0.75)), threads=2)
    expected = model.logits(IDS[:1])
    for _ in range(200):
        np.testing.assert_array_equal(model.logits(IDS[:1]), expected)
    np.testing.assert_array_equal(model.logits(IDS)[0], expected[0])


def with_experts(folder: Path, count: int = 4) -> Path:
    """A Mixtral of one layer."""
    sizes = {**stored.SIZES, "architectures": ["MixtralForCausalLM"], "model_type": "mixtral"}
    tiny.checkpoint(folder, num_local_experts=count, num_experts_per_tok=2, **sizes)
    plain = tiny.weights(tiny.config(**sizes))
    kept = {name: values for name, values in plain.items() if ".mlp." not in name}
    width, inner = stored.SIZES["hidden_size"], stored.SIZES["intermediate_size"]
    mine, rng = "model.layers.0.block_sparse_moe", np.random.default_rng(0)
    shapes = {f"{mine}.gate.weight": (count, width)}
    for expert in range(count):
        for name, shape in (("w1", (inner, width)), ("w2", (width, inner)), ("w3", (inner, width))):
            shapes[f"{mine}.experts.{expert}.{name}.weight"] = shape
    made = {name: rng.standard_normal(shape).astype(np.float32) / 2 for name, shape in shapes.items()}
    (folder / "model.safetensors").write_bytes(tiny.safetensors({**kept, **made}))
    return folder


def test_each_expert_has_its_scale(tmp_path: Path) -> None:
    """Half of a scale in each block of one expert, or beside it, is the same to the last bit."""
    count = 4
    gguflike.convert(with_experts(tmp_path / "hf", count), tmp_path / "m.gguf", "NVFP4")

    def second_halved(name: str, codes: np.ndarray) -> np.ndarray:
        if "_exps." not in name:
            return codes
        experts = codes.reshape(count, -1)
        return np.concatenate([experts[:1], halved(name, experts[1:2]), experts[2:]]).reshape(codes.shape)

    numbers = np.array([1, 0.5, 1, 1], np.float32)
    beside = {f"blk.0.ffn_{role}_exps.scale": numbers for role in ("gate", "up", "down")}
    first = gguflike.load(changed(tmp_path / "a.gguf", tmp_path / "m.gguf", second_halved, {}))
    second = gguflike.load(changed(tmp_path / "b.gguf", tmp_path / "m.gguf", lambda _, codes: codes, beside))
    plain = gguflike.load(tmp_path / "m.gguf")
    for ids in (IDS, IDS * 4, IDS[:1]):
        np.testing.assert_array_equal(second.logits(ids), first.logits(ids))
    assert not np.array_equal(second.logits(IDS), plain.logits(IDS))


def test_scales_of_some_matrices(tmp_path: Path) -> None:
    plain = tmp_path / "plain.gguf"  # without biases, which are added to sums in one case and to products in the other
    tiny.checkpoint(tmp_path / "hf", **stored.SIZES)
    gguflike.convert(tmp_path / "hf", plain, "NVFP4")
    for role in ROLES:
        inside = changed(tmp_path / "a.gguf", plain, lambda n, c, r=role: halved(n, c) if f".{r}." in n else c, {})
        beside = changed(tmp_path / "b.gguf", plain, lambda _, codes: codes, scales(0.5, (role,)))
        np.testing.assert_array_equal(gguflike.load(beside).logits(IDS), gguflike.load(inside).logits(IDS))


def test_scales_that_cannot_be_computed_with(made: Path, tmp_path: Path) -> None:
    several = {"blk.0.attn_q.scale": np.ones(2, np.float32)}
    with pytest.raises(
        GGUFError, match=r"'blk.0.attn_q.scale': there is not one scale for each matrix; expected \(1,\)"
    ):
        gguflike.load(changed(tmp_path / "a.gguf", made, lambda _, codes: codes, several))
    other = {"token_embd.scale": np.ones(1, np.float32)}
    with pytest.raises(UnsupportedError, match=r"'token_embd.scale': the file has a tensor that no part"):
        gguflike.load(changed(tmp_path / "b.gguf", made, lambda _, codes: codes, other))
    names = ("blk.0.attn_q.input_scale", "blk.x.input_scale", "blk.input_scale")  # of no layer, too
    of_activations = {name: np.ones(1, np.float32) for name in names}
    same = gguflike.load(changed(tmp_path / "c.gguf", made, lambda _, codes: codes, of_activations))
    np.testing.assert_array_equal(same.logits(IDS), gguflike.load(made).logits(IDS))
    assert gguflike.estimate(tmp_path / "c.gguf").needs.total > 0


def test_an_export_has_the_products(made: Path, tmp_path: Path) -> None:
    """Half of a scale in each block, or for the whole, gives the same checkpoint; what scales activations changes
    nothing."""
    inside = changed(tmp_path / "a.gguf", made, halved, {})
    activations = {"blk.0.attn_q.input_scale": np.array([3], np.float32)}
    beside = changed(tmp_path / "b.gguf", made, lambda _, codes: codes, scales(0.5) | activations)
    for path in (inside, beside):
        gguflike.export(path, path.with_suffix(""))
    name = "model.safetensors"
    assert (tmp_path / "b" / name).read_bytes() == (tmp_path / "a" / name).read_bytes()
    gguflike.export(made, tmp_path / "plain")
    assert (tmp_path / "plain" / name).read_bytes() != (tmp_path / "a" / name).read_bytes()


def test_an_export_has_the_products_of_each_expert(tmp_path: Path) -> None:
    gguflike.convert(with_experts(tmp_path / "hf"), tmp_path / "m.gguf", "NVFP4")
    numbers = np.array([1, 0.5, 3, 1], np.float32)
    beside = {f"blk.0.ffn_{role}_exps.scale": numbers for role in ("gate", "up", "down")}
    changed(tmp_path / "b.gguf", tmp_path / "m.gguf", lambda _, codes: codes, beside)
    gguflike.export(tmp_path / "m.gguf", tmp_path / "plain")
    gguflike.export(tmp_path / "b.gguf", tmp_path / "scaled")
    plain, scaled = (gguflike.checkpoint.open(tmp_path / each).tensors for each in ("plain", "scaled"))
    assert plain.keys() == scaled.keys()
    for name, tensor in plain.items():
        factor = numbers[int(name.split(".experts.")[1].split(".")[0])] if ".experts." in name else np.float32(1)
        np.testing.assert_array_equal(scaled[name].read_f32(), tensor.read_f32() * factor)


def test_an_export_wants_a_scale_for_each_matrix(made: Path, tmp_path: Path) -> None:
    wrong = {"blk.0.attn_q.scale": np.ones(2, np.float32)}
    path = changed(tmp_path / "a.gguf", made, lambda _, codes: codes, wrong)
    with pytest.raises(GGUFError, match="one scale for each matrix"):
        gguflike.export(path, tmp_path / "out")
    assert not (tmp_path / "out").exists()
