"""Gemma 4: windowed layers and full ones of other head sizes, shared keys and values, embeddings per layer, experts
beside a dense feed-forward."""

from __future__ import annotations

from collections.abc import Callable
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from gguflike.errors import UnsupportedError
from gguflike.families.config import key
from gguflike.families.decoder import DECODER_NAMES, INERT_KEYS
from gguflike.families.family import Family
from gguflike.families.mixture import experts
from gguflike.families.origins import Made, Named
from gguflike.families.parts import Attention, Block, Branch, Embedding, FeedForward, Graph, Head, Norm, Part, Rope
from gguflike.families.parts.experts import Router
from gguflike.families.parts.extras import LayerEmbeddings, LayerInput, Path, Rescale, Sum
from gguflike.families.windows import every, windowed
from gguflike.frozen import frozen, replace

if TYPE_CHECKING:
    from gguflike.families.origins import Floats


def _value_matrix(c: Any) -> str:
    """The value matrix of the first full layer, whose values are its keys where there is none."""
    first = c.windowed.index(False) if False in c.windowed else 0
    return f"blk.{first}.attn_v.weight"


@frozen
class Gemma4:
    """Hyper-parameters. ``shared``: so many layers, the last, have no keys and values of their own. ``layer_input``:
    values of the embeddings per layer, 0 for none."""

    n_layer: int = key("block_count", "num_hidden_layers")
    n_ctx: int = key("context_length", "max_position_embeddings", default=131072)
    n_embd: int = key("embedding_length", "hidden_size")
    n_ff: tuple[int, ...] = key("feed_forward_length", "intermediate_size")
    n_head: int = key("attention.head_count", "num_attention_heads")
    n_head_kv: tuple[int, ...] = key("attention.head_count_kv", "num_key_value_heads")
    window: int = key("attention.sliding_window", "sliding_window", default=512)
    windowed: tuple[bool, ...] = windowed(every(6), implied=False)
    head_dim: int = key("attention.key_length", "global_head_dim", default=512, copies=("attention.value_length",))
    head_dim_window: int = key(
        "attention.key_length_swa", "head_dim", default=256, copies=("attention.value_length_swa",)
    )
    n_rot: int = key("rope.dimension_count", None, default=lambda c: c.head_dim)
    n_rot_window: int = key("rope.dimension_count_swa", None, default=lambda c: c.head_dim_window)
    rope_base: float = key("rope.freq_base", "rope.theta", default=1e6)
    rope_base_window: float = key("rope.freq_base_swa", "rope.sliding.theta", default=1e4)
    # A rotation that is not said to be proportional turns all.
    rope_share: float = key("gguflike.rope.proportional_share", "rope.proportional.share", default=1.0)
    n_vocab: int = key("vocab_size", "vocab_size")
    norm_eps: float = key("attention.layer_norm_rms_epsilon", "rms_norm_eps", default=1e-6)
    softcap: float = key("final_logit_softcapping", "final_logit_softcapping", default=0.0, zero=True, implied=True)
    shared: int = key("attention.shared_kv_layers", "num_kv_shared_layers", default=0, zero=True)
    layer_input: int = key("embedding_length_per_layer_input", "hidden_size_per_layer_input", default=0, zero=True)
    n_expert: int | None = key("expert_count", "num_experts")
    n_expert_used: int | None = key("expert_used_count", "top_k_experts")
    n_ff_expert: int | None = key("expert_feed_forward_length", "moe_intermediate_size")
    value_matrix: bool = key(None, "attention_k_eq_v", default=True, tensor=_value_matrix, negated=True)
    rescaled: bool = key(None, None, tensor="blk.0.layer_output_scale.weight")
    untied: bool = key(None, "tie_word_embeddings", default=True, tensor="output.weight", negated=True)


def gemma4(c: Gemma4) -> Graph:
    """Norms before and behind each mixer; values are normalized without weight, scores not scaled."""
    inputs: tuple[Part, ...] = ()
    if c.layer_input:
        norm = Norm("per_layer_proj_norm", c.layer_input, c.norm_eps)
        inputs = (LayerEmbeddings(c.n_vocab, c.n_embd, c.n_layer, c.layer_input, c.layer_input**0.5, norm),)
    return Graph(
        Embedding(c.n_vocab, c.n_embd, c.n_embd**0.5),
        tuple(_block(c, layer) for layer in range(c.n_layer)),
        Norm("output_norm", c.n_embd, c.norm_eps),
        Head(c.n_vocab, c.n_embd, tied=not c.untied, softcap=c.softcap),
        inputs,
    )


