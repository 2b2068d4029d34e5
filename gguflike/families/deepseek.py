"""Models with multi-head latent attention: DeepSeek V2 and V3, GLM 4.7 Flash, Youtu, Mistral 4.

GGUF stores it absorbed, with one key head: keys are the latent and the rotated key, values are the latent.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from types import MappingProxyType
from typing import Any, Literal

from gguflike.errors import UnsupportedError
from gguflike.families import mtp
from gguflike.families.config import Via, key
from gguflike.families.decoder import (
    DECODER_NAMES,
    INERT_KEYS,
    SILU,
    Decoder,
    decoder,
    exported,
    feed_forward,
    rms,
    rope_of,
)
from gguflike.families.family import Family, said
from gguflike.families.mistral3 import LEFT_OUT
from gguflike.families.mixture import (
    ROUTER_KEYS,
    SCORINGS,
    SIGMOID,
    SOFTMAX,
    Mixture,
    dense_lead,
    expert_names,
    experts,
    gating,
    shared,
    shared_names,
    unsaid_is_one_dense,
)
from gguflike.families.origins import Named, Piece, suffixed
from gguflike.families.parts import Block, Branch, Graph, Mixer, Norm, Rope, Scaling, Temperature, Tensor
from gguflike.families.parts.experts import Router
from gguflike.families.parts.latent import LatentAttention
from gguflike.families.rope import yarn_magnitude
from gguflike.families.transforms import IDENTITY, Transposed
from gguflike.frozen import frozen, replace


@frozen
class Latent:
    """Sizes of latent attention: of the latents of queries and of keys, of a head's rotated and other dimensions
    together, and of its values."""

    rope_dim: int = key("rope.dimension_count", "qk_rope_head_dim", default=64)
    kv_rank: int = key("attention.kv_lora_rank", "kv_lora_rank", default=512)
    q_rank: int | None = key("attention.q_lora_rank", "q_lora_rank")
    key_dim: int = key(
        "attention.key_length_mla",
        "qk_nope_head_dim",
        default=lambda c: 128 + c.rope_dim,
        via=Via(read=lambda c, nope: nope + c.rope_dim, write=lambda c: c.key_dim - c.rope_dim),
    )
    value_dim: int = key("attention.value_length_mla", "v_head_dim", default=128)


@frozen
class DeepSeek(Mixture, Latent):
    """Hyper-parameters. ``log_multiplier`` is a tenth of config.json's mscale_all_dim, as llama.cpp has it for this
    architecture; ``gating`` is a key of SCORINGS."""

    n_head_kv: int = key("attention.head_count_kv", None, default=1)
    head_dim: int = key("attention.key_length", None, default=lambda c: c.kv_rank + c.rope_dim)
    value_length: int = key("attention.value_length", None, default=lambda c: c.kv_rank)
    n_rot: int = key(None, None, default=lambda c: c.rope_dim)
    log_multiplier: float | None = key(
        "rope.scaling.yarn_log_multiplier",
        "rope.scaling.mscale_all_dim",
        via=Via(
            read=lambda _, scale: 0.1 * scale, write=lambda c: c.log_multiplier and round(10 * c.log_multiplier, 6)
        ),
    )
    temperature: float | None = key("attention.temperature_scale", "rope.temperature")
    temperature_length: int | None = key(
        "attention.temperature_length",
        None,
        default=lambda c: None if c.temperature is None else c.rope_context or c.n_ctx,
    )
    n_expert: int = key("expert_count", "n_routed_experts", default=0, zero=True, implied=True)
    n_expert_used: int = key("expert_used_count", "num_experts_per_tok", default=0, zero=True, implied=True)
    n_ff_expert: int = key("expert_feed_forward_length", "moe_intermediate_size", default=lambda c: c.n_ff)
    n_dense: int = dense_lead(
        "first_k_dense_replace", "mlp_layer_types", default=lambda c: 0 if c.n_expert else c.n_layer
    )
    n_shared: int = key("expert_shared_count", "n_shared_experts", default=0, zero=True)
    expert_scale: float | None = key("expert_weights_scale", "routed_scaling_factor")
    normalize: bool = key("expert_weights_norm", "norm_topk_prob", default=False, implied=True)
    gating: int = replace(gating(SOFTMAX), implied=True)
    fused: bool = key(None, None, tensor=lambda c: f"blk.{c.n_dense}.ffn_gate_up_exps.weight")
    choice_bias: bool = key(None, None, tensor=lambda c: f"blk.{c.n_dense}.exp_probs_b.bias")
    n_groups: int | None = key("expert_group_count", "n_group")
    n_groups_used: int | None = key("expert_group_used_count", "topk_group")


@frozen
class DeepSeekHeaded(mtp.Headed, DeepSeek):
    """The same of models that may have multi-token-prediction heads."""


def deepseek(c: DeepSeek) -> Graph:
    """Pre-norm blocks of latent attention and, after the first dense layers, experts beside shared ones.

    V2, whose scores are a softmax, takes the groups of the best experts, V3 those of the best two together.
    """
    attention = latent_attention(c)
    return latent_decoder(c, lambda _: attention, "max" if c.gating == SOFTMAX else "top2")


def mistral4(c: DeepSeek) -> Graph:
    """The same with a softmax and the groups of the best two experts together."""
    attention = latent_attention(c)
    return latent_decoder(c, lambda _: attention)


def latent_decoder(
    c: DeepSeek, attention: Callable[[int], LatentAttention], group_score: Literal["max", "top2"] = "top2"
) -> Graph:
    """A graph of pre-norm blocks with the ``attention`` of each layer, and experts after the first dense layers."""

    def block(layer: int) -> Block:
        second: Mixer = feed_forward(c) if layer < c.n_dense else mixture(c, group_score)
        return (Branch(rms(c, "attn_norm"), attention(layer)), Branch(rms(c, "ffn_norm"), second))

    graph = decoder(c, block)
    return mtp.with_mtp(c, graph, block) if isinstance(c, mtp.Headed) else graph


LATENT_EPS = 1e-6


def latent_norm(role: str, size: int) -> Norm:
    """The norm of latents, whose epsilon is the same in all models, whatever they say of their other norms."""
    return Norm(role, size, LATENT_EPS)


def latent_notices(c: DeepSeek, known: bool = True) -> list[str]:
    """What llama.cpp does not compute of latents and of how their scores grow; ``known``: it takes mscale to be what
    mscale_all_dim is, and else 1."""
    scaling = rope_of_latent(c).scaling
    grows = scaling is not None and scales(scaling) != 1.0
    unlike = not known and c.log_multiplier is not None and abs(c.log_multiplier - 0.1) > 1e-6
    return [*norm_notices(c), *([TWICE] if grows or unlike else [])]


def _v2_notices(c: DeepSeek) -> list[str]:
    """The same of DeepSeek V2, whose weights of experts the model's authors divide by their sum, once config.json says
    so (norm_topk_prob); so does llama.cpp."""
    divides = c.normalize and c.gating == SOFTMAX and c.n_expert
    said = (
        "weights of experts are divided by their sum (norm_topk_prob), as in the code of the model's authors: "
        "DeepseekV2ForCausalLM of Transformers does not, and computes otherwise"
    )
    return [*latent_notices(c), *([said] if divides else [])]


def scales(scaling: Scaling) -> float:
    """By what llama.cpp takes a rotation to be multiplied: by a magnitude, which it has of linear scaling, too."""
    if scaling.kind == "yarn" and scaling.magnitude is not None:
        return scaling.magnitude
    return yarn_magnitude(scaling.factor)


TWICE = (
    "llama.cpp multiplies scores by the square of the magnitude of stretched rotations in this architecture, whose "
    "products have it already: it computes otherwise"
)


def norm_notices(c: Decoder) -> list[str]:
    """What llama.cpp does not compute of norms of latents."""
    if abs(c.norm_eps - LATENT_EPS) <= 1e-3 * LATENT_EPS:
        return []
    return [f"llama.cpp adds {c.norm_eps:g} in the norms of latents, as in others, and this model {LATENT_EPS:g}"]


def latent_attention(c: DeepSeek) -> LatentAttention:
    """Latent attention with the configuration's sizes."""
    rope = rope_of_latent(c)
    # Scores grow with the square of YaRN's magnitude for mscale_all_dim.
    grown = yarn_magnitude(c.rope_factor or 1.0, 10 * c.log_multiplier) if c.log_multiplier else 1.0
    return LatentAttention(
        c.n_embd,
        c.n_head,
        c.q_rank or 0,
        c.kv_rank,
        c.key_dim - c.rope_dim,
        c.rope_dim,
        c.value_dim,
        grown**2 / c.key_dim**0.5,
        rope,
        latent_norm("attn_kv_a_norm", c.kv_rank),
        latent_norm("attn_q_a_norm", c.q_rank) if c.q_rank else None,
        bias=c.attention_bias,
        temperature=None if c.temperature is None else Temperature(c.temperature, float(c.temperature_length or 1)),
    )


