"""Mistral's and Meta's own format: the same weights in the format of Transformers must give the same file."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gguflike
from gguflike import checkpoint
from gguflike.errors import CheckpointError, GGUFLikeError, UnsupportedError
from tests import stored, tiny
from tests.stored import Stored
from tests.test_pickled import saved

PARTS = {
    "self_attn.q_proj": "attention.wq",
    "self_attn.k_proj": "attention.wk",
    "self_attn.v_proj": "attention.wv",
    "self_attn.o_proj": "attention.wo",
    "mlp.gate_proj": "feed_forward.w1",
    "mlp.down_proj": "feed_forward.w2",
    "mlp.up_proj": "feed_forward.w3",
    "input_layernorm": "attention_norm",
    "post_attention_layernorm": "ffn_norm",
}
TOP = {"model.embed_tokens": "tok_embeddings", "model.norm": "norm", "lm_head": "output"}
PARAMS = {
    "dim": 32,
    "n_layers": 2,
    "head_dim": 8,
    "hidden_dim": 64,
    "n_heads": 4,
    "n_kv_heads": 2,
    "norm_eps": 1e-5,
    "vocab_size": 260,
    "max_seq_len": 128,
}
MISTRAL = {"architectures": ["MistralForCausalLM"], "model_type": "mistral", "sliding_window": None}


def by_neighbours(rows: np.ndarray, head: int = 8) -> np.ndarray:
    """Rows of heads in the order in which neighbours turn together: value j of the second half behind value j of the
    first."""
    made = np.empty_like(rows)
    for start in range(0, len(rows), head):
        for j in range(head // 2):
            made[start + 2 * j] = rows[start + j]
            made[start + 2 * j + 1] = rows[start + head // 2 + j]
    return made


def renamed(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Tensors of Transformers in the other format."""
    made = {}
    for name, values in tensors.items():
        stem, _, suffix = name.rpartition(".")
        if stem in TOP:
            made[f"{TOP[stem]}.{suffix}"] = values
            continue
        _, _, layer, part = stem.split(".", 3)
        turned = part in ("self_attn.q_proj", "self_attn.k_proj")
        made[f"layers.{layer}.{PARTS[part]}.{suffix}"] = by_neighbours(values) if turned else values
    return made


def folder(path: Path, params: dict[str, Any], files: dict[str, bytes]) -> Path:
    """A folder in the other format, with a tokenizer that Transformers reads."""
    tiny.checkpoint(path)
    for name in ("config.json", "model.safetensors", "generation_config.json"):
        (path / name).unlink()
    (path / "params.json").write_text(json.dumps(params))
    for name, data in files.items():
        (path / name).write_bytes(data)
    return path


def of_transformers(tmp_path: Path, **changes: Any) -> tuple[Path, dict[str, np.ndarray]]:
    """The same model as Transformers saves it, and its tensors."""
    path = tiny.checkpoint(tmp_path / "hf", **changes)
    (path / "generation_config.json").unlink()
    return path, tiny.weights(tiny.config(**changes))


def assert_same(tmp_path: Path, ours: Path, theirs: Path, unlike: tuple[str, ...] = ()) -> gguflike.convert:
    """Both folders give the same tensors and keys, of which ``unlike`` may differ."""
    plan = gguflike.convert(ours, tmp_path / "a.gguf", "F32", name="x")
    gguflike.convert(theirs, tmp_path / "b.gguf", "F32", name="x")
    one, other = (tiny.gguf_tensors(tmp_path / name) for name in ("a.gguf", "b.gguf"))
    assert one.keys() == other.keys()
    for name, tensor in other.items():
        np.testing.assert_array_equal(one[name].data, tensor.data, err_msg=name)
    fields = [tiny.gguf_fields(tmp_path / name) for name in ("a.gguf", "b.gguf")]
    for each in fields:
        for key in [key for key in each if key.startswith(("gguflike.", *unlike))]:
            del each[key]
    assert fields[0] == fields[1]
    return plan


@pytest.mark.parametrize("shards", [1, 2])
def test_mistral(shards: int, tmp_path: Path) -> None:
    theirs, weights = of_transformers(tmp_path, **MISTRAL)
    names = list(made := renamed(weights))
    parts = [{name: made[name] for name in names[index::shards]} for index in range(shards)]
    numbered = (
        ["consolidated.safetensors"]
        if shards == 1
        else [f"consolidated-{i + 1:05d}-of-00002.safetensors" for i in (0, 1)]
    )
    ours = folder(
        tmp_path / "own", PARAMS, {name: tiny.safetensors(part) for name, part in zip(numbered, parts, strict=True)}
    )
    plan = assert_same(tmp_path, ours, theirs)
    assert f"read from params.json and {numbered[0]}, in Mistral's or Meta's own format" in plan.notices


