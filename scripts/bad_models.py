"""Files that are sound as containers and no model: one thing is wrong in what a runner reads of them.

For gen_bad_vectors.py, and for who mutates models: ``model(changes)`` is the whole file of a small Llama with some of
its metadata replaced, left out (None) or added, byte by byte.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping

from gguf_bytes import (
    BOOL,
    F32,
    I32,
    TYPE_F32,
    TYPE_Q4_0,
    U8,
    U32,
    U64,
    array_of,
    build,
    f32,
    kv,
    numbers,
    strings,
    tensor,
    text,
    u32,
)

WIDTH, VOCABULARY = 32, ("<unk>", "<s>", "</s>", "<0x41>", "a", "b", "ab", "▁a")
KINDS = (2, 3, 3, 6, 1, 1, 1, 1)  # unknown, control, byte, normal


def key_of(record: bytes) -> str:
    """The key of a metadata record."""
    return record[8 : 8 + int.from_bytes(record[:8], "little")].decode()


def metadata() -> dict[str, bytes]:
    """The metadata of a good model: records by key."""
    ids = {"bos": 1, "eos": 2, "unknown": 0}
    sizes = {
        "block_count": 1,
        "context_length": 64,
        "embedding_length": WIDTH,
        "feed_forward_length": WIDTH,
        "attention.head_count": 1,
        "attention.head_count_kv": 1,
        "rope.dimension_count": WIDTH,
    }
    found = {"general.architecture": text("general.architecture", "llama")}
    found |= {f"llama.{key}": u32(f"llama.{key}", value) for key, value in sizes.items()}
    found |= {
        "llama.attention.layer_norm_rms_epsilon": f32("llama.attention.layer_norm_rms_epsilon", 1e-5),
        "llama.rope.freq_base": f32("llama.rope.freq_base", 10000.0),
        "tokenizer.ggml.model": text("tokenizer.ggml.model", "llama"),
        "tokenizer.ggml.tokens": strings("tokenizer.ggml.tokens", VOCABULARY),
        "tokenizer.ggml.scores": numbers("tokenizer.ggml.scores", F32, [-float(i) for i in range(len(VOCABULARY))]),
        "tokenizer.ggml.token_type": numbers("tokenizer.ggml.token_type", I32, KINDS),
    }
    keys = {role: f"tokenizer.ggml.{role}_token_id" for role in ids}
    return found | {key: u32(key, ids[role]) for role, key in keys.items()}


def shapes() -> dict[str, tuple[int, ...]]:
    """The tensors of a good model, fastest axis first."""
    found: dict[str, tuple[int, ...]] = {"token_embd.weight": (WIDTH, len(VOCABULARY)), "output_norm.weight": (WIDTH,)}
    for role in ("attn_norm", "ffn_norm"):
        found[f"blk.0.{role}.weight"] = (WIDTH,)
    for role in ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"):
        found[f"blk.0.{role}.weight"] = (WIDTH, WIDTH)
    return found


def model(
    changes: Mapping[str, bytes | None] | None = None, tensors: Mapping[str, tuple[int, ...] | None] | None = None
) -> bytes:
    """A file with changes to its metadata and to its tensors' shapes, by name; None leaves one out. Weights are 0."""
    records = metadata() | dict(changes or {})
    offset, places = 0, []
    for name, dims in (shapes() | dict(tensors or {})).items():
        if dims is not None:
            places.append(tensor(name, dims, TYPE_F32 if len(dims) == 1 else TYPE_Q4_0, offset))
            weights = dims[0] if len(dims) == 1 else dims[0] * dims[1]
            size = 4 * weights if len(dims) == 1 else weights // 32 * 18
            offset += -(-size // 32) * 32
    return build([record for record in records.values() if record is not None], places, bytes(offset))


def model_cases() -> dict[str, tuple[str, bytes]]:
    """By name: the key that is wrong, and its record."""
    cases: dict[str, tuple[str, bytes]] = {}

    def add(name: str, key: str, record: bytes) -> None:
        cases[name] = key, record

    for key in ("block_count", "embedding_length", "attention.head_count", "context_length", "feed_forward_length"):
        full, short = f"llama.{key}", key.rpartition(".")[2]
        add(f"{short}_text", full, text(full, "32"))
        add(f"{short}_zero", full, u32(full, 0))
    for key in ("block_count", "attention.head_count", "embedding_length"):
        full, short = f"llama.{key}", key.rpartition(".")[2]
        add(f"{short}_float", full, f32(full, 1.5))
        add(f"{short}_bool", full, kv(full, BOOL, b"\1"))
        add(f"{short}_minus_1", full, kv(full, I32, struct.pack("<i", -1)))
        add(f"{short}_huge", full, kv(full, U64, struct.pack("<Q", 2**63)))
    add("block_count_32_bits", "llama.block_count", u32("llama.block_count", 2**31 - 1))
    add("head_count_nothing", "llama.attention.head_count", array_of("llama.attention.head_count", U32, 0, b""))
    add("head_count_kv_3", "attention shape", u32("llama.attention.head_count_kv", 3))
    add("key_length_odd", "attention shape", u32("llama.attention.key_length", 31))
    for name, value in {"nan": float("nan"), "minus": -1.0, "infinite": float("inf"), "zero": 0.0}.items():
        add(f"rope_base_{name}", "llama.rope.freq_base", f32("llama.rope.freq_base", value))
    for name, value in {"nan": float("nan"), "minus": -1e-5}.items():
        key = "llama.attention.layer_norm_rms_epsilon"
        add(f"epsilon_{name}", key, f32(key, value))
    add("rope_factor_nan", "llama.rope.scaling.factor", f32("llama.rope.scaling.factor", float("nan")))
    add("rope_type_unknown", "rope.scaling.type", text("llama.rope.scaling.type", "spiral"))
    odd = "an odd number of dimensions of a head cannot turn in pairs"
    add("rope_width_odd", odd, u32("llama.rope.dimension_count", 31))
    add("rope_width_large", "attention shape", u32("llama.rope.dimension_count", 64))
    add("experts_huge", "llama.expert_count", u32("llama.expert_count", 2**30))
    tokens, scores, types = (f"tokenizer.ggml.{part}" for part in ("tokens", "scores", "token_type"))
    add("tokens_number", tokens, u32(tokens, 8))
    add("tokens_text", tokens, text(tokens, "abcdefgh"))
    add("tokens_numbers", tokens, numbers(tokens, I32, range(8)))
    add("tokens_twice", tokens, strings(tokens, ("<unk>", "<s>", "</s>", "<0x41>", "a", "b", "a", "c")))
    add("byte_token_minus_1", tokens, strings(tokens, ("<unk>", "<s>", "</s>", "<0x-1>", "a", "b", "ab", "▁a")))
    add("byte_token_long", tokens, strings(tokens, ("<unk>", "<s>", "</s>", "<0x100>", "a", "b", "ab", "▁a")))
    add("scores_bytes", scores, numbers(scores, U8, range(8)))
    add("scores_few", scores, numbers(scores, F32, [0.0] * 7))
    add("scores_nan", scores, numbers(scores, F32, [0.0] * 7 + [float("nan")]))
    add("scores_texts", scores, strings(scores, VOCABULARY))
    add("types_bytes", types, numbers(types, U8, KINDS))
    add("types_few", types, numbers(types, I32, KINDS[:-1]))
    add("types_floats", types, numbers(types, F32, KINDS))
    add("tokenizer_unknown", "tokenizer.ggml.model", text("tokenizer.ggml.model", "alien"))
    add("tokenizer_number", "tokenizer.ggml.model", u32("tokenizer.ggml.model", 1))
    for name, record in {
        "bos_text": text("tokenizer.ggml.bos_token_id", "1"),
        "bos_float": f32("tokenizer.ggml.bos_token_id", 1.0),
        "bos_bool": kv("tokenizer.ggml.bos_token_id", BOOL, b"\1"),
    }.items():
        add(name, "tokenizer.ggml.bos_token_id", record)
    add("add_bos_number", "tokenizer.ggml.add_bos_token", u32("tokenizer.ggml.add_bos_token", 1))
    add("charsmap_text", "tokenizer.ggml.precompiled_charsmap", text("tokenizer.ggml.precompiled_charsmap", "x"))
    return cases


def tensor_cases() -> dict[str, tuple[str, bytes]]:
    """By name: the tensor at fault, and the file."""
    query, table = "blk.0.attn_q.weight", "token_embd.weight"
    return {
        "query_missing": (query, model(tensors={query: None})),
        "query_wide": (query, model(tensors={query: (2 * WIDTH, WIDTH)})),
        "query_vector": (query, model(tensors={query: (WIDTH,)})),
        "norm_matrix": ("blk.0.attn_norm.weight", model(tensors={"blk.0.attn_norm.weight": (WIDTH, 1)})),
        "embedding_missing": (table, model(tensors={table: None})),
        "embedding_short": (table, model(tensors={table: (WIDTH, len(VOCABULARY) - 1)})),
        "tensor_of_no_part": ("blk.0.attn_x.weight", model(tensors={"blk.0.attn_x.weight": (WIDTH, WIDTH)})),
        "layer_too_many": ("blk.1.attn_q.weight", model(tensors={"blk.1.attn_q.weight": (WIDTH, WIDTH)})),
    }