def rope_of_latent(c: DeepSeek) -> Rope:
    """Where scores grow by mscale_all_dim, cosines and sines are multiplied by what the file says and nothing else."""
    rope = rope_of(c, "norm")
    if rope.scaling is None or not c.log_multiplier:
        return rope
    return replace(rope, scaling=replace(rope.scaling, magnitude=c.yarn_attn_factor or c.rope_attn_factor or 1.0))


def mixture(c: DeepSeek, group_score: Literal["max", "top2"]) -> Mixer:
    """Experts beside shared ones, with the configuration's sizes."""
    router = Router(
        SCORINGS[c.gating],
        c.normalize,
        c.expert_scale or 1.0,
        choice_bias="exp_probs_b.bias" if c.choice_bias else None,
        groups=c.n_groups or 1,
        groups_used=c.n_groups_used or 1,
        group_score=group_score,
    )
    return experts(c, router, fused=c.fused, shared=shared(c, c.n_ff_expert * c.n_shared))


@frozen
class _OfHeads:
    """Rows of ``kv_b_proj``, which has for each head those that make keys, which GGUF has as columns, and then those
    that make ``values``."""

    values: bool

    def names(self, prefix: str, tensor: Tensor) -> list[str]:
        return [prefix + suffixed("self_attn.kv_b_proj", tensor)]

    def pieces(self, prefix: str, tensor: Tensor, c: DeepSeek) -> list[Piece]:
        nope, each = c.key_dim - c.rope_dim, c.key_dim - c.rope_dim + c.value_dim
        rows, before = (c.value_dim, nope) if self.values else (nope, 0)
        via = IDENTITY if self.values else Transposed()
        shape = (c.n_head * each, c.kv_rank)
        [name] = self.names(prefix, tensor)
        return [Piece(name, shape, 1, rows, head * each + before, via, stacked=True) for head in range(c.n_head)]


