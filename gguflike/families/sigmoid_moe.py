"""Families whose routers use sigmoids, and whose first layers have none: GLM 4.5, dots.llm1, Hy 3, K-EXAONE, MiniMax.

A bias that balances the experts' load is added where they are chosen. Most have experts that all tokens share.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

from gguflike.errors import UnsupportedError
from gguflike.families import mtp
from gguflike.families.config import Via, key
from gguflike.families.decoder import (
    DECODER_NAMES,
    INERT_KEYS,
    QK_NAMES,
    SILU,
    attention,
    decoder,
    exported,
    feed_forward,
    pre_norm,
    qk_norms,
    rms,
    rope_of,
)
from gguflike.families.family import Family
from gguflike.families.mixture import (
    ROUTER_KEYS,
    SCORINGS,
    SIGMOID,
    Mixture,
    dense_lead,
    expert_names,
    experts,
    gating,
    grouped_router,
    n_groups,
    n_groups_used,
    shared,
    shared_names,
    unsaid_is_one_dense,
)
from gguflike.families.origins import Either, Named
from gguflike.families.parts import Block, Branch, FeedForward, Graph
from gguflike.families.parts.experts import Experts, Router
from gguflike.families.qwen import VISION, padded
from gguflike.families.windows import every, partial, span, window, windowed, without_window
from gguflike.frozen import frozen, replace

_INERT = INERT_KEYS | ROUTER_KEYS


@frozen
class SigmoidMixture(Mixture):
    """Hyper-parameters: the first ``n_dense`` layers have a feed-forward, the others experts and ``n_shared`` more."""

    n_expert: int = key("expert_count", ("n_routed_experts", "num_experts", "num_local_experts"))
    n_dense: int = dense_lead("first_k_dense_replace", "mlp_layer_types")
    n_shared: int = key("expert_shared_count", "n_shared_experts", default=0, zero=True)
    expert_scale: float = key("expert_weights_scale", "routed_scaling_factor", default=1.0)
    normalize: bool = key("expert_weights_norm", "norm_topk_prob", default=False)
    n_groups: int = n_groups()
    n_groups_used: int = n_groups_used()
    gating: int = gating(SIGMOID)


def mixture(c: Any, choice_bias: Any = "exp_probs_b.bias") -> Experts:
    """Experts, and the shared ones as a single feed-forward."""
    return experts(c, grouped_router(c, choice_bias), shared=shared(c, c.n_ff_expert * c.n_shared))


def sparse(c: Any, layer: int, choice_bias: Any = "exp_probs_b.bias") -> Experts | FeedForward:
    """What follows attention in a layer."""
    return feed_forward(c) if layer < c.n_dense else mixture(c, choice_bias)


@frozen
class Glm4Moe(mtp.Headed, SigmoidMixture):
    """GLM 4.5 to 4.7. Of models that see, ``sections`` say how many pairs turn by which of an image's positions, which
    are all equal in a text."""

    n_ff: int = key(
        "feed_forward_length", "intermediate_size", default=lambda c: c.n_embd, implied=lambda c: not c.n_dense
    )
    n_rot: int = partial()
    qk_norm: bool = key(None, "use_qk_norm", default=False, tensor="blk.0.attn_q_norm.weight")
    sections: tuple[int, ...] | None = key(
        "rope.dimension_sections", "rope.sections", listed=True, via=Via(read=padded, write=lambda _: None)
    )


def glm4moe(c: Glm4Moe) -> Graph:
    """Queries, keys and values may have biases, queries and keys norms."""
    norms = qk_norms(c) if c.qk_norm else {}
    mixer = attention(c, rope_of(c, "neox"), output_bias=False, **norms)

    def block(layer: int) -> Block:
        return (Branch(rms(c, "attn_norm"), mixer), Branch(rms(c, "post_attention_norm"), sparse(c, layer)))

    return mtp.with_mtp(c, decoder(c, block), block)


_GLM_NAMES = MappingProxyType(
    {
        **DECODER_NAMES,
        **QK_NAMES,
        **expert_names(),
        **shared_names("mlp.shared_experts"),
        "post_attention_norm": Named("post_attention_layernorm"),
        "exp_probs_b": Named("mlp.gate.e_score_correction_bias", bare=True),
    }
)

GLM4MOE = Family(
    name="glm4moe",
    config=Glm4Moe,
    graph=glm4moe,
    origins=_GLM_NAMES,
    mtp_origins=mtp.MTP_NAMES,
    implemented=SILU,
    inert=_INERT,
    constants=exported("Glm4MoeForCausalLM", "glm4_moe"),
    spelled=lambda values: {"partial_rotary_factor": 1.0, "num_nextn_predict_layers": 0, **values},
)


GLM4V_MOE = replace(
    GLM4MOE,
    left_out=VISION,
)


@frozen
class SolarOpen(Glm4Moe):
    """Solar Open: no feed-forwards without experts, whole heads turn. (Its files say no size of the former.)"""


SOLAR_OPEN = replace(
    GLM4MOE,
    config=SolarOpen,
    constants=exported("SolarOpenForCausalLM", "solar_open"),
)


def dots1(c: SigmoidMixture) -> Graph:
    """Queries and keys normalized per head."""
    mixer = attention(c, rope_of(c, "neox"), **qk_norms(c))
    return decoder(c, lambda layer: pre_norm(c, mixer, sparse(c, layer)))


def _without_idle_window(values: dict[str, Any]) -> dict[str, Any]:
    """config.json without a window that no layer has: only those behind ``max_window_layers`` do, where it does not
    list them."""
    kinds, layers = values.get("layer_types"), values.get("num_hidden_layers") or 0
    behind = values.get("max_window_layers", 62)
    idle = set(kinds) == {"full_attention"} if kinds else behind is not None and layers <= behind
    return {**values, "sliding_window": None} if idle else values


DOTS1 = Family(
    name="dots1",
    config=SigmoidMixture,
    graph=dots1,
    origins=_GLM_NAMES,
    implemented=MappingProxyType({**SILU, "sliding_window": (None,), "use_sliding_window": (False,)}),
    inert=_INERT | {"max_window_layers", "layer_types"},  # which say something only of windows
    constants=exported("Dots1ForCausalLM", "dots1"),
    normalized=_without_idle_window,
)


@frozen
class HyV3(mtp.Headed, SigmoidMixture):
    """Tencent's Hy 3."""

    n_expert: int = key("expert_count", ("num_experts", "num_local_experts"))
    n_dense: int = dense_lead("mlp_layer_types", "first_k_dense_replace")
    n_shared: int = key(None, "num_shared_experts", default=1, zero=True)
    n_ff_shared: int = key(
        "expert_shared_feed_forward_length", None, default=lambda c: c.n_ff_expert * c.n_shared, zero=True
    )
    expert_scale: float = key("expert_weights_scale", "router_scaling_factor", default=1.0)
    normalize: bool = key("expert_weights_norm", "route_norm", default=True)
    n_groups: int = key("expert_group_count", None, default=1, implied=True)
    n_groups_used: int = key("expert_group_used_count", None, default=1, implied=True)


