"""Tiny seeded Llamas as GGUF files, written by the ``gguf`` package, with the weights that their blocks stand for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf.quants import dequantize, quantize

TOKENS = 300
TYPES = gguf.GGMLQuantizationType

SMALL: dict[str, Any] = {
    "n_layer": 2,
    "n_ctx": 128,
    "n_embd": 64,
    "n_ff": 96,
    "n_head": 4,
    "n_head_kv": 2,
    "head_dim": 32,
    "norm_eps": 1e-5,
    "rope_base": 10000.0,
    "n_vocab": TOKENS,
}


def shapes(h: dict[str, Any], tied: bool, bias: bool) -> dict[str, tuple[int, ...]]:
    d, ff, q, kv = h["n_embd"], h["n_ff"], h["n_head"] * h["head_dim"], h["n_head_kv"] * h["head_dim"]
    table: dict[str, tuple[int, ...]] = {
        "token_embd.weight": (h.get("rows", h["n_vocab"]), d),
        "output_norm.weight": (d,),
    }
    if not tied:
        table["output.weight"] = (h.get("rows", h["n_vocab"]), d)
    for i in range(h["n_layer"]):
        table |= {f"blk.{i}.attn_norm.weight": (d,), f"blk.{i}.ffn_norm.weight": (d,)}
        for name, rows, columns in (("q", q, d), ("k", kv, d), ("v", kv, d), ("output", d, q)):
            table[f"blk.{i}.attn_{name}.weight"] = (rows, columns)
            if bias:
                table[f"blk.{i}.attn_{name}.bias"] = (rows,)
        for name, rows, columns in (("gate", ff, d), ("up", ff, d), ("down", d, ff)):
            table[f"blk.{i}.ffn_{name}.weight"] = (rows, columns)
    return table


def metadata(writer: gguf.GGUFWriter, h: dict[str, Any]) -> None:
    writer.add_block_count(h["n_layer"] + h.get("nextn", 0))
    if "nextn" in h:
        writer.add_nextn_predict_layers(h["nextn"])
    if "kind_of_file" in h:
        writer.add_type(h["kind_of_file"])
    if h.get("vocab_size"):
        writer.add_vocab_size(h["vocab_size"])
    writer.add_context_length(h["n_ctx"])
    writer.add_embedding_length(h["n_embd"])
    writer.add_feed_forward_length(h["n_ff"])
    writer.add_head_count(h["n_head"])
    writer.add_head_count_kv(h["n_head_kv"])
    writer.add_key_length(h["head_dim"])
    writer.add_layer_norm_rms_eps(h["norm_eps"])
    writer.add_rope_freq_base(h["rope_base"])
    writer.add_rope_dimension_count(h.get("n_rot", h["head_dim"]))
    for key, value in h.get("extra", {}).items():
        add = {str: writer.add_string, int: writer.add_uint32, bool: writer.add_bool}.get(
            type(value), writer.add_float32
        )
        add(f"llama.{key}", value)
    tokenizer(writer, h["n_vocab"])
    if "template" in h:
        writer.add_chat_template(h["template"])


def tokenizer(writer: gguf.GGUFWriter, n_vocab: int) -> None:
    # Byte-level BPE: the 256 bytes, end of text, one merge, and words that nothing encodes to.
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    letters = {byte: chr(byte) for byte in printable} | {byte: chr(256 + i) for i, byte in enumerate(others)}
    tokens = [letters[byte] for byte in range(256)] + ["</s>", "zq"] + [f"unused{i}" for i in range(258, n_vocab)]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([1] * 256 + [3] + [1] * (n_vocab - 257))
    writer.add_token_merges(["z q"])
    writer.add_eos_token_id(256)
    writer.add_add_bos_token(False)


def write(
    path: Path,
    kind: str = "F32",
    *,
    tied: bool = False,
    bias: bool = False,
    seed: int = 0,
    tensors: dict[str, np.ndarray] | None = None,
    drop: str | None = None,
    architecture: str = "llama",
    **changes: Any,
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Write a model; returns its hyper-parameters and the float32 weights that the file holds.

    ``kind`` may name several types, "Q4_0,F16": matrices take them in turn. ``tensors`` are added as they are.
    """
    h = SMALL | changes
    rng = np.random.default_rng(seed)
    writer = gguf.GGUFWriter(path, architecture)
    metadata(writer, h)
    kinds = kind.split(",")
    weights: dict[str, np.ndarray] = {}
    for index, (name, shape) in enumerate(shapes(h, tied, bias).items()):
        x = rng.standard_normal(shape).astype(np.float32)
        x = x * np.float32(0.1) + np.float32("norm" in name) if len(shape) == 1 else x / np.float32(np.sqrt(shape[1]))
        if len(shape) == 2 and kinds[index % len(kinds)] != "F32":
            blocks = quantize(x, TYPES[kinds[index % len(kinds)]])
            weights[name] = dequantize(blocks, TYPES[kinds[index % len(kinds)]])
            if name != drop:
                writer.add_tensor(name, blocks, raw_dtype=TYPES[kinds[index % len(kinds)]])
        else:
            weights[name] = x
            if name != drop:
                writer.add_tensor(name, x)
    for name, value in (tensors or {}).items():
        weights[name] = value
        writer.add_tensor(name, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return h, weights
