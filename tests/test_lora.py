"""LoRA adapters: merged while converting, and alone as GGUF."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gguflike
from gguflike.checkpoint.adapter import is_adapter
from gguflike.cli import main
from gguflike.convert import convert
from gguflike.errors import ArgumentError, ArgumentTypeError, CheckpointError, OutputError, UnsupportedError
from tests import tiny
from tests.files import floats_of

LAYER = "model.layers.1"
Q, DOWN = f"{LAYER}.self_attn.q_proj", f"{LAYER}.mlp.down_proj"


def matrix(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


def factors(module: str, rows: int, columns: int, rank: int = 4, seed: int = 0) -> dict[str, np.ndarray]:
    prefix = f"base_model.model.{module}"
    return {
        f"{prefix}.lora_A.weight": matrix(rank, columns, seed=seed),
        f"{prefix}.lora_B.weight": matrix(rows, rank, seed=seed + 1),
    }


def adapter(folder: Path, tensors: dict[str, np.ndarray], **settings: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    base = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "base_model_name_or_path": "org/base"}
    (folder / "adapter_config.json").write_text(json.dumps({**base, **settings}))
    (folder / "adapter_model.safetensors").write_bytes(tiny.safetensors(tensors))
    return folder


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return tiny.checkpoint(tmp_path / "base")


def merged(base: Path, lora: Any, **options: Any) -> dict[str, np.ndarray]:
    convert(base, base.parent / "merged.gguf", "F32", lora=lora, overwrite=True, **options)
    return floats_of(base.parent / "merged.gguf")


def plain(base: Path) -> dict[str, np.ndarray]:
    convert(base, base.parent / "plain.gguf", "F32", overwrite=True)
    return floats_of(base.parent / "plain.gguf")


@pytest.mark.parametrize(
    ("settings", "scale"),
    [
        ({}, 8 / 4),
        ({"use_rslora": True}, 8 / 2),
        ({"lora_alpha": 3}, 3 / 4),
        ({"alpha_pattern": {"q_proj": 2, "down_proj": 6}}, 6 / 4),
        ({"r": 9, "rank_pattern": {r"layers\.1\.mlp\.down_proj": 4, "down_proj": 7}}, 8 / 4),
    ],
)
def test_what_is_added(settings: dict[str, Any], scale: float, base: Path, tmp_path: Path) -> None:
    parts = factors(DOWN, 32, 64)
    found = merged(base, [adapter(tmp_path / "a", parts, **settings)])
    a, b = parts.values()
    expected = plain(base)
    expected["blk.1.ffn_down.weight"] = expected["blk.1.ffn_down.weight"] + np.float32(scale) * (b @ a)
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-5, atol=1e-5, err_msg=name)


def test_names_with_that_of_the_adapter(base: Path, tmp_path: Path) -> None:
    """As who saves a model's whole state leaves them."""
    parts = factors(DOWN, 32, 64)
    named = {name.replace(".weight", ".default.weight"): values for name, values in parts.items()}
    whole = {"base_model.model.lm_head.modules_to_save.default.weight": matrix(260, 32)}
    found = merged(base, [adapter(tmp_path / "a", {**named, **whole})])
    expected = merged(base, [adapter(tmp_path / "b", {**parts, "base_model.model.lm_head.weight": matrix(260, 32)})])
    assert all(np.array_equal(values, expected[name]) for name, values in found.items())


