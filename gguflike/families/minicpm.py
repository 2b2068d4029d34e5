"""MiniCPM: Llama with scales; MiniCPM 3: the same with latent attention, whose matrices GGUF keeps together."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

from gguflike.errors import UnsupportedError
from gguflike.families.config import Via, key
from gguflike.families.decoder import (
    DECODER_NAMES,
    INERT_KEYS,
    LONGROPE_NAMES,
    PERMUTED_NAMES,
    SILU,
    LongRope,
    attention,
    decoder,
    exported,
    feed_forward,
    first_context,
    longrope_of,
    recover_longrope,
)
from gguflike.families.deepseek import latent_norm, norm_notices
from gguflike.families.family import Family
from gguflike.families.granite import scaled_block, scales
from gguflike.families.origins import Named
from gguflike.families.parts import Graph
from gguflike.families.parts.latent import LatentAttention
from gguflike.frozen import frozen

# The published models', which llama.cpp takes for all files of MiniCPM 3.
_EMBEDDING, _DEPTH, _BASE = 12.0, 1.4, 256


def _all_heads(c: Any, heads: Any) -> Any:
    if heads != c.n_head:
        raise ValueError(f"{c.n_head}, num_attention_heads: each head has keys of its own")
    return heads


def _embedding_scale(*, implied: bool) -> Any:
    """The field of what embeddings are multiplied by."""
    return key("embedding_scale", "scale_emb", default=_EMBEDDING, implied=implied)


def _residual_scale(*, implied: bool) -> Any:
    """The field of what results of mixers are multiplied by: a depth over the root of the number of layers."""
    return key(
        "residual_scale",
        "scale_depth",
        default=lambda c: _DEPTH / c.n_layer**0.5,
        implied=implied,
        via=Via(
            read=lambda c, depth: depth / c.n_layer**0.5, write=lambda c: round(c.residual_scale * c.n_layer**0.5, 6)
        ),
    )


def _logit_scale(*, implied: bool) -> Any:
    """The field of what logits are divided by: how much wider the model is than a base."""
    return key(
        "logit_scale",
        "dim_model_base",
        default=lambda c: c.n_embd / _BASE,
        implied=implied,
        via=Via(read=lambda c, base: c.n_embd / base, write=lambda c: round(c.n_embd / c.logit_scale)),
    )


@frozen
class MiniCPM(LongRope):
    """Hyper-parameters: what embeddings and results of mixers are multiplied by, and logits divided."""

    rope_context: int | None = first_context()
    norm_eps: float = key("attention.layer_norm_rms_epsilon", "rms_norm_eps", default=1e-6)
    embedding_scale: float = _embedding_scale(implied=False)
    residual_scale: float = _residual_scale(implied=False)
    logit_scale: float = _logit_scale(implied=False)


def minicpm(c: MiniCPM) -> Graph:
    """Llama's blocks, whose results are scaled."""
    block = scaled_block(c, attention(c, longrope_of(c, "norm")), feed_forward(c))
    return decoder(c, lambda _: block, **scales(c))


