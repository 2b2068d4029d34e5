"""Jina Embeddings v3 (Sturua et al. 2024, arXiv:2409.10173): XLM-RoBERTa that turns, without its adapters."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

from gguflike.families.bert import INERT_KEYS, Encoder, encoder
from gguflike.families.config import key
from gguflike.families.family import Family
from gguflike.families.origins import Named
from gguflike.families.parts import Attention, FeedForward, Graph, Rope
from gguflike.frozen import frozen


@frozen
class JinaV3(Encoder):
    """Hyper-parameters."""

    norm_eps: float = key("attention.layer_norm_epsilon", "layer_norm_eps", default=1e-5)
    rope_base: float = key("rope.freq_base", "rope.theta", default=20000.0)


def jina_v3(c: JinaV3) -> Graph:
    """BERT's order, with biases everywhere, and queries and keys that turn."""
    dim = c.n_embd // c.n_head
    rope = Rope(dim, c.rope_base, "neox")
    attention = Attention(c.n_embd, c.n_head, c.n_head, dim, rope, True, True, fused=True, causal=c.causal)
    feed_forward = FeedForward(c.n_embd, c.n_ff, bias=True, activation="gelu", gated=False)
    return encoder(c, attention, lambda _: feed_forward)


# Positions that XLM-RoBERTa, from which the configuration was taken, leaves unused, and where its padding stands.
_UNUSED, _PADDING = 2, 1


def _normalized(values: dict[str, Any]) -> dict[str, Any]:
    """config.json with the positions that there can be."""
    positions = values.get("max_position_embeddings", 8194)
    return {**values, "max_position_embeddings": None if positions is None else positions - _UNUSED}


def _spelled(config: dict[str, Any]) -> dict[str, Any]:
    """An exported config.json, without labels: these models score nothing."""
    made = {name: value for name, value in config.items() if name not in ("scored", "n_labels", "labels")}
    return {**made, "max_position_embeddings": made["max_position_embeddings"] + _UNUSED, "pad_token_id": _PADDING}


JINA_V3 = Family(
    name="jina-bert-v3",
    config=JinaV3,
    graph=jina_v3,
    layers="encoder.layers.{i}.",
    origins=MappingProxyType(
        {
            "token_embd": Named("embeddings.word_embeddings"),
            "token_types": Named("embeddings.token_type_embeddings"),
            "token_embd_norm": Named("emb_ln"),
            "attn_qkv": Named("mixer.Wqkv"),
            "attn_output": Named("mixer.out_proj"),
            "attn_output_norm": Named("norm1"),
            "ffn_up": Named("mlp.fc1"),
            "ffn_down": Named("mlp.fc2"),
            "layer_output_norm": Named("norm2"),
        }
    ),
    left_out=MappingProxyType(
        {r"pooler\.": "the pooler, which embeddings do not use,", r"lm_head\.": "the head of pretraining"}
    ),
    renamed=((r"^roberta\.", ""),),
    inert=INERT_KEYS,
    implemented=MappingProxyType({"hidden_act": ("gelu",), "tie_word_embeddings": (True, False)}),
    constants=MappingProxyType(
        {"architectures": ["JinaEmbeddingsV3Model"], "model_type": "jina_embeddings_v3", "hidden_act": "gelu"}
    ),
    normalized=_normalized,
    spelled=_spelled,
)