def test_several_and_scales(base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, two = factors(DOWN, 32, 64), factors(DOWN, 32, 64, seed=5)
    first, second = adapter(tmp_path / "one", one), adapter(tmp_path / "two", two)
    found = merged(base, [(first, 0.5), second])
    name = "blk.1.ffn_down.weight"
    a, b, c, d = *one.values(), *two.values()
    np.testing.assert_allclose(found[name], plain(base)[name] + (b @ a) + 2 * (d @ c), atol=2e-5)
    with gguflike.open(tmp_path / "merged.gguf") as file:
        assert file.metadata["gguflike.lora"] == ["one:0.5", "two"]
    command = ["convert", str(base), str(tmp_path / "cli.gguf"), "--lora", f"{first}:0.5", "--lora", str(second)]
    assert main([*command, "-t", "F32"]) == 0
    capsys.readouterr()
    assert (tmp_path / "cli.gguf").read_bytes() == (tmp_path / "merged.gguf").read_bytes()


def test_the_rotation_s_order_is_that_of_the_model(base: Path, tmp_path: Path) -> None:
    """A merged matrix is as that of a checkpoint that was merged before; as a file of adapters, so is B."""
    parts = factors(Q, 32, 32)
    a, b = parts.values()
    before = tiny.weights(tiny.config())[f"{Q}.weight"]
    whole = tiny.checkpoint(tmp_path / "whole", change={f"{Q}.weight": before + 2 * (b @ a)})
    folder = adapter(tmp_path / "a", parts)
    name = "blk.1.attn_q.weight"
    expected = plain(whole)[name]
    np.testing.assert_allclose(merged(base, [folder])[name], expected, atol=2e-5)
    convert(folder, tmp_path / "a.gguf", base=base)
    alone = floats_of(tmp_path / "a.gguf")
    assert {name: values.shape for name, values in alone.items()} == {
        f"{name}.lora_a": (4, 32),
        f"{name}.lora_b": (32, 4),
    }
    np.testing.assert_array_equal(alone[f"{name}.lora_a"], a)
    assert not np.array_equal(alone[f"{name}.lora_b"], b)
    change = 2 * (alone[f"{name}.lora_b"] @ alone[f"{name}.lora_a"])
    np.testing.assert_allclose(plain(base)[name] + change, expected, atol=2e-5)


def test_slabs_and_threads_change_nothing(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from gguflike.convert import encode, lora, pipeline

    embedding = {
        "base_model.model.model.embed_tokens.lora_embedding_A": matrix(4, 260),
        "base_model.model.model.embed_tokens.lora_embedding_B": matrix(32, 4),
    }
    folder = adapter(tmp_path / "a", {**factors(DOWN, 32, 64), **embedding})
    whole = merged(base, [folder])
    expected = plain(base)["token_embd.weight"] + 2 * (matrix(32, 4) @ matrix(4, 260)).T
    np.testing.assert_allclose(whole["token_embd.weight"], expected, atol=2e-5)
    monkeypatch.setattr(lora, "TILE", 100)
    for module in (encode, pipeline):
        if hasattr(module, "SLAB_BYTES"):
            monkeypatch.setattr(module, "SLAB_BYTES", 1000)
    for name, values in merged(base, [folder], threads=1).items():
        np.testing.assert_array_equal(values, whole[name])


def test_magnitudes(base: Path, tmp_path: Path) -> None:
    """DoRA sets the length of each row."""
    parts, lengths = factors(DOWN, 32, 64), np.arange(1, 33, dtype=np.float32)
    folder = adapter(
        tmp_path / "a", {**parts, f"base_model.model.{DOWN}.lora_magnitude_vector": lengths}, use_dora=True
    )
    found = merged(base, [folder])["blk.1.ffn_down.weight"]
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), lengths, rtol=1e-5)
    a, b = parts.values()
    rows = plain(base)["blk.1.ffn_down.weight"] + 2 * (b @ a)
    np.testing.assert_allclose(found, rows / np.linalg.norm(rows, axis=1, keepdims=True) * lengths[:, None], rtol=1e-4)


