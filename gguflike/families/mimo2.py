"""MiMo V2: windows with sinks and more key heads than the other layers, values smaller than keys, experts, and heads
that predict further tokens, each behind the one before.
"""

from __future__ import annotations

from collections.abc import Iterable
from types import MappingProxyType
from typing import Any

from gguflike.errors import UnsupportedError
from gguflike.families import mtp
from gguflike.families.config import Via, key
from gguflike.families.decoder import (
    DECODER_NAMES,
    INERT_KEYS,
    SILU,
    attention,
    decoder,
    exported,
    feed_forward,
    rms,
    rope_of,
)
from gguflike.families.family import Family
from gguflike.families.mixture import (
    ROUTER_KEYS,
    SIGMOID,
    Mixture,
    dense_lead,
    expert_names,
    experts,
    gating,
    grouped_router,
    n_groups,
    n_groups_used,
)
from gguflike.families.origins import Either, Named
from gguflike.families.parts import Block, Branch, Graph, Mixer
from gguflike.families.windows import Flags, partial, window, windowed
from gguflike.frozen import frozen


def _alike(c: Any, share: Any) -> int:
    turned = int(share * c.head_dim)
    if turned != c.n_rot:
        raise ValueError(f"a share of which {c.n_rot} dimensions of a head turn, as in layers without a window")
    return turned


def _layout(_: Any, said: Any) -> bool:
    if said not in ("split", "fused_qkv"):
        raise ValueError("'split' or 'fused_qkv'")
    return bool(said == "fused_qkv")


def _usual(layers: int) -> Flags:
    """Which layers have a window where nothing says it: all but the first and every sixth."""
    return tuple(layer > 0 and (layer + 1) % 6 > 0 for layer in range(layers))


@frozen
class Further:
    """Which heads there are behind the first."""

    has_second: bool = mtp.has("nextn.eh_proj", 1)
    has_third: bool = mtp.has("nextn.eh_proj", 2)


@frozen
class MiMo2(mtp.Headed, Further, Mixture):
    """Hyper-parameters. Numbers of key heads differ between layers; those with a window turn by angles of their own.
    There are three heads in all published models, which config.json does not say; their layers have windows."""

    n_head_kv: tuple[int, ...] = key(  # type: ignore[assignment]
        "attention.head_count_kv", "num_key_value_heads", array=True
    )
    head_dim: int = key("attention.key_length", "head_dim", default=192)
    n_expert: int = key("expert_count", ("n_routed_experts", "num_local_experts"))
    value_dim: int = key("attention.value_length", "v_head_dim", default=128)
    value_scale: float | None = key("attention.value_scale", "attention_value_scale")
    n_rot: int = partial()
    norm_eps: float = key("attention.layer_norm_rms_epsilon", ("rms_norm_eps", "layernorm_epsilon"), default=1e-5)
    window: int = window(implied=False)
    windowed: tuple[bool, ...] = windowed(lambda c: _usual(c.n_layer), implied=False)
    rope_base_window: float = key("rope.freq_base_swa", "rope.sliding.theta", default=lambda c: c.rope_base)
    n_rot_window: int = key(
        None,
        "rope.sliding.partial_rotary_factor",
        default=lambda c: c.n_rot,
        via=Via(_alike, lambda c: (c.n_rot + 0.5) / c.head_dim),
    )
    n_dense: int = dense_lead("mlp_layer_types")
    expert_scale: float = key("expert_weights_scale", "routed_scaling_factor", default=1.0, implied=True)
    normalize: bool = key("expert_weights_norm", "norm_topk_prob", default=True, implied=True)
    gating: int = gating(SIGMOID)
    n_groups: int = n_groups()
    n_groups_used: int = n_groups_used()
    fused: bool = key(
        None,
        "attention_projection_layout",
        default=False,
        tensor="blk.0.attn_qkv.weight",
        via=Via(_layout, lambda c: "fused_qkv" if c.fused else None),
    )
    n_mtp: int = mtp.count(None, unsaid=lambda c: [c.has_mtp, c.has_second, c.has_third, False].index(False))
    mtp_norm: bool = mtp.has("layer_output_norm")

    def of_head(self, field: str) -> Any:
        """That it has a window, and as many key heads as layers that have one."""
        of_near = [each for each, near in zip(getattr(self, field), self.windowed, strict=True) if near]
        return of_near[0] if of_near else getattr(self, field)[-1]


def mimo2(c: MiMo2) -> Graph:
    """What the heads find is scaled; layers with a window have a sink for each head."""
    full, near = rope_of(c, "neox"), rope_of(c, "neox", base=c.rope_base_window, scaling=None, divisors=())
    mixture = experts(c, grouped_router(c))

    def made(kv_heads: int, near_only: bool, second: Mixer) -> Block:
        mixer = attention(
            c,
            near if near_only else full,
            kv_heads=kv_heads,
            value_dim=c.value_dim,
            fused=c.fused,
            output_bias=False,
            window=c.window if near_only else 0,
            sinks=near_only,
        )
        # The output matrix has no bias, so that what it gives can be scaled in place of what it reads.
        return Branch(rms(c, "attn_norm"), mixer, scale=c.value_scale or 1.0), Branch(rms(c, "ffn_norm"), second)

    def block(layer: int) -> Block:
        return made(c.n_head_kv[layer], c.windowed[layer], feed_forward(c) if layer < c.n_dense else mixture)

    of_head = made(c.of_head("n_head_kv"), c.of_head("windowed"), feed_forward(c))
    return mtp.with_mtp(c, decoder(c, block), lambda _: of_head, rms(c, "layer_output_norm"), normed=False)


