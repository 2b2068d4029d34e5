"""ModernBERT (Warner et al. 2024, arXiv:2412.13663)."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

from gguflike.errors import UnsupportedError
from gguflike.families.bert import INERT_KEYS, Encoder
from gguflike.families.config import key
from gguflike.families.family import Family
from gguflike.families.origins import Named
from gguflike.families.parts import Attention, Block, Branch, Embedding, FeedForward, Graph, Norm, Rope
from gguflike.families.parts.extras import Layer, Pooling
from gguflike.families.pooling import kind_of, labelled, spelled_labels
from gguflike.frozen import frozen


@frozen
class ModernBert(Encoder):
    """``period``: one layer of so many, the first to begin with, attends to everything; the others to the tokens at
    most ``window`` // 2 away. ``gate`` is the activation of the feed-forward."""

    types: int = key(None, None, default=1)
    norm_eps: float = key("attention.layer_norm_epsilon", "norm_eps", default=1e-5)
    n_vocab: int = key("vocab_size", "vocab_size")
    window: int = key("attention.sliding_window", "local_attention", default=128)
    period: int = key("attention.sliding_window_pattern", "global_attn_every_n_layers", default=3)
    rope_base: float = key("rope.freq_base", "rope.theta", default=160000.0)
    rope_base_window: float = key("rope.freq_base_swa", "rope.sliding.theta", default=10000.0)
    rope_scaling: str | None = key("rope.scaling.type", None, default="none")
    gate: str = key("hidden_activation", "hidden_activation", default="gelu")
    classifier_pooling: int | None = key("classifier.pooling_type", "classifier_pooling")
    dense_bias: bool = key(None, "classifier_bias", default=False, tensor="cls.bias")


def modern_bert(c: ModernBert) -> Graph:
    """Pre-norm blocks, of which the first attends to embeddings that are normalized already."""
    dim = c.n_embd // c.n_head

    def norm(role: str) -> Norm:
        return Norm(role, c.n_embd, c.norm_eps, "layer")

    def block(layer: int) -> Block:
        everything = layer % c.period == 0
        attention = Attention(
            c.n_embd,
            c.n_head,
            c.n_head,
            dim,
            Rope(dim, c.rope_base if everything else c.rope_base_window, "neox"),
            fused=True,
            causal=c.causal,
            window=0 if everything else c.window,
        )
        gate = "silu" if c.gate == "silu" else "gelu"
        feed_forward = FeedForward(c.n_embd, c.n_ff, activation=gate, fused=True)  # type: ignore[arg-type]
        return (Branch(norm("attn_norm") if layer else None, attention), Branch(norm("ffn_norm"), feed_forward))

    embedding = Embedding(c.n_vocab, c.n_embd, norm=norm("token_embd_norm"))
    blocks = tuple(block(layer) for layer in range(c.n_layer))
    return Graph(embedding, blocks, norm("output_norm"), _pooled(c, norm))


def _pooled(c: ModernBert, norm: Any) -> Pooling:
    if not c.scored:
        return Pooling(kind_of(c.pooling), c.n_embd)
    dense = Layer("cls", c.n_embd, c.n_embd, bias=c.dense_bias, activation="gelu", norm=norm("cls.norm"))
    output = Layer("cls.output", c.n_labels, c.n_embd, bias=True)
    kind = kind_of(c.classifier_pooling or 1)
    return Pooling(kind, c.n_embd, (dense, output), c.labels or ("",) * c.n_labels)


def normalized(values: dict[str, Any]) -> dict[str, Any]:
    """Transformers 5's layer types as the period of before."""
    made = labelled(values)
    if "classifier_pooling" in made:
        made["classifier_pooling"] = {"mean": 1, "cls": 2}.get(made["classifier_pooling"])
    kinds = made.pop("layer_types", None)
    if kinds is not None:
        made["global_attn_every_n_layers"] = _period(kinds)
    return made


def _period(kinds: list[str]) -> int:
    """How many layers from one that attends to everything to the next."""
    for period in range(1, len(kinds) + 1):
        if all((kind == "full_attention") == (layer % period == 0) for layer, kind in enumerate(kinds)):
            return period
    raise UnsupportedError(
        "order of layers", field="config.json: layer_types", expected="every n-th one full, from the first", got=kinds
    )


def spelled(config: dict[str, Any]) -> dict[str, Any]:
    made = spelled_labels("ModernBert")(config)
    period = made["global_attn_every_n_layers"]
    kinds = ["sliding_attention" if i % period else "full_attention" for i in range(made["num_hidden_layers"])]
    number = made.pop("classifier_pooling", None)
    made["classifier_pooling"] = {1: "mean", 2: "cls"}.get(number, "cls")
    return {**made, "layer_types": kinds}


MODERN_BERT = Family(
    name="modern-bert",
    config=ModernBert,
    graph=modern_bert,
    layers="layers.{i}.",
    origins=MappingProxyType(
        {
            "token_embd": Named("embeddings.tok_embeddings"),
            "token_embd_norm": Named("embeddings.norm"),
            "attn_norm": Named("attn_norm"),
            "attn_qkv": Named("attn.Wqkv"),
            "attn_output": Named("attn.Wo"),
            "ffn_norm": Named("mlp_norm"),
            "ffn_up": Named("mlp.Wi"),
            "ffn_down": Named("mlp.Wo"),
            "output_norm": Named("final_norm"),
            "cls": Named("head.dense"),
            "cls.norm": Named("head.norm"),
            "cls.output": Named("classifier"),
        }
    ),
    left_out=MappingProxyType({r"(decoder|head)\.": "the head of pretraining"}),
    renamed=((r"^model\.", ""),),
    implemented=MappingProxyType(
        {
            "attention_bias": (False,),
            "mlp_bias": (False,),
            "norm_bias": (False,),
            "classifier_activation": ("gelu",),
            "tie_word_embeddings": (True, False),
        }
    ),
    inert=INERT_KEYS
    | {
        "cls_token_id",
        "decoder_bias",
        "deterministic_flash_attn",
        "embedding_dropout",
        "initializer_cutoff_factor",
        "mlp_dropout",
        "repad_logits_with_grad",
        "reference_compile",
        "sep_token_id",
        "sparse_pred_ignore_index",
        "sparse_prediction",
    },
    constants=MappingProxyType({"architectures": ["ModernBertModel"], "model_type": "modernbert"}),
    normalized=normalized,
    spelled=spelled,
)