def test_whole_tensors_and_biases(tmp_path: Path) -> None:
    parts = (("q", 32), ("k", 16), ("v", 16), ("o", 32))
    biases = {
        f"model.layers.{i}.self_attn.{part}_proj.bias": matrix(rows, seed=i) for i in (0, 1) for part, rows in parts
    }
    base = tiny.checkpoint(tmp_path / "base", attention_bias=True, change=biases)
    before = plain(base)
    norm = np.full(32, 3.0, np.float32)
    tensors = {
        **factors(f"{LAYER}.self_attn.o_proj", 32, 32),
        f"base_model.model.{LAYER}.self_attn.o_proj.lora_B.bias": matrix(32, seed=7),
        f"base_model.model.{LAYER}.self_attn.v_proj.base_layer.bias": matrix(16, seed=8),
        f"base_model.model.{LAYER}.input_layernorm.modules_to_save.weight": norm,
        "base_model.model.lm_head.weight": matrix(260, 32),
    }
    found = merged(base, [adapter(tmp_path / "a", tensors)])
    np.testing.assert_array_equal(found["blk.1.attn_norm.weight"], norm)
    np.testing.assert_array_equal(found["output.weight"], matrix(260, 32))
    np.testing.assert_array_equal(found["blk.1.attn_v.bias"], matrix(16, seed=8))
    shifted = before["blk.1.attn_output.bias"] + 2 * matrix(32, seed=7)
    np.testing.assert_allclose(found["blk.1.attn_output.bias"], shifted, rtol=1e-6)
    with pytest.raises(ArgumentError, match=r"replaces a whole tensor.*a scale of 0\.5"):
        merged(base, [(tmp_path / "a", 0.5)])
    with pytest.raises(ArgumentError, match="another adapter that does"):
        merged(
            base,
            [tmp_path / "a", adapter(tmp_path / "b", {"base_model.model.lm_head.weight": matrix(260, 32, seed=1)})],
        )


@pytest.mark.parametrize("part", ["embed_tokens", "lm_head"])
def test_a_tied_model_is_untied_where_one_of_the_two_changes(part: str, tmp_path: Path) -> None:
    base = tiny.checkpoint(tmp_path / "base", tie_word_embeddings=True)
    before = plain(base)["token_embd.weight"]
    if part == "lm_head":
        tensors = factors("lm_head", 260, 32)
        a, b = tensors.values()
        change, other = b @ a, "token_embd.weight"
    else:
        tensors = {
            "base_model.model.model.embed_tokens.lora_embedding_A": matrix(4, 260),
            "base_model.model.model.embed_tokens.lora_embedding_B": matrix(32, 4),
        }
        change, other = (matrix(32, 4) @ matrix(4, 260)).T, "output.weight"
    found = merged(base, [adapter(tmp_path / "a", tensors)])
    changed = "output.weight" if part == "lm_head" else "token_embd.weight"
    np.testing.assert_array_equal(found[other], before)
    np.testing.assert_allclose(found[changed], before + 2 * change, atol=2e-5)
    together = (
        merged(base, [adapter(tmp_path / "b", tensors, ensure_weight_tying=True)]) if part != "lm_head" else found
    )
    assert ("output.weight" in together) == (part == "lm_head")


def test_values_that_are_not_finite(base: Path, tmp_path: Path) -> None:
    tensors = factors(DOWN, 32, 64)
    next(iter(tensors.values()))[0, 0] = np.inf
    with pytest.raises(CheckpointError, match=r"lora_.\.weight'.*not finite"):
        merged(base, [adapter(tmp_path / "a", tensors)])


# What is refused


def with_tensor(name: str, *shape: int) -> dict[str, np.ndarray]:
    return {**factors(DOWN, 32, 64), name: matrix(*shape)}