def normalized(values: dict[str, Any]) -> dict[str, Any]:
    """Without what the absorbed form does not say, and without groups where experts are chosen among all."""
    made = {
        key: value for key, value in values.items() if key not in ("num_key_value_heads", "head_dim", "qk_head_dim")
    }
    if made.pop("topk_method", None) == "greedy":
        made |= {name: 1 for name in ("n_group", "topk_group") if made.get(name)}
    if made.get("mlp_layer_types") is not None:
        made.pop("first_k_dense_replace", None)  # which counts where kinds of layers are not listed
    made.pop("partial_rotary_factor", None)
    ropes = made.get("rope_parameters")
    if isinstance(ropes, dict):
        without = ("partial_rotary_factor", "max_position_embeddings")
        made["rope_parameters"] = {key: value for key, value in ropes.items() if key not in without}
    return made


def _of_v2(values: dict[str, Any]) -> dict[str, Any]:
    """Of DeepSeek V2, whose code does not divide the weight of a single expert by itself."""
    made = normalized(values)
    return {**made, "norm_topk_prob": False} if made.get("num_experts_per_tok") == 1 else made


def _whole_heads(values: dict[str, Any]) -> dict[str, Any]:
    """Of Mistral 4, of whose heads the share turns that Transformers takes of head_dim. UnsupportedError for another
    than of as many dimensions as turn."""
    size, nope, turned = (values.get(name) for name in ("head_dim", "qk_nope_head_dim", "qk_rope_head_dim"))
    if size is not None and nope is not None and turned is not None and size != nope + turned:
        raise UnsupportedError(
            "a size of heads that is not that of their parts",
            field="config.json: head_dim",
            expected=f"{nope + turned}, qk_nope_head_dim and qk_rope_head_dim together",
            got=size,
        )
    return normalized(values)


def _sigmoid(values: dict[str, Any]) -> dict[str, Any]:
    """Of classes whose router has sigmoids, whether config.json says so or not."""
    return normalized({"scoring_func": "sigmoid", **values})