def test_mistrals_files_alone(tmp_path: Path) -> None:
    """params.json, consolidated.safetensors and tekken.json, and nothing of Transformers."""
    from tests.small_tokenizers import tekken

    tokens = tekken()
    rows = tokens["config"]["default_vocab_size"]
    weights = tiny.weights(tiny.config(vocab_size=rows))
    ours = tmp_path / "own"
    ours.mkdir()
    (ours / "params.json").write_text(json.dumps({**PARAMS, "vocab_size": rows}))
    (ours / "tekken.json").write_text(json.dumps(tokens))
    (ours / "consolidated.safetensors").write_bytes(tiny.safetensors(renamed(weights)))
    gguflike.convert(ours, tmp_path / "m.gguf", "F16")
    fields = tiny.gguf_fields(tmp_path / "m.gguf")
    assert fields["general.architecture"][1] == "llama"
    assert fields["tokenizer.ggml.pre"][1] == "tekken"
    model = gguflike.load(tmp_path / "m.gguf")
    assert len(list(model.generate("hello", 4))) > 0


def test_rows_are_read_in_any_slabs(tmp_path: Path) -> None:
    theirs, weights = of_transformers(tmp_path, **MISTRAL)
    ours = folder(tmp_path / "own", PARAMS, {"consolidated.safetensors": tiny.safetensors(renamed(weights))})
    tensor = checkpoint.open(ours).tensors["model.layers.1.self_attn.q_proj.weight"]
    wanted = weights["model.layers.1.self_attn.q_proj.weight"]
    for start, stop in ((0, 32), (3, 5), (7, 9), (8, 16), (31, 32)):
        np.testing.assert_array_equal(tensor.read(start, stop), wanted[start:stop])
    np.testing.assert_array_equal(tensor.read_columns(3, 9), wanted[:, 3:9])
    assert theirs != ours


def test_long_contexts_of_mistral(tmp_path: Path) -> None:
    """YaRN without a magnitude of its own, and queries that grow."""
    scaling = {
        "rope_type": "yarn",
        "factor": 4.0,
        "original_max_position_embeddings": 32,
        "beta_fast": 32.0,
        "beta_slow": 1.0,
    }
    scaling |= {"mscale": 1.0, "mscale_all_dim": 1.0, "llama_4_scaling_beta": 0.1}
    theirs, weights = of_transformers(
        tmp_path,
        architectures=["Ministral3ForCausalLM"],
        model_type="ministral3",
        rope_parameters={**scaling, "rope_theta": 1e6},
        rope_theta=None,
    )
    yarn = {"factor": 4, "original_max_position_embeddings": 32, "apply_scale": False, "beta": 32, "alpha": 1}
    grows = {"original_max_position_embeddings": 32, "beta": 0.1}
    params = {**PARAMS, "rope_theta": 1e6, "yarn": yarn, "llama_4_scaling": grows}
    ours = folder(tmp_path / "own", params, {"consolidated.safetensors": tiny.safetensors(renamed(weights))})
    assert_same(tmp_path, ours, theirs)


def test_experts_of_mistral(tmp_path: Path) -> None:
    changes = {
        "architectures": ["MixtralForCausalLM"],
        "model_type": "mixtral",
        "num_local_experts": 3,
        "num_experts_per_tok": 2,
    }
    theirs, weights = of_transformers(tmp_path, **changes)
    rng = np.random.default_rng(1)
    experts: dict[str, np.ndarray] = {}
    for layer in range(2):
        experts[f"layers.{layer}.feed_forward.gate.weight"] = rng.standard_normal((3, 32)).astype("f4")
        for expert in range(3):
            for part, shape in (("w1", (64, 32)), ("w2", (32, 64)), ("w3", (64, 32))):
                experts[f"layers.{layer}.feed_forward.experts.{expert}.{part}.weight"] = rng.standard_normal(
                    shape
                ).astype("f4")
    plain = {name: values for name, values in weights.items() if ".mlp." not in name}
    own = {
        name.replace("layers", "model.layers").replace("feed_forward", "block_sparse_moe"): v
        for name, v in experts.items()
    }
    (theirs / "model.safetensors").write_bytes(tiny.safetensors({**plain, **own}))
    params = {**PARAMS, "moe": {"num_experts": 3, "num_experts_per_tok": 2}}
    ours = folder(
        tmp_path / "own", params, {"consolidated.safetensors": tiny.safetensors({**renamed(plain), **experts})}
    )
    assert_same(tmp_path, ours, theirs)