def _block(c: Gemma4, layer: int) -> Block:
    def norm(role: str) -> Norm:
        return Norm(role, c.n_embd, c.norm_eps)

    attention = Branch(norm("attn_norm"), _attention(c, layer), norm("post_attention_norm"))
    block: Block = (attention, _feed_forward(c, layer, norm))
    if c.layer_input:
        block = (*block, Branch(None, LayerInput(c.n_embd, c.layer_input, layer, c.n_layer), norm("post_norm")))
    return (*block, Rescale()) if c.rescaled else block


def _attention(c: Gemma4, layer: int) -> Attention:
    """Full layers have heads of another size, turn a part of each (`rope_freqs`), and may have no value matrix."""
    in_window = c.windowed[layer]
    dim = c.head_dim_window if in_window else c.head_dim
    rope = Rope(c.n_rot_window, c.rope_base_window, "neox")
    if not in_window:
        rope = Rope(c.n_rot, c.rope_base, "neox", divisors=("rope_freqs.weight",))
    return Attention(
        c.n_embd,
        c.n_head,
        c.n_head_kv[layer],
        dim,
        rope,
        scale=1.0,
        q_norm=Norm("attn_q_norm", dim, c.norm_eps),
        k_norm=Norm("attn_k_norm", dim, c.norm_eps),
        v_norm=Norm("", dim, c.norm_eps, weight=False),
        window=c.window if in_window else 0,
        kv_layer=_source(c, layer),
        value_is_key=not (in_window or c.value_matrix),
    )


def _source(c: Gemma4, layer: int) -> int | None:
    """The layer whose keys and values this one reads: the last of its kind that has its own; None for its own."""
    first = c.n_layer - c.shared
    if layer < first:
        return None
    alike = [other for other in range(first) if c.windowed[other] == c.windowed[layer]]
    if not alike:
        raise UnsupportedError(
            "a layer without keys and values of its own",
            field="num_kv_shared_layers",
            expected="one of its kind before it that has some",
            got=c.shared,
        )
    return alike[-1]


def _feed_forward(c: Gemma4, layer: int, norm: Callable[[str], Norm]) -> Branch:
    dense = FeedForward(c.n_embd, c.n_ff[layer], activation="gelu_tanh")
    after = norm("post_ffw_norm")
    if not c.n_expert or not c.n_expert_used or not c.n_ff_expert:
        return Branch(norm("ffn_norm"), dense, after)
    router = Router(norm=Norm("", c.n_embd, c.norm_eps, weight=False), input_scale=c.n_embd**-0.5, scaled=True)
    sparse = experts(
        c, router, activation="gelu_tanh", fused=True, output_scaled=True, input_norm=norm("pre_ffw_norm_2")
    )
    paths = (
        Path(norm("ffn_norm"), dense, norm("post_ffw_norm_1")),
        Path(None, sparse, norm("post_ffw_norm_2")),
    )
    return Branch(None, Sum(paths), after)


def _rope_freqs(c: Gemma4) -> Floats:
    """Divisors of full layers' frequencies: 1 for the share that turns, 1e30 for the rest, which stands still."""
    pairs = c.n_rot // 2
    divisors = np.full(pairs, 1e30, np.float32)
    divisors[: int(c.n_rot * c.rope_share / 2)] = 1.0
    return divisors


def _recover(c: Gemma4, read: Callable[[str], Floats]) -> Gemma4:
    """The share that turns, from the divisors."""
    divisors = read("rope_freqs.weight")
    return replace(c, rope_share=float((divisors == 1.0).mean()))


def normalized(values: dict[str, Any]) -> dict[str, Any]:
    """What config.json says of full layers apart, as values of their own and lists by layer."""
    made = dict(values)
    kinds = made.get("layer_types") or [
        "full_attention" if i % 6 == 5 else "sliding_attention" for i in range(made.get("num_hidden_layers") or 0)
    ]
    kinds = [*kinds[:-1], "full_attention"]  # as Transformers has it
    full = _of_full_layers(made.pop("per_layer_config", None) or {}, kinds)
    made["layer_types"] = kinds
    made["global_head_dim"] = made.get("global_head_dim") or full.get("head_dim", 512)
    heads = made.get("num_key_value_heads", 4)
    others = made.pop("num_global_key_value_heads", None)  # which counts where values are the keys
    others = (others if made.get("attention_k_eq_v", True) else None) or full.get("num_key_value_heads") or heads
    made["num_key_value_heads"] = [others if kind == "full_attention" else heads for kind in kinds]
    n_ff, first = made.get("intermediate_size", 9216), len(kinds) - (made.get("num_kv_shared_layers") or 0)
    wide = 2 if made.pop("use_double_wide_mlp", False) else 1
    if n_ff is not None:  # which the configuration refuses
        made["intermediate_size"] = [n_ff * (wide if layer >= first else 1) for layer in range(len(kinds))]
    if not made.pop("enable_moe_block", False):
        made |= dict.fromkeys(("num_experts", "top_k_experts", "moe_intermediate_size"))
    rows = made.pop("vocab_size_per_layer_input", None)
    if made.get("hidden_size_per_layer_input") and rows not in (None, made.get("vocab_size")):
        raise UnsupportedError(
            "rows of the embeddings per layer",
            field="config.json: vocab_size_per_layer_input",
            expected=f"vocab_size, {made.get('vocab_size')}",
            got=rows,
        )
    return made


