"""Tensor sets of models as their files hold them, for scripts/gen_recipe_goldens.py: names, shapes and keys, no values.

Sizes are small, but rows are as wide as the block types need to tell them apart, or as ragged as the real model's.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

Shape = tuple[int, ...]  # numpy order
Layers = dict[str, Shape]
N = 256  # columns that every block divides
SECTIONS = {"rope.dimension_sections": [11, 11, 10, 0]}


class Model(NamedTuple):
    """``keys`` stand below ``<architecture>.``; ``layers`` are the tensors of each layer, by role."""

    architecture: str
    keys: dict[str, Any]
    tensors: Layers
    layers: list[Layers]


def attention(width: int = N, q: int = N, kv: int = N) -> Layers:
    return {"attn_q": (q, width), "attn_k": (kv, width), "attn_v": (kv, width), "attn_output": (width, q)}


def dense(width: int = N, n_ff: int = N, infix: str = "") -> Layers:
    shapes = {"gate": (n_ff, width), "up": (n_ff, width), "down": (width, n_ff)}
    return {f"ffn_{part}{infix}": shape for part, shape in shapes.items()}


def experts(count: int, width: int = N, n_ff: int = N) -> Layers:
    stacks = {role: (count, *shape) for role, shape in dense(width, n_ff, "_exps").items()}
    return {"ffn_gate_inp": (count, width), **stacks}


def without(tensors: Layers, *roles: str) -> Layers:
    return {role: shape for role, shape in tensors.items() if role not in roles}


def ends(width: int = N, tied: bool = False) -> Layers:
    return {"token_embd": (512, width)} | ({} if tied else {"output": (512, width)})


def heads(query: int, key_value: int | list[int] | None = None) -> dict[str, Any]:
    return {"attention.head_count": query, "attention.head_count_kv": query if key_value is None else key_value}


def routed(count: int, used: int = 2) -> dict[str, Any]:
    return {"expert_count": count, "expert_used_count": used}


def at(places: Iterable[int], n_layer: int, inside: Layers, outside: Layers) -> list[Layers]:
    chosen = set(places)
    return [inside if layer in chosen else outside for layer in range(n_layer)]


def llama(n_layer: int, group: int = 1, count: int = 0, architecture: str = "llama", **ending: Any) -> Model:
    """A decoder of alike layers: ``group`` query heads share keys and values, ``count`` experts or none."""
    layer = attention(kv=N // group) | (experts(count) if count else dense())
    keys = heads(4, 4 // group) | (routed(count) if count else {})
    return Model(architecture, keys, ends(**ending), [layer] * n_layer)


def delta(width: int = N) -> Layers:
    """Qwen3.5's gated delta net."""
    names = {"attn_qkv": (2 * N, width), "attn_gate": (N, width), "ssm_out": (width, N), "ssm_conv1d": (2 * N, 4)}
    return names | {"ssm_alpha": (16, width), "ssm_beta": (16, width), "ssm_norm": (128,)}


def mamba2(width: int = N) -> Layers:
    return {"ssm_in": (600, width), "ssm_out": (width, 512), "ssm_conv1d": (512, 4), "ssm_norm": (2, N)}


def latent(split: bool, low_rank: bool) -> Layers:
    """Multi-head latent attention; ``split``: the key-value matrix is stored as two stacks, one matrix per head."""
    query = {"attn_q_a": (512, N), "attn_q_b": (16 * 192, 512)} if low_rank else {"attn_q": (16 * 192, N)}
    stacks = {"attn_k_b": (16, 512, 128), "attn_v_b": (16, 128, 512)} if split else {"attn_kv_b": (16 * 256, 512)}
    return query | {"attn_kv_a_mqa": (576, N), "attn_output": (N, 16 * 128)} | stacks


def deepseek2() -> Model:
    inside = latent(split=True, low_rank=True) | experts(64) | dense(infix="_shexp")
    first = latent(split=True, low_rank=True) | dense()
    return Model("deepseek2", heads(16, 1) | routed(64), ends(), at([0], 27, first, inside))


