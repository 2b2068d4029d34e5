"""Llama 4's text tower: attention within stretches of positions, experts whose input is weighted."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

from gguflike.families.config import Via, key
from gguflike.families.decoder import (
    DECODER_NAMES,
    INERT_KEYS,
    SILU,
    attention,
    decoder,
    exported,
    feed_forward,
    pre_norm,
    recover_llama3,
    rope_of,
)
from gguflike.families.family import Family
from gguflike.families.mixture import ROUTER_KEYS, Mixture, experts, shared, shared_names
from gguflike.families.origins import Named
from gguflike.families.parts import Attention, Graph, Norm, Temperature
from gguflike.families.parts.experts import Router
from gguflike.families.transforms import Share, Transposed
from gguflike.frozen import frozen

CHUNK, PERIOD = 8192, 4  # which llama.cpp knows and files do not say


@frozen
class Llama4(Mixture):
    """Hyper-parameters; every ``step``-th layer has experts, every fourth sees all positions and turns nothing."""

    n_ff: int = key("feed_forward_length", "intermediate_size_mlp")
    n_ff_expert: int = key("expert_feed_forward_length", "intermediate_size")
    n_expert: int = key("expert_count", ("num_local_experts", "num_experts"))
    norm_eps: float = key("attention.layer_norm_rms_epsilon", "rms_norm_eps", default=1e-5)
    step: int = key("interleave_moe_layer_step", "interleave_moe_layer_step", default=1)
    # 0: layers see everything. (A missing key means CHUNK.)
    chunk: int = key(
        "attention.sliding_window",
        "attention_chunk_size",
        default=CHUNK,
        zero=True,
        implied=True,
        via=Via(read=lambda _, value: value, write=lambda c: c.chunk or CHUNK),
    )
    qk_norm: bool = key("gguflike.use_qk_norm", "use_qk_norm", default=lambda c: c.n_expert != 128, implied=True)


def llama4(c: Llama4) -> Graph:
    """Pre-norm blocks; a feed-forward that all tokens share beside the one expert of each."""
    rope = rope_of(c, "norm")
    norm = Norm("", c.head_dim, c.norm_eps, weight=False) if c.qk_norm else None
    router = Router("raw", normalize=False)
    mixture = experts(c, router, weight_first=True, shared=shared(c, c.n_ff_expert))

    def mixer(layer: int) -> Attention:
        if c.chunk and layer % PERIOD == PERIOD - 1:
            return attention(c, None, temperature=Temperature(0.1, float(CHUNK), 1.0))
        turned = {"q_norm": norm, "k_norm": norm, "norm_after_rope": True}
        return attention(c, rope, window=c.chunk, chunked=bool(c.chunk), **turned)

    def after(layer: int) -> Any:
        return mixture if layer % c.step == c.step - 1 else feed_forward(c)

    return decoder(c, lambda layer: pre_norm(c, mixer(layer), after(layer)))


def notices(c: Llama4) -> list[str]:
    """What llama.cpp does not compute of files of this architecture."""
    said = f"llama.cpp takes stretches of {CHUNK} positions in this architecture, this model {c.chunk}"
    return [said] if c.chunk not in (0, CHUNK) else []


def normalized(values: dict[str, Any]) -> dict[str, Any]:
    """config.json without lists of layers that say what the graph does anyway, and no stretches where all layers see
    everything."""
    made, layers = dict(values), range(values.get("num_hidden_layers") or 0)
    kinds = made.pop("layer_types", None)
    full = [layer % PERIOD == PERIOD - 1 for layer in layers]
    if kinds is not None and all(kind == "full_attention" for kind in kinds):
        made["attention_chunk_size"], full = 0, [False] * len(layers)
    elif kinds is not None and kinds != ["full_attention" if each else "chunked_attention" for each in full]:
        made["layer_types"] = kinds
    if made.get("no_rope_layers") in ([], [int(not each) for each in full]):
        made.pop("no_rope_layers")
    step = made.get("interleave_moe_layer_step") or 1
    if made.get("moe_layers") == [layer for layer in layers if layer % step == step - 1]:
        made.pop("moe_layers")
    return made


LLAMA4 = Family(
    name="llama4",
    config=Llama4,
    graph=llama4,
    origins=MappingProxyType(
        {
            **DECODER_NAMES,
            **{f"ffn_{role}": Named(f"feed_forward.{role}_proj") for role in ("gate", "up", "down")},
            **shared_names("feed_forward.shared_expert"),
            "ffn_gate_inp": Named("feed_forward.router"),
            "ffn_gate_exps": Named("feed_forward.experts.gate_up_proj", Share(index=0, transposed=True), bare=True),
            "ffn_up_exps": Named("feed_forward.experts.gate_up_proj", Share(index=1, transposed=True), bare=True),
            "ffn_down_exps": Named("feed_forward.experts.down_proj", Transposed(), bare=True),
        }
    ),
    left_out=MappingProxyType({r"(model\.)?(vision_model|multi_modal_projector)\.": "the vision tower"}),
    implemented=MappingProxyType(
        {
            **SILU,
            "attn_scale": (0.1,),
            "attn_temperature_tuning": (True, 1, 4),
            "floor_scale": (CHUNK,),
            "for_llm_compressor": (False,),
            "no_rope_layer_interval": (PERIOD,),
        }
    ),
    inert=INERT_KEYS | ROUTER_KEYS | {"image_token_index", "boi_token_index", "eoi_token_index"},
    constants=exported("Llama4ForCausalLM", "llama4_text"),
    normalized=normalized,
    notices=notices,
    recover=recover_llama3,
)
