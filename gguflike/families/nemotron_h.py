"""Nemotron-H and Nemotron 3: layers of one mixer each, Mamba 2, attention without rotation, or a feed-forward."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from gguflike.errors import CheckpointError
from gguflike.families import mtp
from gguflike.families.config import Via, key
from gguflike.families.decoder import INERT_KEYS, PERMUTED_NAMES, attention, decoder, rms
from gguflike.families.family import Family
from gguflike.families.hybrid import (
    ATTENDS,
    TIME_STEP_LIMITS,
    Mamba2Hybrid,
    convolution_bias,
    mamba2,
    mamba2_origins,
    with_layer_heads,
)
from gguflike.families.mixture import experts, n_groups, n_groups_used, shared
from gguflike.families.origins import Named, Origin, Outside, Stacked
from gguflike.families.parts import Block, Branch, FeedForward, Graph, Mixer
from gguflike.families.parts.experts import Router
from gguflike.frozen import frozen, replace

_PATTERN = {"M": "mamba", "*": "attention", "-": "mlp", "E": "moe"}


def _first_scan(c: Any) -> int:
    """The first layer of Mamba 2: without key heads and without hidden values."""
    return next((layer for layer, sizes in enumerate(zip(c.n_head_kv, c.n_ff, strict=True)) if not any(sizes)), 0)


@frozen
class NemotronH(Mamba2Hybrid):
    """Hyper-parameters: a layer without key heads and without hidden values is Mamba 2."""

    n_ff: tuple[int, ...] = key(  # type: ignore[assignment]  # one value for each layer
        "feed_forward_length", "intermediate_size", array=True
    )
    # Nothing turns, but readers ask for this.
    n_rot: int = key("rope.dimension_count", None, default=lambda c: c.n_embd // c.n_head)
    rope_base: float = key(None, None, default=10000.0)
    # Of root-mean-square norms all the same.
    norm_eps: float = key("attention.layer_norm_epsilon", "layer_norm_epsilon", default=1e-5)
    kernel: int = key("ssm.conv_kernel", "conv_kernel", default=4)
    conv_bias: bool = convolution_bias("use_conv_bias", _first_scan)
    d_state: int = key("ssm.state_size", "ssm_state_size", default=128)
    groups: int = key("ssm.group_count", "n_groups", default=8)
    heads: int = key("ssm.time_step_rank", "mamba_num_heads", default=128)
    inner: int = key(
        "ssm.inner_size",
        "mamba_head_dim",
        default=lambda c: c.heads * 64,
        via=Via(read=lambda c, dim: c.heads * dim, write=lambda c: c.inner // c.heads),
    )
    # What readers take for "queries and keys turn".
    rotates: bool = key("rope.scaling.finetuned", None, default=False)


@frozen
class NemotronHMoe(mtp.Headed, NemotronH):
    """Hyper-parameters; the hidden values of a layer are those of its experts. The block of a head attends and has
    experts."""

    n_expert: int = key("expert_count", "n_routed_experts")
    n_expert_used: int = key("expert_used_count", "num_experts_per_tok", default=2)
    n_ff_expert: int = key("expert_feed_forward_length", "moe_intermediate_size")
    n_ff_shared: int = key("expert_shared_feed_forward_length", "moe_shared_expert_intermediate_size")
    n_shared: int = key("expert_shared_count", "n_shared_experts", default=1)
    normalize: bool = key("expert_weights_norm", "norm_topk_prob", default=True)
    expert_scale: float = key("expert_weights_scale", "routed_scaling_factor", default=1.0)
    n_groups: int = n_groups()
    n_groups_used: int = n_groups_used()
    latent: int | None = key("moe_latent_size", "moe_latent_size")
    n_mtp: int = mtp.count(most=1)

    def of_head(self, field: str) -> Any:
        """Key heads of a layer that attends, hidden values of one with experts."""
        return max(getattr(self, field))


def feed_forward(c: NemotronH, layer: int) -> Mixer:
    """A feed-forward without gate."""
    return FeedForward(c.n_embd, c.n_ff[layer], bias=c.mlp_bias, activation="relu2", gated=False)


def mixture(c: NemotronHMoe) -> Mixer:
    """Experts that are feed-forwards without gate, and one that all tokens share."""
    router = Router(
        "sigmoid",
        c.normalize,
        c.expert_scale,
        choice_bias="exp_probs_b.bias",
        groups=c.n_groups,
        groups_used=c.n_groups_used,
    )
    plain: dict[str, Any] = {"activation": "relu2", "gated": False}
    return experts(
        c, router, **plain, latent=c.latent or 0, shared=shared(c, c.n_ff_shared if c.n_shared else 0, **plain)
    )


def nemotron_h(c: NemotronH) -> Graph:
    """Blocks of one branch."""
    return decoder(c, _blocks(c, lambda layer: feed_forward(c, layer)))


def nemotron_h_moe(c: NemotronHMoe) -> Graph:
    """The same with experts, and heads whose blocks have two branches and whose last norm is a layer norm."""
    block = _blocks(c, lambda _: mixture(c))
    attends = attention(c, None, kv_heads=c.key_heads)
    of_head = (Branch(rms(c, "attn_norm"), attends), Branch(rms(c, "post_attention_norm"), mixture(c)))
    norm = rms(c, "nextn.shared_head_norm", kind="layer")
    return mtp.with_mtp(c, decoder(c, block), lambda _: of_head, norm)


def _blocks(c: NemotronH, after: Callable[[int], Mixer]) -> Callable[[int], Block]:
    """The block of each layer; ``after`` makes the mixers of those that neither attend nor are recurrent."""

    def block(layer: int) -> Block:
        if c.n_ff[layer]:
            mixer = after(layer)
        elif c.n_head_kv[layer]:
            mixer = attention(c, None, kv_heads=c.key_heads)
        else:
            mixer = mamba2(c)
        return (Branch(rms(c, "attn_norm"), mixer),)

    return block


def _layer_types(values: Mapping[str, Any]) -> list[str]:
    """The kinds of layers, which were letters once."""
    pattern = values.get("hybrid_override_pattern")
    given = values.get("layers_block_type") or [_PATTERN.get(letter, letter) for letter in pattern or ""]
    if not given:
        expected = "the kind of each layer, or hybrid_override_pattern"
        raise CheckpointError("required value is missing", field="config.json: layers_block_type", expected=expected)
    return [str(each) for each in given]


def normalized(values: dict[str, Any], hidden: str, kind: str) -> dict[str, Any]:
    """config.json with a number of key heads and of hidden values for each layer: those of key ``hidden`` where it is
    of the ``kind``."""
    types = _layer_types(values)
    made = with_layer_heads(values, [each in ATTENDS for each in types])
    made["intermediate_size"] = [values.get(hidden) if each == kind else 0 for each in types]
    made["num_hidden_layers"] = len(types)
    made["max_position_embeddings"] = 2**20  # as llama.cpp's converter says: nothing in these models ends
    dropped = ("layers_block_type", "hybrid_override_pattern")
    return {key: value for key, value in made.items() if key not in dropped}


def spelled(values: dict[str, Any], kind: str) -> dict[str, Any]:
    """The opposite: the kinds of layers, and sizes once for all."""
    heads, hidden = values["num_key_value_heads"], values["intermediate_size"]
    types = [kind if n_ff else "attention" if n else "mamba" for n, n_ff in zip(heads, hidden, strict=True)]
    sizes = {"num_key_value_heads": max(heads), "intermediate_size": max(hidden), "layers_block_type": types}
    return {**{key: value for key, value in values.items() if key != "num_hidden_layers"}, **sizes}


def _with_experts(values: Mapping[str, Any]) -> Family[Any] | None:
    """The family of models with experts, if this is one."""
    return NEMOTRON_H_MOE if "moe" in _layer_types(values) else None


_MOE_KEYS = frozenset(
    {
        "moe_intermediate_size",
        "moe_latent_size",
        "moe_shared_expert_intermediate_size",
        "n_group",
        "n_routed_experts",
        "n_shared_experts",
        "norm_topk_prob",
        "num_experts_per_tok",
        "routed_scaling_factor",
        "topk_group",
    }
)
_ORIGINS: Mapping[str, Origin] = {
    **PERMUTED_NAMES,
    **mamba2_origins("mixer"),
    "token_embd": Named("backbone.embeddings"),
    "attn_norm": Named("norm"),
    "attn_q": replace(PERMUTED_NAMES["attn_q"], name="mixer.q_proj"),
    "attn_k": replace(PERMUTED_NAMES["attn_k"], name="mixer.k_proj"),
    "attn_v": Named("mixer.v_proj"),
    "attn_output": Named("mixer.o_proj"),
    "ffn_up": Named("mixer.up_proj"),
    "ffn_down": Named("mixer.down_proj"),
    "output_norm": Named("backbone.norm_f"),
}


def _experts(mixer: str) -> dict[str, Origin]:
    """Where the tensors of experts come from, in a module called ``mixer``."""
    return {
        "ffn_gate_inp": Named(f"{mixer}.gate"),
        "exp_probs_b": Named(f"{mixer}.gate.e_score_correction_bias", bare=True),
        "ffn_latent_down": Named(f"{mixer}.fc1_latent_proj"),
        "ffn_latent_up": Named(f"{mixer}.fc2_latent_proj"),
        "ffn_up_exps": Stacked(f"{mixer}.experts.{{e}}.up_proj"),
        "ffn_down_exps": Stacked(f"{mixer}.experts.{{e}}.down_proj"),
        "ffn_up_shexp": Named(f"{mixer}.shared_experts.up_proj"),
        "ffn_down_shexp": Named(f"{mixer}.shared_experts.down_proj"),
    }


# A head is two layers there: one that attends, and one with experts.
_MTP_ORIGINS: Mapping[str, Origin] = {
    **mtp.MTP_NAMES,
    **{role: Outside(origin) for role, origin in _experts("mtp.layers.1.mixer").items()},
    "post_attention_norm": Outside(Named("mtp.layers.1.norm")),
    "nextn.shared_head_norm": Outside(Named("mtp.layers.1.final_layernorm")),
}
NEMOTRON_H: Family[Any] = Family(
    name="nemotron_h",
    config=NemotronH,
    graph=nemotron_h,
    origins=MappingProxyType(_ORIGINS),
    layers="backbone.layers.{i}.",
    left_out=MappingProxyType({r"mtp\.": "the head that predicts several tokens"}),
    implemented=MappingProxyType(
        {
            "mamba_hidden_act": ("silu", "swish"),
            "mamba_proj_bias": (False,),
            "mlp_hidden_act": ("relu2",),
            "time_step_limit": TIME_STEP_LIMITS,
            "use_bias": (False,),
        }
    ),
    # A configuration without experts has their keys nevertheless. time_step_min is for new models: the authors' code
    # limits steps by time_step_limit, Transformers 5 by both.
    inert=INERT_KEYS
    | _MOE_KEYS
    | {
        "chunk_size",
        "expand",
        "hidden_dropout",
        "mamba_ssm_cache_dtype",
        "moe_shared_expert_overlap",
        "mtp_hybrid_override_pattern",
        "mtp_layers_block_type",
        "num_logits_to_keep",
        "num_nextn_predict_layers",
        "output_router_logits",
        "rescale_prenorm_residual",
        "residual_in_fp32",
        "time_step_floor",
        "time_step_max",
        "time_step_min",
        "use_mamba_kernels",
    },
    constants=MappingProxyType(
        {"architectures": ["NemotronHForCausalLM"], "model_type": "nemotron_h", "mlp_hidden_act": "relu2"}
    ),
    normalized=lambda values: normalized(values, "intermediate_size", "mlp"),
    spelled=lambda values: spelled(values, "mlp"),
    variant=_with_experts,
    # llama.cpp's converter says them of models without experts, too.
    file_keys=MappingProxyType(
        dict.fromkeys(("expert_count", "expert_used_count", "expert_group_count", "expert_group_used_count"))
    ),
)

NEMOTRON_H_MOE: Family[Any] = replace(
    NEMOTRON_H,
    name="nemotron_h_moe",
    config=NemotronHMoe,
    graph=nemotron_h_moe,
    origins=MappingProxyType({**_ORIGINS, **_experts("mixer")}),
    mtp_origins=MappingProxyType(_MTP_ORIGINS),
    mtp_layers=mtp.MTP_LAYERS,
    normalized=lambda values: normalized(values, "moe_intermediate_size", "moe"),
    spelled=lambda values: spelled(values, "moe"),
    variant=None,
    file_keys=MappingProxyType({}),
)