def deepseek2_lite() -> Model:
    inside = latent(split=False, low_rank=False) | experts(64) | dense(infix="_shexp")
    first = latent(split=False, low_rank=False) | dense()
    return Model("deepseek2", heads(16, 16) | routed(64), ends(), at([0], 27, first, inside))


def qwen35() -> Model:
    layers = at(range(3, 24, 4), 24, attention(q=2 * N, kv=64) | dense(), delta() | dense())
    return Model("qwen35", heads(8, 2) | SECTIONS, ends(tied=True), layers)


def qwen35moe() -> Model:
    routes = experts(256) | dense(infix="_shexp") | {"ffn_gate_inp_shexp": (N,)}
    layers = at(range(3, 40, 4), 40, attention(q=2 * N, kv=32) | routes, delta() | routes)
    return Model("qwen35moe", heads(16, 2) | routed(256, 8) | SECTIONS, ends(), layers)


def qwen3next() -> Model:
    routes = experts(512) | dense(infix="_shexp") | {"ffn_gate_inp_shexp": (N,)}
    mixer = without(delta(), "ssm_alpha", "ssm_beta", "attn_qkv", "attn_gate")
    mixer |= {"ssm_ba": (32, N), "attn_qkv": (2 * N, N), "attn_gate": (N, N)}
    layers = at(range(3, 48, 4), 48, attention(q=2 * N, kv=32) | routes, mixer | routes)
    return Model("qwen3next", heads(16, 2) | routed(512, 10), ends(), layers)


def granite_hybrid(count: int) -> Model:
    n_layer, places = 40, (5, 15, 25, 35)
    routes = experts(count) | dense(infix="_shexp") if count else dense()
    layers = at(places, n_layer, attention(kv=64) | routes, mamba2() | routes)
    counts = [4 if layer in places else 0 for layer in range(n_layer)]
    keys = {"attention.head_count": 12, "attention.head_count_kv": counts} | (routed(count) if count else {})
    return Model("granitehybrid", keys, ends(tied=True), layers)


def lfm2(count: int = 0) -> Model:
    places, n_layer = (2, 5, 8, 10, 12, 14), 16
    conv = {"shortconv.in_proj": (3 * N, N), "shortconv.out_proj": (N, N), "shortconv.conv": (N, 3)}
    mixers = at(places, n_layer, attention(kv=64), conv)
    layers = [mixer | (experts(count) if count and i > 1 else dense()) for i, mixer in enumerate(mixers)]
    counts = [4 if layer in places else 0 for layer in range(n_layer)]
    keys = {"attention.head_count": 16, "attention.head_count_kv": counts} | (routed(count) if count else {})
    return Model("lfm2moe" if count else "lfm2", keys, ends(tied=True), layers)


def gemma4() -> Model:
    """E2B: embeddings per layer, keys and values shared by the last layers."""
    extra = {"inp_gate": (N, N), "proj": (N, N)}
    own, shared = attention(q=512, kv=64) | dense(), without(attention(q=512), "attn_k", "attn_v") | dense()
    layers = at(range(15), 35, own | extra, shared | extra)
    tensors = ends(tied=True) | {"per_layer_token_embd": (512, 35 * N), "per_layer_model_proj": (35 * N, N)}
    keys = heads(8, 1) | {"attention.shared_kv_layers": 20, "embedding_length_per_layer_input": N}
    return Model("gemma4", keys | {"attention.sliding_window_pattern": [i % 5 < 4 for i in range(35)]}, tensors, layers)


def gemma4_experts() -> Model:
    """26B-A4B: a dense feed-forward beside fused experts; full layers have keys that are values too."""
    routes = dense() | {"ffn_gate_inp": (128, N), "ffn_gate_up_exps": (128, 512, N), "ffn_down_exps": (128, N, 352)}
    full = without(attention(q=512, kv=128), "attn_v")
    layers = at(range(5, 30, 6), 30, full | routes, attention(q=512, kv=128) | routes)
    counts = [2 if i % 6 == 5 else 8 for i in range(30)]
    keys = {"attention.head_count": 16, "attention.head_count_kv": counts} | routed(128, 8)
    pattern = {"attention.sliding_window_pattern": [i % 6 < 5 for i in range(30)]}
    return Model("gemma4", keys | pattern, ends(tied=True), layers)