# Settings of layers with a window that are those of the others in all published models.
_SAME = {
    "swa_head_dim": "head_dim",
    "swa_v_head_dim": "v_head_dim",
    "swa_num_attention_heads": "num_attention_heads",
}


def normalized(values: dict[str, Any]) -> dict[str, Any]:
    """config.json in Transformers' words, with a number of key heads for each layer."""
    made = dict(values)
    for name, other in _SAME.items():
        given = made.pop(name, None)
        if given is not None and given != made.get(other):
            raise UnsupportedError(
                "layers with a window of other sizes than the others",
                field=f"config.json: {name}",
                expected=f"{made.get(other)!r}, {other}",
                got=repr(given)[:80],
            )
    pattern, mixtures = made.pop("hybrid_layer_pattern", None), made.pop("moe_layer_freq", None)
    if isinstance(pattern, list):
        made["layer_types"] = _kinds(pattern)
    if isinstance(mixtures, list):
        made["mlp_layer_types"] = ["sparse" if flag else "dense" for flag in mixtures]
    layers, kv_heads = made.get("num_hidden_layers"), made.get("num_key_value_heads")
    near = made.pop("swa_num_key_value_heads", None)
    if isinstance(layers, int) and isinstance(kv_heads, int):
        kinds = made.get("layer_types") or _kinds(_usual(layers))
        wide = 2 * kv_heads if near is None else near
        made["num_key_value_heads"] = [wide if kind == "sliding_attention" else kv_heads for kind in kinds]
    size = made.pop("sliding_window_size", None)
    if isinstance(size, int):  # the keys before a query's own
        made["sliding_window"] = size + 1
    if isinstance(layers, int):
        made["mlp_layer_types"] = made.get("mlp_layer_types") or ["dense"] + ["sparse"] * (layers - 1)
    if isinstance(ropes := made.get("rope_parameters"), dict) and made.get("partial_rotary_factor") is None:
        made["rope_parameters"] = {name: _with_share(each) for name, each in ropes.items()}
    return made


def _with_share(settings: Any) -> Any:
    """The rotation of a type of layer with the share of a head that Transformers turns where it is plain and none is
    said: less than all, unlike where it is stretched."""
    if not isinstance(settings, dict) or (settings.get("rope_type") or settings.get("type")) not in (None, "default"):
        return settings
    return {"partial_rotary_factor": 0.334, **settings}


def _kinds(windowed: Iterable[Any]) -> list[str]:
    return ["sliding_attention" if flag else "full_attention" for flag in windowed]


def spelled(config: dict[str, Any]) -> dict[str, Any]:
    """An exported config.json, with one number of key heads, of which layers with a window have twice as many; of the
    class that has queries, keys and values in one matrix where these are."""
    kinds, counts = config["layer_types"], config["num_key_value_heads"]
    full = {count for kind, count in zip(kinds, counts, strict=True) if kind == "full_attention"}
    near = {count for kind, count in zip(kinds, counts, strict=True) if kind == "sliding_attention"}
    count = min(full, default=0)
    if full != {count} or not near <= {2 * count}:
        raise UnsupportedError(
            "numbers of key heads that Transformers' class does not have",
            field="attention.head_count_kv",
            expected="one number, twice as many in layers with a window",
            got=repr(counts)[:80],
        )
    of_class = {"architectures": ["MiMoV2ForCausalLM"], "model_type": "mimo_v2"}
    return {**config, "num_key_value_heads": count, **(of_class if "attention_projection_layout" in config else {})}


# Beside what Transformers' class does not read either: towers, and how many heads there are, which tensors tell.
_INERT = frozenset(
    {
        *("attention_chunk_size", "hybrid_block_size"),
        *("audio_config", "num_nextn_predict_layers", "vision_config", "vision_model_type"),
    }
)

MIMO2 = Family(
    name="mimo2",
    config=MiMo2,
    graph=mimo2,
    origins=MappingProxyType(
        {
            **DECODER_NAMES,
            **expert_names(),
            "attn_qkv": Named("self_attn.qkv_proj"),
            "attn_sinks": Named("self_attn.attention_sink_bias", bare=True),
            "exp_probs_b": Named("mlp.gate.e_score_correction_bias", bare=True),
        }
    ),
    mtp_origins=MappingProxyType(
        {
            **mtp.MTP_NAMES,
            "ffn_norm": Either((Named("pre_mlp_layernorm"), Named("post_attention_layernorm"))),
            "layer_output_norm": Named("final_layernorm"),
        }
    ),
    mtp_layers="model.mtp.layers.{i}.",
    left_out=MappingProxyType(
        {
            r"model\.mtp\.": "what predicts further tokens",
            r"visual\.": "the vision tower",
            r"(audio_encoder|speech_embeddings)\.": "the audio tower",
        }
    ),
    implemented=MappingProxyType(
        {
            **SILU,
            "add_full_attention_sink_bias": (False,),
            "add_swa_attention_sink_bias": (True,),
            "attention_bias": (False,),
            "n_shared_experts": (0,),
            "topk_method": ("noaux_tc",),
        }
    ),
    inert=INERT_KEYS | ROUTER_KEYS | _INERT,
    normalized=normalized,
    constants=exported("MiMoV2FlashForCausalLM", "mimo_v2_flash"),
    spelled=spelled,
)