def _without_heads(values: dict[str, Any]) -> dict[str, Any]:
    """Of DeepSeek V3, whose heads are as large as many models; llama.cpp's converter leaves them out, too."""
    return {**_sigmoid(values), "num_nextn_predict_layers": 0}


def spelled(config: dict[str, Any]) -> dict[str, Any]:
    """With as many key heads as query heads, as the checkpoint's form has, and DeepSeek's ways of choosing."""
    made = {**config, "num_key_value_heads": config["num_attention_heads"]}
    if made["model_type"] == "deepseek_v2":
        made["topk_method"] = "group_limited_greedy" if made.get("n_group", 1) > 1 else "greedy"
    made.setdefault("q_lora_rank", None)  # which is not what its absence means
    if made["model_type"] == "mistral4":
        share = made["qk_rope_head_dim"] / (made["qk_rope_head_dim"] + made["qk_nope_head_dim"])
        stretched = {"rope_type": "default", **(made.pop("rope_scaling", None) or {})}
        made["rope_parameters"] = {**stretched, "rope_theta": made.pop("rope_theta"), "partial_rotary_factor": share}
    if made["model_type"] == "youtu":
        for name in ("moe_intermediate_size", "first_k_dense_replace", "n_shared_experts", "n_routed_experts"):
            made.pop(name, None)
    return made


_ORIGINS = MappingProxyType(
    {
        **DECODER_NAMES,
        **expert_names(),
        **shared_names("mlp.shared_experts"),
        "exp_probs_b": Named("mlp.gate.e_score_correction_bias", bare=True),
        "attn_q_a": Named("self_attn.q_a_proj"),
        "attn_q_a_norm": Named("self_attn.q_a_layernorm"),
        "attn_q_b": Named("self_attn.q_b_proj"),
        "attn_kv_a_mqa": Named("self_attn.kv_a_proj_with_mqa"),
        "attn_kv_a_norm": Named("self_attn.kv_a_layernorm"),
        "attn_k_b": _OfHeads(values=False),
        "attn_v_b": _OfHeads(values=True),
    }
)


def _of_file(metadata: Mapping[str, Any], tensors: Collection[str]) -> Family[Any] | None:
    """The class that a file was made of: by whether it has experts, how their logits become scores, and whether heads
    were kept."""
    if not said(metadata, "deepseek2.expert_count"):
        return YOUTU
    if said(metadata, "deepseek2.expert_gating_func") != SIGMOID:
        return None
    return GLM4_MOE_LITE if any(".nextn.eh_proj." in name for name in tensors) else DEEPSEEK_V3


DEEPSEEK_V2 = Family(
    name="deepseek2",
    config=DeepSeekHeaded,
    graph=deepseek,
    origins=_ORIGINS,
    mtp_origins=mtp.MTP_NAMES,
    implemented=MappingProxyType({**SILU, "moe_layer_freq": (1,), "rope_interleave": (True,)}),
    inert=INERT_KEYS
    | ROUTER_KEYS
    | {"aux_loss_alpha", "ep_size", "num_nextn_predict_layers", "seq_aux", "embedding_initializer_range"},
    constants=exported("DeepseekV2ForCausalLM", "deepseek_v2"),
    normalized=_of_v2,
    spelled=spelled,
    notices=_v2_notices,
    file_variant=_of_file,
)
DEEPSEEK_V3 = replace(
    DEEPSEEK_V2,
    constants=exported("DeepseekV3ForCausalLM", "deepseek_v3"),
    normalized=_without_heads,
)
GLM4_MOE_LITE = replace(
    DEEPSEEK_V2,
    constants=exported("Glm4MoeLiteForCausalLM", "glm4_moe_lite"),
    normalized=lambda values: _sigmoid(unsaid_is_one_dense(values)),
)
YOUTU = replace(
    DEEPSEEK_V2,
    constants=exported("YoutuForCausalLM", "youtu"),
    normalized=normalized,
)
MISTRAL4 = replace(
    DEEPSEEK_V2,
    name="mistral4",
    file_variant=None,
    graph=mistral4,
    origins=MappingProxyType(
        {
            **_ORIGINS,
            "ffn_gate_up_exps": Named("mlp.experts.gate_up_proj", bare=True),
            "ffn_down_exps": Named("mlp.experts.down_proj", bare=True),
        }
    ),
    left_out=LEFT_OUT,
    normalized=_whole_heads,
    notices=latent_notices,
    constants=exported("Mistral4ForCausalLM", "mistral4"),
)