def test_8_bit_floats_of_mistral(tmp_path: Path) -> None:
    theirs, weights = of_transformers(tmp_path, **MISTRAL)
    tensors = {name: stored.floats(values) for name, values in renamed(weights).items()}
    rng = np.random.default_rng(2)
    dequantized = dict(weights)
    from tests.quantized_cases import E4M3, codes8

    for name, part in (
        ("model.layers.0.self_attn.q_proj", "attention.wq"),
        ("model.layers.0.mlp.down_proj", "feed_forward.w2"),
    ):
        codes = codes8(rng, weights[f"{name}.weight"].shape)
        scale = np.float32(rng.uniform(0.01, 0.1))
        dequantized[f"{name}.weight"] = E4M3[codes] * scale
        turned = by_neighbours(codes) if part == "attention.wq" else codes
        tensors[f"layers.0.{part}.weight"] = Stored("F8_E4M3", turned)
        tensors[f"layers.0.{part}.qscale_weight"] = Stored("F32", scale.reshape(()))
        tensors[f"layers.0.{part}.qscale_act"] = Stored("F32", np.float32(1).reshape(()))
    (theirs / "model.safetensors").write_bytes(tiny.safetensors(dequantized))
    params = {**PARAMS, "quantization": {"qformat_weight": "fp8_e4m3", "qscheme_act": "TENSOR"}}
    ours = folder(tmp_path / "own", params, {"consolidated.safetensors": stored.safetensors(tensors)})
    plan = assert_same(tmp_path, ours, theirs)
    assert "from FP8, one scale for each matrix: 2 tensors dequantized, which lost precision before" in plan.notices


def test_what_sees_is_left_out(tmp_path: Path) -> None:
    theirs, weights = of_transformers(tmp_path, **MISTRAL)
    towers = {
        f"{name}.weight": np.ones((4, 4), "f4")
        for name in ("vision_encoder.patch_conv", "vision_language_adapter.w_in")
    }
    params = {**PARAMS, "vision_encoder": {"hidden_size": 4}}
    ours = folder(
        tmp_path / "own", params, {"consolidated.safetensors": tiny.safetensors({**renamed(weights), **towers})}
    )
    plan = assert_same(tmp_path, ours, theirs)
    assert {"the vision tower is left out: 1 tensor", "the projector of images is left out: 1 tensor"} <= {
        *plan.notices
    }


META = {"dim": 32, "n_layers": 2, "n_heads": 4, "n_kv_heads": 2, "vocab_size": -1, "multiple_of": 256, "norm_eps": 1e-5}


@pytest.mark.parametrize("shards", [1, 2])
@pytest.mark.parametrize("by_rows", [True, False])
def test_llama(shards: int, by_rows: bool, tmp_path: Path) -> None:
    """Meta's files, each with a share of every matrix: the embedding's is of columns, or of rows (Llama 3)."""
    theirs, weights = of_transformers(tmp_path, max_position_embeddings=4096)
    files = {}
    for index in range(shards):
        part = {"rope.freqs": np.ones(4, "f4")}
        for name, values in renamed(weights).items():
            by_columns = ".wo." in name or ".w2." in name or (name.startswith("tok_") and not by_rows)
            part[name] = np.split(values, shards, int(by_columns))[index] if values.ndim > 1 else values
        files[f"consolidated.{index:02d}.pth"] = saved({name: np.ascontiguousarray(v) for name, v in part.items()})
    ours = folder(tmp_path / "own", META, files)
    plan = assert_same(tmp_path, ours, theirs)
    assert "params.json does not say how long the context is: 4096 tokens are assumed" in plan.notices
    tensor = checkpoint.open(ours).tensors["model.layers.0.self_attn.k_proj.weight"]
    np.testing.assert_array_equal(tensor.read(5, 11), weights["model.layers.0.self_attn.k_proj.weight"][5:11])


def test_llama_of_long_contexts(tmp_path: Path) -> None:
    theirs, weights = of_transformers(
        tmp_path, rope_scaling=tiny.LLAMA3, rope_theta=500000.0, max_position_embeddings=131072
    )
    params = {**META, "rope_theta": 500000.0, "use_scaled_rope": True, "ffn_dim_multiplier": 1.5}
    ours = folder(tmp_path / "own", params, {"consolidated.00.pth": saved(renamed(weights))})
    assert_same(tmp_path, ours, theirs)