@pytest.mark.parametrize(
    ("tensors", "settings", "error", "message"),
    [
        (factors(DOWN, 32, 64), {"peft_type": "IA3"}, UnsupportedError, r"an adapter of another kind \(IA3\)"),
        (factors(DOWN, 32, 64), {"init_lora_weights": "pissa_niter_4"}, UnsupportedError, "beside changed weights"),
        (factors(DOWN, 32, 64), {"target_parameters": ["experts.w"]}, UnsupportedError, "target_parameters"),
        (factors(DOWN, 32, 64), {"layer_replication": [[0, 2]]}, UnsupportedError, "layers that are repeated"),
        (factors(DOWN, 32, 64), {"r": 8}, CheckpointError, r"do not belong together.*expected \(8, columns\)"),
        (factors(DOWN, 32, 64), {"lora_alpha": "8"}, CheckpointError, "lora_alpha: not a positive number"),
        (factors(DOWN, 32, 64), {"alpha_pattern": {"(": 8}}, CheckpointError, "alpha_pattern: not a pattern"),
        (factors(DOWN, 32, 64), {"alpha_pattern": {"(.*)*!": 8}}, CheckpointError, "pattern is too complicated"),
        (factors(DOWN, 32, 64), {"alpha_pattern": {".*.*.*.*!": 8}}, CheckpointError, "pattern is too complicated"),
        (factors(DOWN, 32, 64), {"use_dora": True}, CheckpointError, "a vector of magnitudes is missing"),
        (factors(DOWN, 32, 64), {"rank_pattern": [1]}, CheckpointError, "rank_pattern: not a mapping"),
        (factors(DOWN, 33, 64), {}, CheckpointError, r"does not fit.*\(32, 64\).*trained for org/base"),
        (factors("model.layers.2.mlp.up_proj", 64, 32), {}, CheckpointError, "that the model does not have.*org/base"),
        (factors("model.layers.0.mlp.other", 64, 32), {}, CheckpointError, "that the model does not have.*org/base"),
        (with_tensor("base_model.model.x.lora_C.weight", 4), {}, UnsupportedError, "none of LoRA's"),
        (with_tensor("base_model.model.x.lora_A.weight", 4, 4), {}, CheckpointError, "is missing"),
        (with_tensor("base_model.model.lm_head.weight", 261, 32), {}, CheckpointError, r"\(260, 32\).*got \(261, 32\)"),
        ({}, {}, CheckpointError, "no tensors in the file"),
    ],
)
def test_what_cannot_be_merged(
    tensors: dict[str, np.ndarray],
    settings: dict[str, Any],
    error: type[Exception],
    message: str,
    base: Path,
    tmp_path: Path,
) -> None:
    folder = adapter(tmp_path / "a", tensors, **settings)
    with pytest.raises(error, match=message):
        merged(base, [folder])
    assert not (tmp_path / "merged.gguf").exists()


@pytest.mark.parametrize(
    ("lora", "error", "message"),
    [
        ("adapter", ArgumentTypeError, "lora: not a list"),
        ([("adapter", "half")], ArgumentTypeError, "lora: not a number"),
        ([("adapter", float("nan"))], ArgumentError, "lora: out of range"),
        (["nowhere"], CheckpointError, "no such adapter.*no folder"),
    ],
)
def test_arguments(lora: Any, error: type[Exception], message: str, base: Path) -> None:
    with pytest.raises(error, match=message):
        convert(base, None, "F32", dry_run=True, lora=lora)


def test_a_file_of_the_adapter_is_no_target(base: Path, tmp_path: Path) -> None:
    folder = adapter(tmp_path / "a", factors(DOWN, 32, 64))
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        with pytest.raises(OutputError, match="the target is also a source"):
            convert(base, folder / name, "F32", lora=[folder], overwrite=True)


def test_mlx(base: Path, tmp_path: Path) -> None:
    folder = tmp_path / "a"
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps({"fine_tune_type": "lora", "lora_parameters": {"rank": 8}}))
    (folder / "adapters.safetensors").write_bytes(tiny.safetensors({"model.layers.0.x.lora_a": matrix(2, 2)}))
    for call in (lambda: convert(folder, None, dry_run=True), lambda: convert(base, None, dry_run=True, lora=[folder])):
        with pytest.raises(UnsupportedError, match=r"made by MLX.*mlx_lm\.fuse"):
            call()


# Alone


@pytest.mark.parametrize("name", ["optimizer.pt", "rng_state.pth", "rng_state_0.pth", "scaler.pt", "training_args.bin"])
def test_what_a_training_run_keeps_beside_an_adapter_is_no_model(name: str, base: Path, tmp_path: Path) -> None:
    folder = adapter(tmp_path / "checkpoint-500", factors(DOWN, 32, 64))
    (folder / name).write_bytes(b"not weights")
    assert is_adapter(folder)
    assert convert(folder, None, "F32", base=base, dry_run=True).metadata["general.type"] == "adapter"