@frozen
class MiniCPM3(LongRope):
    """Hyper-parameters: what embeddings and results of mixers are multiplied by, and logits divided."""

    n_head_kv: int = key(
        "attention.head_count_kv",
        "num_key_value_heads",
        default=lambda c: c.n_head,
        via=Via(_all_heads, lambda c: c.n_head, _all_heads),
    )
    head_dim: int = key(None, None, default=lambda c: c.n_embd // c.n_head)
    n_rot: int = key("rope.dimension_count", "qk_rope_head_dim", default=32)
    rope_context: int | None = first_context()
    norm_eps: float = key("attention.layer_norm_rms_epsilon", "rms_norm_eps", default=1e-5)
    kv_rank: int = key("attention.kv_lora_rank", "kv_lora_rank", default=256)
    q_rank: int = key("attention.q_lora_rank", "q_lora_rank", default=768)
    key_dim: int = key(
        "attention.key_length",
        "qk_nope_head_dim",
        default=lambda c: 64 + c.n_rot,
        via=Via(read=lambda c, nope: nope + c.n_rot, write=lambda c: c.key_dim - c.n_rot),
    )
    value_dim: int = key("attention.value_length", "v_head_dim", default=lambda c: c.head_dim)
    embedding_scale: float = _embedding_scale(implied=True)
    residual_scale: float = _residual_scale(implied=True)
    logit_scale: float = _logit_scale(implied=True)


def minicpm3(c: MiniCPM3) -> Graph:
    """Pre-norm blocks whose results are scaled; halves of what turns of a head turn together."""
    mixer = LatentAttention(
        c.n_embd,
        c.n_head,
        c.q_rank,
        c.kv_rank,
        c.key_dim - c.n_rot,
        c.n_rot,
        c.value_dim,
        c.key_dim**-0.5,
        longrope_of(c, "neox"),
        latent_norm("attn_kv_a_norm", c.kv_rank),
        latent_norm("attn_q_a_norm", c.q_rank),
        together=True,
    )
    block = scaled_block(c, mixer, feed_forward(c))
    return decoder(c, lambda _: block, **scales(c))


def normalized(values: dict[str, Any]) -> dict[str, Any]:
    """Without the sizes of heads that others say, and with scales of null, which do nothing."""
    made = {key: value for key, value in values.items() if key not in ("head_dim", "qk_head_dim")}
    for name, like in (("scale_depth", "num_hidden_layers"), ("dim_model_base", "hidden_size")):
        size = made.get(like)
        if name in made and made[name] is None and isinstance(size, int):
            made[name] = size**0.5 if name == "scale_depth" else size
    return made


def _unscaled(values: dict[str, Any]) -> dict[str, Any]:
    """config.json of MiniCPM 3. UnsupportedError where scores grow with how far positions are stretched."""
    ropes = [values.get(name) or {} for name in ("rope_parameters", "rope_scaling")]
    grown = next((each["mscale_all_dim"] for each in ropes if each.get("mscale_all_dim")), None)
    if grown is not None:
        raise UnsupportedError(
            "a factor of scores, which GGUF has no key for in this architecture",
            field="config.json: rope_parameters.mscale_all_dim",
            expected="none",
            got=grown,
        )
    return normalized(values)


def notices(c: MiniCPM3) -> list[str]:
    """What llama.cpp does not compute of files of this architecture."""
    scales = (c.embedding_scale, c.residual_scale, c.logit_scale)
    usual = (_EMBEDDING, _DEPTH / c.n_layer**0.5, c.n_embd / _BASE)
    if all(abs(a - b) <= 1e-6 * b for a, b in zip(scales, usual, strict=True)):
        return norm_notices(c)
    said = f"scale_emb {_EMBEDDING:g}, scale_depth {_DEPTH:g} and dim_model_base {_BASE}"
    return [f"llama.cpp takes {said} for all models of this architecture; this one says otherwise", *norm_notices(c)]


# As of the models' own code, which Transformers has none for.
_ASSUMED = {"tie_word_embeddings": True, "scale_emb": 1, "dim_model_base": 1, "scale_depth": 1}
_CODE = {
    "AutoConfig": "configuration_minicpm.MiniCPMConfig",
    "AutoModelForCausalLM": "modeling_minicpm.MiniCPMForCausalLM",
}

MINICPM = Family(
    name="minicpm",
    config=MiniCPM,
    graph=minicpm,
    origins=MappingProxyType({**PERMUTED_NAMES, **LONGROPE_NAMES}),
    implemented=MappingProxyType({**SILU, "attention_bias": (False,), "mlp_bias": (False,), "num_experts": (0,)}),
    inert=INERT_KEYS,
    constants=exported("MiniCPMForCausalLM", "minicpm", auto_map=_CODE),
    normalized=lambda values: normalized({**_ASSUMED, **values}),
    recover=recover_longrope,
)
MINICPM3 = Family(
    name="minicpm3",
    config=MiniCPM3,
    graph=minicpm3,
    origins=MappingProxyType(
        {
            **DECODER_NAMES,
            **LONGROPE_NAMES,
            "attn_q_a": Named("self_attn.q_a_proj"),
            "attn_q_a_norm": Named("self_attn.q_a_layernorm"),
            "attn_q_b": Named("self_attn.q_b_proj"),
            "attn_kv_a_mqa": Named("self_attn.kv_a_proj_with_mqa"),
            "attn_kv_a_norm": Named("self_attn.kv_a_layernorm"),
            "attn_kv_b": Named("self_attn.kv_b_proj"),
        }
    ),
    implemented=MappingProxyType({**SILU, "attention_bias": (False,), "mlp_bias": (False,)}),
    inert=INERT_KEYS,
    constants=exported("MiniCPM3ForCausalLM", "minicpm3"),
    normalized=_unscaled,
    notices=notices,
    recover=recover_longrope,
)