def test_settings_of_transformers_come_first(tmp_path: Path) -> None:
    """config.json lies beside, but no weights that are named as it expects."""
    theirs, weights = of_transformers(tmp_path, **MISTRAL)
    params = {**PARAMS, "max_seq_len": 64}
    ours = folder(tmp_path / "own", params, {"consolidated.safetensors": tiny.safetensors(renamed(weights))})
    shutil.copy(theirs / "config.json", ours / "config.json")
    assert_same(tmp_path, ours, theirs)
    assert checkpoint.open(ours).config["max_position_embeddings"] == 128
    shutil.copy(theirs / "model.safetensors", ours / "model.safetensors")
    assert checkpoint.open(ours).files == (ours / "model.safetensors",)
    assert checkpoint.open(ours / "consolidated.safetensors").files == (ours / "consolidated.safetensors",)


def without(*names: str) -> Callable[[dict[str, Any], dict[str, np.ndarray]], None]:
    def change(params: dict[str, Any], tensors: dict[str, np.ndarray]) -> None:
        for name in names:
            params.pop(name, None)
            tensors.pop(name, None)

    return change


def having(tensor: str | None = None, **params: Any) -> Callable[[dict[str, Any], dict[str, np.ndarray]], None]:
    def change(settings: dict[str, Any], tensors: dict[str, np.ndarray]) -> None:
        settings.update(params)
        if tensor is not None:
            tensors[tensor] = np.ones((4, 4), "f4")

    return change


BAD: dict[str, tuple[Callable[[dict[str, Any], dict[str, np.ndarray]], None], str]] = {
    "no width": (without("dim"), "dim is no count; got None"),
    "no embedding": (without("tok_embeddings.weight"), "tok_embeddings.weight'?: .*tensor is missing"),
    "no matrix": (
        without("layers.1.attention.wq.weight"),
        r"model.layers.1.self_attn.q_proj.weight.*tensor is missing",
    ),
    "half a head more": (having(head_dim=12), "wrong shape"),
    "another tensor": (having("layers.0.attention.inner.weight"), "not known to have.*format of Hugging Face"),
    "an adapter": (having("layers.0.attention.wq.lora_A.weight"), "not known to have|adapter"),
    "another key": (having(brand_new=3), "brand_new: 3; if they do not change"),
    "windows by layer": (having(sliding_window=[4, None]), "windows that differ by layer"),
    "latent attention": (having(kv_lora_rank=4), "latent attention in Mistral's own format"),
    "other experts": (
        having(moe={"num_experts": 2, "num_shared_experts": 1}),
        "experts of another kind than Mixtral's",
    ),
    "another quantization": (having(quantization={"qformat_weight": "int4"}), "expected qformat_weight fp8_e4m3"),
    "half of YaRN": (having(yarn={"factor": 2}), "yarn is malformed"),
    "queries without YaRN": (having(llama_4_scaling={"beta": 0.1}), "scaling of queries"),
    "another activation": (having(activation="gelu"), "hidden_act"),
}


@pytest.mark.parametrize("kind", BAD)
def test_what_is_not_known_is_an_error(kind: str, tmp_path: Path) -> None:
    change, message = BAD[kind]
    params, tensors = dict(PARAMS), renamed(tiny.weights(tiny.config()))
    change(params, tensors)
    ours = folder(tmp_path / "own", params, {"consolidated.safetensors": tiny.safetensors(tensors)})
    with pytest.raises(GGUFLikeError, match=message) as error:
        gguflike.convert(ours, tmp_path / "m.gguf", "F32")
    assert isinstance(error.value, CheckpointError | UnsupportedError)


def test_keys_can_be_accepted(tmp_path: Path) -> None:
    tensors = renamed(tiny.weights(tiny.config()))
    ours = folder(tmp_path / "own", {**PARAMS, "brand_new": 3}, {"consolidated.safetensors": tiny.safetensors(tensors)})
    assert gguflike.convert(ours, None, "F32", dry_run=True, ignore_config=["brand_new"]).tensors


def test_a_share_is_missing(tmp_path: Path) -> None:
    tensors = renamed(tiny.weights(tiny.config()))
    files = {f"consolidated.{index:02d}.pth": saved(tensors) for index in (0, 2)}
    with pytest.raises(
        CheckpointError, match=r"files do not belong together; .*got consolidated.00.pth, consolidated.02.pth"
    ):
        checkpoint.open(folder(tmp_path / "own", META, files))