def bert() -> Model:
    tensors = {"token_embd": (512, 384), "position_embd": (512, 384), "token_types": (2, 384)}
    layer = attention(384, 384, 384) | without(dense(384, 1536), "ffn_gate")
    return Model("bert", heads(12), tensors, [layer] * 12)


def nomic_bert_moe() -> Model:
    routes = without(experts(8, N, 1024), "ffn_gate_exps")
    mixer = {"attn_qkv": (3 * N, N), "attn_output": (N, N)}
    layers = [mixer | (routes if i % 2 else without(dense(N, 1024), "ffn_gate")) for i in range(12)]
    tensors = {"token_embd": (512, N), "token_types": (1, N)}
    return Model("nomic-bert-moe", heads(12) | routed(8) | {"moe_every_n_layers": 2}, tensors, layers)


def modern_bert() -> Model:
    layer = {"attn_qkv": (3 * N, N), "attn_output": (N, N), "ffn_up": (1024, N), "ffn_down": (N, 1152)}
    tensors = {"token_embd": (512, N), "cls": (N, N), "cls.output": (2, N)}
    return Model("modern-bert", heads(12), tensors, [layer] * 22)


def phi3() -> Model:
    layer = {"attn_qkv": (2 * N, N), "attn_output": (N, N), "ffn_up": (1024, N), "ffn_down": (N, 512)}
    return Model("phi3", heads(32, 8) | {"rope.dimension_count": 64}, ends(), [layer] * 32)


def llama4() -> Model:
    routes = experts(16) | dense(infix="_shexp")
    layers = at(range(1, 48, 2), 48, attention(kv=64) | routes, attention(kv=64) | dense())
    return Model("llama4", heads(40, 8) | routed(16, 1), ends(), layers)


def nemotron_h(count: int) -> Model:
    n_layer, attends = 52, (7, 18, 29, 40)
    feed = without(dense(), "ffn_gate")
    if count:
        stacks = without(experts(count, 128), "ffn_gate_exps")  # experts work on a latent of half the width
        feed = stacks | without(dense(infix="_shexp"), "ffn_gate_shexp")
        feed |= {"ffn_latent_down": (128, N), "ffn_latent_up": (N, 128)}
    layers = [
        attention(kv=64) if i in attends else (mamba2() if i % 2 == 0 or i - 1 in attends else feed)
        for i in range(n_layer)
    ]
    counts = [8 if i in attends else 0 for i in range(n_layer)]
    lengths = [N if "ffn_down" in layer or "ffn_down_exps" in layer else 0 for layer in layers]
    keys = {"attention.head_count": 40, "attention.head_count_kv": counts, "feed_forward_length": lengths}
    return Model("nemotron_h_moe" if count else "nemotron_h", keys | (routed(count) if count else {}), ends(), layers)


def falcon_h1() -> Model:
    layer = attention(kv=64) | mamba2() | dense()
    return Model("falcon-h1", heads(8, 2), ends(), [layer] * 36)


def glm4moe() -> Model:
    """GLM-4.5 with its layer that predicts a second token."""
    routes = attention(kv=32) | experts(128) | dense(infix="_shexp")
    draft = {"nextn.eh_proj": (N, 2 * N), "nextn.embed_tokens": (512, N), "nextn.shared_head_head": (512, N)}
    layers = [attention(kv=32) | dense(), *[routes] * 45, routes | draft]
    keys = heads(96, 8) | routed(128, 8) | {"nextn_predict_layers": 1, "leading_dense_block_count": 1}
    return Model("glm4moe", keys, ends(), layers)


def gpt_oss() -> Model:
    """Rows of 2,880: no multiple of 256."""
    layer = attention(2880, 4096, 512) | experts(32, 2880, 2880)
    return Model("gpt-oss", heads(64, 8) | routed(32, 4), ends(2880), [layer] * 24)


def falcon() -> Model:
    layer = {"attn_qkv": (2 * N, N), "attn_output": (N, N), "ffn_up": (1024, N), "ffn_down": (N, 1024)}
    return Model("falcon", heads(64, 8), ends(), [layer] * 60)


