"""Tiny seeded Llama checkpoints, written byte by byte: no library of ours or of others makes them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

SIZES = {"F32": 4, "F16": 2, "BF16": 2, "F64": 8}

# Settings of config.json: how positions are scaled, and one variant of each kind of model.
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "tied": {"tie_word_embeddings": True},
    "biases": {"attention_bias": True, "mlp_bias": True},
    "wide heads": {"head_dim": 16},
    "no head_dim": {"head_dim": None},
    "all heads": {"num_key_value_heads": None, "num_attention_heads": 4},
    "llama3": {"rope_scaling": LLAMA3, "rope_theta": 500000.0},
    "linear": {"rope_scaling": {"type": "linear", "factor": 2.0}},
    "yarn": {"rope_scaling": YARN},
    "mistral": {"architectures": ["MistralForCausalLM"], "sliding_window": None},
}


MATRICES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
"""The matrices of a layer: the name in a checkpoint -> the one in GGUF."""


def config(**changes: Any) -> dict[str, Any]:
    """config.json as Transformers 4 writes it. A change to None leaves the key out."""
    base: dict[str, Any] = {
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": False,
        "bos_token_id": 256,
        "eos_token_id": 257,
        "head_dim": 8,
        "hidden_act": "silu",
        "hidden_size": 32,
        "initializer_range": 0.02,
        "intermediate_size": 64,
        "max_position_embeddings": 128,
        "mlp_bias": False,
        "model_type": "llama",
        "num_attention_heads": 4,
        "num_hidden_layers": 2,
        "num_key_value_heads": 2,
        "rms_norm_eps": 1e-5,
        "rope_scaling": None,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
        "torch_dtype": "float32",
        "use_cache": True,
        "vocab_size": 260,
    }
    return {k: v for k, v in {**base, **changes}.items() if v is not None or k in ("rope_scaling", "sliding_window")}


def shapes(c: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors that Transformers' LlamaForCausalLM has for a config."""
    d, ff, v = c["hidden_size"], c["intermediate_size"], c["vocab_size"]
    head = c.get("head_dim") or d // c["num_attention_heads"]
    q, kv = c["num_attention_heads"] * head, c["num_key_value_heads"] * head
    table: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (v, d), "model.norm.weight": (d,)}
    if not c.get("tie_word_embeddings"):
        table["lm_head.weight"] = (v, d)
    for i in range(c["num_hidden_layers"]):
        p = f"model.layers.{i}."
        table |= {p + "input_layernorm.weight": (d,), p + "post_attention_layernorm.weight": (d,)}
        for name, rows, columns in (("q", q, d), ("k", kv, d), ("v", kv, d), ("o", d, q)):
            table[f"{p}self_attn.{name}_proj.weight"] = (rows, columns)
            if c.get("attention_bias"):
                table[f"{p}self_attn.{name}_proj.bias"] = (rows,)
        for name, rows, columns in (("gate", ff, d), ("up", ff, d), ("down", d, ff)):
            table[f"{p}mlp.{name}_proj.weight"] = (rows, columns)
            if c.get("mlp_bias"):
                table[f"{p}mlp.{name}_proj.bias"] = (rows,)
    return table


def weights(c: dict[str, Any], dtype: str = "F32", seed: int = 0) -> dict[str, np.ndarray]:
    """float32 values that ``dtype`` holds exactly, in the order of `shapes`."""
    rng = np.random.default_rng(seed)
    made = {}
    for name, shape in shapes(c).items():
        x = rng.standard_normal(shape).astype(np.float32) * np.float32(0.2)
        if "norm" in name:
            x += np.float32(1.0)
        made[name] = exactly(x, dtype)
    return made


def exactly(x: np.ndarray, dtype: str) -> np.ndarray:
    """Values cut to what ``dtype`` holds."""
    if dtype == "BF16":
        return (x.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)
    return x.astype(np.float16).astype(np.float32) if dtype == "F16" else x


def encode(x: np.ndarray, dtype: str) -> bytes:
    if dtype == "BF16":
        return (np.ascontiguousarray(x, np.float32).view(np.uint32) >> 16).astype("<u2").tobytes()
    return x.astype({"F32": "<f4", "F16": "<f2", "F64": "<f8"}[dtype]).tobytes()


def safetensors(tensors: dict[str, np.ndarray], dtype: str = "F32") -> bytes:
    """A file of the format, tensors in the order given."""
    return packed({name: (dtype, x.shape, encode(x, dtype)) for name, x in tensors.items()})


def packed(tensors: Mapping[str, tuple[str, tuple[int, ...], bytes]]) -> bytes:
    """The same of dtypes, shapes and bytes."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    data = b""
    for name, (dtype, shape, raw) in tensors.items():
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + data


def tokenizer(vocab_size: int) -> dict[str, Any]:
    """A byte-level BPE without merges: 256 bytes, <s> and </s>, and letters to fill up to ``vocab_size``."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in printable]
    chars = {b: chr(b) for b in printable} | {b: chr(256 + i) for i, b in enumerate(others)}
    vocab = {chars[b]: b for b in range(256)} | {"<s>": 256, "</s>": 257}
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    added = [{"id": i, "content": t, "special": True, **flags} for t, i in (("<s>", 256), ("</s>", 257))]
    assert vocab_size >= 258
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
        "post_processor": None,
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
                  "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
                  "vocab": vocab, "merges": []},
    }  # fmt: skip


def checkpoint(
    folder: Path,
    dtype: str = "F32",
    shards: int = 1,
    seed: int = 0,
    change: dict[str, np.ndarray] | None = None,
    **changes: Any,
) -> Path:
    """A whole folder. ``change`` replaces or adds tensors after they are drawn."""
    folder.mkdir(parents=True, exist_ok=True)
    c = config(**changes)
    tensors = weights(c, dtype, seed) | (change or {})
    names = list(tensors)
    if shards == 1:
        (folder / "model.safetensors").write_bytes(safetensors(tensors, dtype))
    else:
        weight_map = {}
        for i in range(shards):
            file = f"model-{i + 1:05d}-of-{shards:05d}.safetensors"
            part = {name: tensors[name] for name in names[i::shards]}
            (folder / file).write_bytes(safetensors(part, dtype))
            weight_map |= dict.fromkeys(part, file)
        index = {"metadata": {}, "weight_map": weight_map}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "config.json").write_text(json.dumps(c))
    (folder / "generation_config.json").write_text(json.dumps({"bos_token_id": 256, "eos_token_id": 257}))
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer(c["vocab_size"])))
    names_of = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(names_of))
    return folder


def gguf_tensors(path: Path) -> dict[str, Any]:
    """Tensors of a file as the ``gguf`` package reads them."""
    import gguf

    return {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}


def gguf_fields(path: Path) -> dict[str, tuple[str, Any]]:
    """key -> (type, value) as the ``gguf`` package reads them; arrays are (ARRAY of type, list)."""
    import gguf

    fields = gguf.GGUFReader(path).fields
    return {
        key: (" of ".join(kind.name for kind in field.types[:2]), field.contents())
        for key, field in fields.items()
        if not key.startswith("GGUF.")
    }