def hy_v3(c: HyV3) -> Graph:
    """Queries and keys normalized per head."""
    mixer = attention(c, rope_of(c, "neox"), **qk_norms(c))
    with_shared = replace(mixture(c, "exp_probs_b"), shared=shared(c, c.n_ff_shared))

    def block(layer: int) -> Block:
        return pre_norm(c, mixer, feed_forward(c) if layer < c.n_dense else with_shared)

    return mtp.with_mtp(c, decoder(c, block), block)


HY_V3 = Family(
    name="hy_v3",
    config=HyV3,
    graph=hy_v3,
    origins=MappingProxyType(
        {
            **DECODER_NAMES,
            **QK_NAMES,
            **expert_names(router="router.gate"),
            **shared_names("mlp.shared_mlp"),
            "exp_probs_b": Named("mlp.expert_bias", bare=True),
        }
    ),
    mtp_origins=MappingProxyType({**mtp.MTP_NAMES, "nextn.shared_head_norm": Named("final_layernorm")}),
    implemented=SILU,
    inert=_INERT | {"enable_moe_fp32_combine", "enable_attention_fp32_softmax", "enable_lm_head_fp32"},
    normalized=unsaid_is_one_dense,
    constants=exported("HYV3ForCausalLM", "hy_v3"),
)


@frozen
class ExaoneMoe(mtp.Headed, SigmoidMixture):
    """K-EXAONE. Layers without a window do not turn queries and keys, where others have one. The block of its head has
    the window of the first layer, and a feed-forward."""

    n_dense: int = dense_lead("mlp_layer_types", "first_k_dense_replace")
    n_expert: int = key("expert_count", ("num_experts", "num_local_experts"))
    window: int = window()
    windowed: tuple[bool, ...] = windowed(every(4), implied=without_window)
    n_shared: int = key("expert_shared_count", "num_shared_experts", default=1, zero=True)
    n_ff_shared: int = key(
        "expert_shared_feed_forward_length", None, default=lambda c: c.n_ff_expert * c.n_shared, zero=True
    )
    n_mtp: int = mtp.count(most=1)


def exaone_moe(c: ExaoneMoe) -> Graph:
    """Queries and keys normalized per head."""
    rope = rope_of(c, "neox")

    def block(layer: int) -> Block:
        like = layer if layer < c.n_layer else 0
        turns = not c.window or c.windowed[like]
        mixer = attention(c, rope if turns else None, window=span(c, like), **qk_norms(c))
        return pre_norm(c, mixer, sparse(c, layer) if layer < c.n_layer else feed_forward(c))

    return mtp.with_mtp(c, decoder(c, block), block)