def test_alone(base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tensors = {**factors(DOWN, 32, 64), **factors("model.layers.0.mlp.up_proj", 64, 32, rank=2)}
    settings = {"rank_pattern": {"up_proj": 2}, "alpha_pattern": {"up_proj": 5}, "alora_invocation_tokens": [4, 5]}
    folder = adapter(tmp_path / "style", tensors, base_model_name_or_path=str(base), **settings)
    assert is_adapter(folder)
    assert not is_adapter(base)
    assert main(["convert", str(folder), f"{tmp_path}/"]) == 0
    assert "the matrices of an adapter are stored as F32" in capsys.readouterr().out
    path = tmp_path / "style-F32.gguf"
    with gguflike.open(path) as file:
        keys = {key: file.metadata[key] for key in file.metadata if key.startswith(("adapter.", "general."))}
        assert file.metadata.type_of("adapter.lora.alpha").name == "FLOAT32"
        assert list(file.metadata["adapter.alora.invocation_tokens"]) == [4, 5]
    assert (keys["general.architecture"], keys["general.type"]) == ("llama", "adapter")
    assert (keys["adapter.type"], keys["adapter.lora.alpha"], keys["general.file_type"]) == ("lora", 8.0, 0)
    found = floats_of(path)
    up = tensors["base_model.model.model.layers.0.mlp.up_proj.lora_B.weight"]
    np.testing.assert_allclose(found["blk.0.ffn_up.weight.lora_b"], up * 5 / 8)
    convert(folder, tmp_path / "half.gguf", "F16", base=base)
    with gguflike.open(tmp_path / "half.gguf") as file:
        assert {tensor.format.name for tensor in file.tensors.values()} == {"F16"}
    with pytest.raises(gguflike.GGUFLikeError, match="adapter"):
        gguflike.load(path)
    for idle in ({"effort": 1}, {"fold": "awq"}, {"size": "1MB"}, {"bpw": 4.5}, {"imatrix": path}):
        with pytest.raises(ArgumentError, match="its types are those of a recipe") as e:
            convert(folder, None, base=base, dry_run=True, **idle)  # type: ignore[arg-type]
        assert e.value.field in idle


def test_where_the_configuration_of_the_model_is(base: Path, tmp_path: Path) -> None:
    folder = adapter(tmp_path / "a", factors(DOWN, 32, 64), base_model_name_or_path=str(tmp_path / "gone"))
    with pytest.raises(CheckpointError, match=r"LoRA adapter of .*gone, not a model.*not at hand.*`base`.*`lora`"):
        convert(folder, None, dry_run=True)
    only = tmp_path / "only"
    only.mkdir()
    (only / "config.json").write_bytes((base / "config.json").read_bytes())
    assert [t.name for t in convert(folder, None, dry_run=True, base=only).tensors] == [
        *("blk.1.ffn_down.weight.lora_a", "blk.1.ffn_down.weight.lora_b")
    ]
    (folder / "config.json").write_bytes((base / "config.json").read_bytes())
    assert len(convert(folder, None, dry_run=True).tensors) == 2
    with pytest.raises(ArgumentError, match="only an adapter has a base"):
        convert(base, None, dry_run=True, base=only)


def test_beside_its_model(base: Path) -> None:
    adapter(base, factors(DOWN, 32, 64))
    assert any("not applied" in notice for notice in convert(base, None, "F32", dry_run=True).notices)
    assert convert(base, None, "F32", dry_run=True, lora=[base]).notices == ()


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({**factors(DOWN, 32, 64), "base_model.model.lm_head.weight": matrix(260, 32)}, "replaces a whole tensor"),
        ({**factors(DOWN, 32, 64), f"base_model.model.{DOWN}.lora_magnitude_vector": matrix(32)}, "is of DoRA"),
        ({**factors(DOWN, 32, 64), f"base_model.model.{DOWN}.lora_B.bias": matrix(32)}, "changes a bias"),
    ],
)
def test_what_a_file_of_adapters_cannot_hold(
    tensors: dict[str, np.ndarray], message: str, base: Path, tmp_path: Path
) -> None:
    with pytest.raises(UnsupportedError, match=f"{message}.*convert its base with `lora`"):
        convert(adapter(tmp_path / "a", tensors), None, dry_run=True, base=base)