def _of_full_layers(given: dict[str, Any], kinds: list[str]) -> dict[str, Any]:
    """What ``per_layer_config`` says of full layers. UnsupportedError where it is not one thing for all of them."""
    found = {int(layer) if layer.isdecimal() else layer: value for layer, value in given.items()}  # saved as "05"
    full = [layer for layer, kind in enumerate(kinds) if kind == "full_attention"]
    first: dict[str, Any] = found.get(full[0], {})
    if any(found.get(layer, {}) != first for layer in full) or set(found) - set(full):
        raise UnsupportedError(
            "settings by layer",
            field="config.json: per_layer_config",
            expected="the same head_dim and num_key_value_heads for all full layers, and nothing for others",
            got=repr(given)[:120],
        )
    return first


def spelled(config: dict[str, Any]) -> dict[str, Any]:
    """The opposite of `normalized`."""
    made = dict(config)
    kinds, heads, n_ff = made["layer_types"], made["num_key_value_heads"], made["intermediate_size"]
    by_kind = dict(zip(kinds, heads, strict=True))
    made["num_global_key_value_heads"] = by_kind.get("full_attention")
    made["num_key_value_heads"] = by_kind.get("sliding_attention", heads[0])
    made["intermediate_size"], made["use_double_wide_mlp"] = n_ff[0], n_ff[-1] != n_ff[0]
    made["enable_moe_block"] = "num_experts" in made
    made["vocab_size_per_layer_input"] = made["vocab_size"]
    return made


GEMMA4 = Family(
    name="gemma4",
    config=Gemma4,
    graph=gemma4,
    origins=MappingProxyType(
        {
            **DECODER_NAMES,
            "rope_freqs": Made(_rope_freqs),
            "attn_q_norm": Named("self_attn.q_norm"),
            "attn_k_norm": Named("self_attn.k_norm"),
            "post_attention_norm": Named("post_attention_layernorm"),
            "ffn_norm": Named("pre_feedforward_layernorm"),
            "post_ffw_norm": Named("post_feedforward_layernorm"),
            "post_ffw_norm_1": Named("post_feedforward_layernorm_1"),
            "pre_ffw_norm_2": Named("pre_feedforward_layernorm_2"),
            "post_ffw_norm_2": Named("post_feedforward_layernorm_2"),
            "ffn_gate_inp": Named("router.proj"),
            "ffn_gate_inp.scale": Named("router.scale", bare=True),
            "ffn_gate_up_exps": Named("experts.gate_up_proj", bare=True),
            "ffn_down_exps": Named("experts.down_proj", bare=True),
            "ffn_down_exps.scale": Named("router.per_expert_scale", bare=True),
            "per_layer_token_embd": Named("model.embed_tokens_per_layer"),
            "per_layer_model_proj": Named("model.per_layer_model_projection"),
            "per_layer_proj_norm": Named("model.per_layer_projection_norm"),
            "inp_gate": Named("per_layer_input_gate"),
            "proj": Named("per_layer_projection"),
            "post_norm": Named("post_per_layer_input_norm"),
            "layer_output_scale": Named("layer_scalar", bare=True),
        }
    ),
    left_out=MappingProxyType(
        {
            r"(model\.)?(vision_tower|embed_vision|vision_embedder)\.": "the vision tower",
            r"(model\.)?(audio_tower|embed_audio)\.": "the audio tower",
        }
    ),
    implemented=MappingProxyType(
        {
            "hidden_activation": ("gelu_pytorch_tanh",),
            "attention_bias": (False,),
            "use_bidirectional_attention": ("vision",),  # which is of images
        }
    ),
    inert=INERT_KEYS,
    constants=MappingProxyType(
        {
            "architectures": ["Gemma4ForCausalLM"],
            "model_type": "gemma4_text",
            "hidden_activation": "gelu_pytorch_tanh",
        }
    ),
    normalized=normalized,
    spelled=spelled,
    recover=_recover,
)