def heads_like_the_first_layer(values: dict[str, Any]) -> dict[str, Any]:
    """config.json without what it says of the attention of heads. UnsupportedError where that is not the first
    layer's: nobody says which queries and keys such heads turn, and no GGUF file what window they have."""
    made = dict(values)
    kinds, windows = made.pop("mtp_layer_types", None), made.pop("mtp_sliding_windows", None)
    like = (made.get("layer_types") or ["full_attention"])[0]
    window = made.get("sliding_window") if like == "sliding_attention" else 0
    for name, said, one in (("mtp_layer_types", kinds, like), ("mtp_sliding_windows", windows, window)):
        if said is not None and said != [one] * len(said):
            raise UnsupportedError(
                "heads whose attention is not that of the first layer",
                field=f"config.json: {name}",
                expected=f"{one!r} for each",
                got=repr(said)[:80],
                remedy="without that key they are converted as if it were: guesses may be wrong, texts never",
            )
    return made


EXAONE_MOE = Family(
    name="exaone-moe",
    config=ExaoneMoe,
    graph=exaone_moe,
    origins=MappingProxyType(
        {
            **DECODER_NAMES,
            **QK_NAMES,
            **expert_names(),
            **shared_names("mlp.shared_experts"),
            "exp_probs_b": Either(
                (
                    Named("mlp.e_score_correction_bias", bare=True),
                    Named("mlp.gate.e_score_correction_bias", bare=True),
                )
            ),
        }
    ),
    mtp_origins=MappingProxyType(mtp.apart()),
    mtp_layers=mtp.MTP_LAYERS,
    left_out=MappingProxyType({r"mtp\.": "what predicts further tokens"}),
    implemented=SILU,
    inert=_INERT | {"mtp_share_layers", "mtp_num_speculative_steps"},  # which say how often one head guesses
    normalized=heads_like_the_first_layer,
    constants=exported("ExaoneMoeForCausalLM", "exaone_moe"),
)


@frozen
class MiniMaxM2(Mixture):
    """MiniMax M2: all layers have experts, of as many hidden values as config.json says of a feed-forward."""

    n_ff_expert: int = key("expert_feed_forward_length", "intermediate_size")
    n_rot: int = partial()
    gating: int = gating(SIGMOID)


def minimax_m2(c: MiniMaxM2) -> Graph:
    """Queries and keys normalized as a whole; part of a head turns."""
    norms = {
        "q_norm": rms(c, "attn_q_norm", c.n_head * c.head_dim),
        "k_norm": rms(c, "attn_k_norm", c.n_head_kv * c.head_dim),
    }
    mixture = experts(c, Router(SCORINGS[c.gating], choice_bias="exp_probs_b.bias"))
    block = pre_norm(c, attention(c, rope_of(c, "neox"), **norms), mixture)
    return decoder(c, lambda _: block)


def rotary_share(values: dict[str, Any]) -> dict[str, Any]:
    """config.json with the share of a head that turns, where it says how many dimensions."""
    made = dict(values)
    turned, size, ropes = made.pop("rotary_dim", None), made.get("head_dim"), made.get("rope_parameters")
    given = ropes if isinstance(ropes, dict) and ropes else made
    if turned is None or not size or "partial_rotary_factor" in given:
        return made
    whole = {**given, "partial_rotary_factor": turned / size}
    return whole if given is made else {**made, "rope_parameters": whole}


MINIMAX_M2 = Family(
    name="minimax-m2",
    config=MiniMaxM2,
    graph=minimax_m2,
    origins=MappingProxyType(
        {
            **DECODER_NAMES,
            **QK_NAMES,
            **expert_names("block_sparse_moe", names=("w1", "w3", "w2")),
            "exp_probs_b": Named("block_sparse_moe.e_score_correction_bias", bare=True),
        }
    ),
    left_out=MappingProxyType({r"model\.mtp": "what predicts further tokens"}),
    implemented=MappingProxyType(
        {
            **SILU,
            "use_routing_bias": (True,),
            "use_qk_norm": (True,),
            "qk_norm_type": ("per_layer",),
            "shared_intermediate_size": (0,),
        }
    ),
    inert=_INERT
    | {"use_mtp", "num_mtp_modules", "mtp_transformer_layers", "layernorm_full_attention_beta"}
    | {"layernorm_linear_attention_beta", "layernorm_mlp_beta", "attn_type_list"},
    constants=exported("MiniMaxM2ForCausalLM", "minimax_m2"),
    normalized=rotary_share,
)