def bailingmoe3() -> Model:
    inside = latent(split=True, low_rank=False) | experts(128) | dense(infix="_shexp")
    linear = {"attn_q": (N, N), "attn_k": (N, N), "attn_v": (N, N), "attn_output": (N, N), "ssm_conv1d_q": (N, 4)}
    layers = at(range(3, 24, 4), 24, inside, linear | experts(128) | dense(infix="_shexp"))
    counts = [1 if i % 4 == 3 else 0 for i in range(24)]
    keys = {"attention.head_count": 16, "attention.head_count_kv": counts} | routed(128, 8)
    return Model("bailingmoe3", keys | {"kda.gate_lower_bound": -5.0}, ends(), layers)


def glm5_next() -> Model:
    extra = {"indexer.attn_q_b": (N, 512), "indexer.attn_k": (128, N), "hc_attn_fn": (24, N), "ssm_f_a": (128, N)}
    extra |= {"ssm_beta": (16, N), "nextn.eh_proj": (N, 2 * N), "indexer.proj": (16, N)}
    layer = latent(split=True, low_rank=True) | experts(64) | extra
    keys = {"attention.indexer.kpool": 4, "attention.indexer.top_k": 64, "hyper_connection.count": 4}
    return Model("glm5-next", heads(16, 1) | routed(64, 8) | keys, ends(), [layer] * 8)


def minimax_m3() -> Model:
    layer = attention(kv=64) | experts(64) | {"indexer.q_proj": (N, N), "indexer.k_proj": (128, N)}
    return Model("minimax-m3", heads(64, 4) | routed(64, 8), ends(), [layer] * 12)


def ragged() -> Model:
    """Rows that no large block divides (96), and rows that no block divides at all (80)."""
    layer = attention(96, 80, 80) | dense(96, 352)
    return Model("llama", heads(5), ends(96), [layer] * 8)


MODELS: dict[str, Model] = {
    "plain": llama(16),
    "tied": llama(16, tied=True),
    "grouped in twos": llama(16, 2),
    "grouped in fours": llama(33, 4),
    "80 layers": llama(80),
    "80 layers, grouped in twos": llama(80, 2),
    "80 layers, grouped in fours": llama(80, 4),
    "3 experts": llama(16, 1, 3),
    "4 experts": llama(16, 1, 4),
    "8 experts": llama(16, 1, 8),
    "8 experts, grouped in fours": llama(32, 4, 8),
    "ragged": ragged(),
    "Qwen2 72B": llama(80, 4, architecture="qwen2"),
    "Qwen3 of 80 layers": llama(80, 4, architecture="qwen3"),
    "Jais 2 70B": llama(68, 1, architecture="jais2"),
    "Qwen3-MoE": llama(48, 4, 128, architecture="qwen3moe"),
    "gpt-oss 20B": gpt_oss(),
    "DeepSeek-V3": deepseek2(),
    "DeepSeek-V2-Lite, unsplit": deepseek2_lite(),
    "Mamba2": Model("mamba2", {}, ends(tied=True), [mamba2()] * 24),
    "Granite 4 hybrid": granite_hybrid(0),
    "Granite 4 hybrid with experts": granite_hybrid(64),
    "Qwen3.5": qwen35(),
    "Qwen3.5-MoE": qwen35moe(),
    "Qwen3-Next": qwen3next(),
    "LFM2": lfm2(),
    "LFM2-MoE": lfm2(32),
    "Gemma 4 E2B": gemma4(),
    "Gemma 4 26B": gemma4_experts(),
    "MiniLM": bert(),
    "nomic-embed v2": nomic_bert_moe(),
    "ModernBERT": modern_bert(),
    "Phi-3": phi3(),
    "Llama 4": llama4(),
    "Nemotron-H": nemotron_h(0),
    "Nemotron 3": nemotron_h(64),
    "Falcon-H1": falcon_h1(),
    "GLM-4.5": glm4moe(),
    "Falcon 40B": falcon(),
    "Ling 3": bailingmoe3(),
    "GLM-5 next": glm5_next(),
    "MiniMax-M3": minimax_m3(),
}
