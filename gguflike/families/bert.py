"""Encoders in the order of BERT (Devlin et al. 2018, arXiv:1810.04805): a norm behind each residual addition.

BERT, RoBERTa and XLM-RoBERTa, DistilBERT; as embeddings and as classifiers (rerankers).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from types import MappingProxyType
from typing import Any

from gguflike.families.config import key
from gguflike.families.family import Family
from gguflike.families.inert import PRETRAINED_KEYS
from gguflike.families.origins import Behind, Named, Origin
from gguflike.families.parts import Attention, Block, Branch, Embedding, FeedForward, Graph, Mixer, Norm
from gguflike.families.parts.extras import Layer, Pooling
from gguflike.families.pooling import kind_of, labelled, spelled_labels
from gguflike.frozen import frozen, replace


@frozen
class Encoder:
    """Hyper-parameters of what the encoders here share. ``pooling`` is llama.cpp's number of a kind of pooling."""

    n_layer: int = key("block_count", ("num_hidden_layers", "n_layers"))
    n_ctx: int = key("context_length", "max_position_embeddings", default=512)
    n_embd: int = key("embedding_length", ("hidden_size", "dim"))
    n_ff: int = key("feed_forward_length", ("intermediate_size", "hidden_dim"))
    n_head: int = key("attention.head_count", ("num_attention_heads", "n_heads"))
    norm_eps: float = key("attention.layer_norm_epsilon", "layer_norm_eps", default=1e-12)
    causal: bool = key("attention.causal", None, default=False)
    n_vocab: int = key(None, "vocab_size")
    types: int = key("tokenizer.ggml.token_type_count", "type_vocab_size", default=1)
    typed: bool = key(None, None, tensor="token_types.weight")
    pooling: int | None = key("pooling_type", "pooling_type", zero=True)
    labels: tuple[str, ...] | None = key("classifier.output_labels", "labels", listed=True)
    n_labels: int = key(None, "n_labels", default=lambda c: len(c.labels or (1,)))
    scored: bool = key(None, "scored", default=False, tensor="cls.output.weight")
    dense: bool = key(None, "scored", default=False, tensor="cls.weight")


@frozen
class Bert(Encoder):
    """BERT's own: learned positions, of which RoBERTa leaves the first ``position_offset`` unused."""

    position_offset: int = key("gguflike.position_offset", "position_offset", default=0, zero=True)


def bert(c: Bert) -> Graph:
    """Learned positions, biases everywhere, a feed-forward without gate."""
    attention = Attention(c.n_embd, c.n_head, c.n_head, c.n_embd // c.n_head, None, True, True, causal=c.causal)
    feed_forward = FeedForward(c.n_embd, c.n_ff, bias=True, activation="gelu", gated=False)
    return encoder(c, attention, lambda _: feed_forward, positions=c.n_ctx)


def encoder(c: Encoder, attention: Attention, second: Callable[[int], Mixer], positions: int = 0) -> Graph:
    """Blocks of two branches with a norm behind each sum, on normalized embeddings of tokens, positions and types.
    ``second`` gives each layer's second mixer."""

    def norm(role: str) -> Norm:
        return Norm(role, c.n_embd, c.norm_eps, "layer", bias=True)

    def block(layer: int) -> Block:
        return (
            Branch(None, attention, norm("attn_output_norm"), post=True),
            Branch(None, second(layer), norm("layer_output_norm"), post=True),
        )

    types = c.types if c.typed else 0
    embedding = Embedding(c.n_vocab, c.n_embd, positions=positions, types=types, norm=norm("token_embd_norm"))
    return Graph(embedding, tuple(block(layer) for layer in range(c.n_layer)), None, pooled(c))


def pooled(c: Encoder) -> Pooling:
    """The vector of a text, or where the model is a classifier the score of each label: of its first token's vector
    through a dense layer and tanh."""
    if not c.scored:
        return Pooling(kind_of(c.pooling), c.n_embd)
    dense = (Layer("cls", c.n_embd, c.n_embd, bias=True, activation="tanh"),) if c.dense else ()
    output = Layer("cls.output", c.n_labels, c.n_embd, bias=True)
    return Pooling("cls", c.n_embd, (*dense, output), c.labels or ("",) * c.n_labels)


INERT_KEYS = PRETRAINED_KEYS | {
    "attention_dropout",
    "attention_probs_dropout_prob",
    "classifier_dropout",
    "dropout",
    "gradient_checkpointing",
    "hidden_dropout_prob",
    "initializer_range",
    "qa_dropout",
    "seq_classif_dropout",
    "sinusoidal_pos_embds",  # what the position embeddings were before training
    "use_cache",
}

_NAMES = MappingProxyType(
    {
        "token_embd": Named("embeddings.word_embeddings"),
        "position_embd": Named("embeddings.position_embeddings"),
        "token_types": Named("embeddings.token_type_embeddings"),
        "token_embd_norm": Named("embeddings.LayerNorm"),
        "attn_q": Named("attention.self.query"),
        "attn_k": Named("attention.self.key"),
        "attn_v": Named("attention.self.value"),
        "attn_output": Named("attention.output.dense"),
        "attn_output_norm": Named("attention.output.LayerNorm"),
        "ffn_up": Named("intermediate.dense"),
        "ffn_down": Named("output.dense"),
        "layer_output_norm": Named("output.LayerNorm"),
        "cls": Named("pooler.dense"),
        "cls.output": Named("classifier"),
    }
)
HEADS = MappingProxyType(
    {
        r"pooler\.": "the pooler, which embeddings do not use,",
        r"cls\.(predictions|seq_relationship)\.": "the head of pretraining",
        r"lm_head\.": "the head of pretraining",
        r"vocab_(transform|layer_norm|projector)\.": "the head of pretraining",
    }
)


def _of_file(metadata: Mapping[str, Any], tensors: Collection[str]) -> Family[Any] | None:
    """The family of a file of architecture "bert", told by its tokenizer and tensors."""
    if "token_types.weight" not in tensors:
        return DISTILBERT
    return {"t5": XLM_ROBERTA, "gpt2": ROBERTA}.get(metadata.get("tokenizer.ggml.model", ""))


BERT = Family(
    name="bert",
    config=Bert,
    graph=bert,
    origins=_NAMES,
    layers="encoder.layer.{i}.",
    left_out=HEADS,
    renamed=((r"^bert\.", ""), (r"\.gamma$", ".weight"), (r"\.beta$", ".bias")),
    implemented=MappingProxyType(
        {
            "hidden_act": ("gelu",),
            "position_embedding_type": ("absolute",),
            "is_decoder": (False,),
            "add_cross_attention": (False,),
            "tie_word_embeddings": (True, False),
            "problem_type": ("single_label_classification", "multi_label_classification", "regression"),
        }
    ),
    inert=INERT_KEYS,
    constants=MappingProxyType({"architectures": ["BertModel"], "model_type": "bert", "hidden_act": "gelu"}),
    normalized=labelled,
    spelled=lambda config: _without_own(spelled_labels("Bert")(config)),
    file_variant=_of_file,
)


def _without_offset(values: dict[str, Any]) -> dict[str, Any]:
    """RoBERTa's positions begin behind the padding token's id; rows before are never read."""
    pad = values.get("pad_token_id")
    offset = 0 if pad is None else pad + 1
    positions = values.get("max_position_embeddings", 512)
    left = None if positions is None else positions - offset
    return {**labelled(values), "position_offset": offset, "max_position_embeddings": left}


def _without_own(config: dict[str, Any]) -> dict[str, Any]:
    """config.json without our name for an offset that BERT does not have."""
    return {key: value for key, value in config.items() if key != "position_offset"}


def _with_offset(spell: Any) -> Any:
    def spelled(config: dict[str, Any]) -> dict[str, Any]:
        made: dict[str, Any] = spell(config)
        offset = made.pop("position_offset") or 2
        return {**made, "max_position_embeddings": made["max_position_embeddings"] + offset, "pad_token_id": offset - 1}

    return spelled


# Files of others do not say how many positions were left out: two, as in every published model.
_ROBERTA_NAMES: Mapping[str, Origin] = MappingProxyType(
    {
        **_NAMES,
        "position_embd": Behind("embeddings.position_embeddings", lambda c: c.position_offset or 2),
        "cls": Named("classifier.dense"),
        "cls.output": Named("classifier.out_proj"),
    }
)
ROBERTA = replace(
    BERT,
    origins=_ROBERTA_NAMES,
    renamed=((r"^roberta\.", ""),),
    constants=MappingProxyType({"architectures": ["RobertaModel"], "model_type": "roberta", "hidden_act": "gelu"}),
    normalized=_without_offset,
    spelled=_with_offset(spelled_labels("Roberta")),
    file_variant=None,
)
XLM_ROBERTA = replace(
    ROBERTA,
    constants=MappingProxyType(
        {"architectures": ["XLMRobertaModel"], "model_type": "xlm-roberta", "hidden_act": "gelu"}
    ),
    spelled=_with_offset(spelled_labels("XLMRoberta")),
)
DISTILBERT = replace(
    BERT,
    layers="transformer.layer.{i}.",
    origins=MappingProxyType(
        {
            **_NAMES,
            "attn_q": Named("attention.q_lin"),
            "attn_k": Named("attention.k_lin"),
            "attn_v": Named("attention.v_lin"),
            "attn_output": Named("attention.out_lin"),
            "attn_output_norm": Named("sa_layer_norm"),
            "ffn_up": Named("ffn.lin1"),
            "ffn_down": Named("ffn.lin2"),
            "layer_output_norm": Named("output_layer_norm"),
        }
    ),
    renamed=((r"^distilbert\.", ""),),
    implemented=MappingProxyType({"activation": ("gelu",), "tie_word_embeddings": (True, False)}),
    constants=MappingProxyType(
        {"architectures": ["DistilBertModel"], "model_type": "distilbert", "activation": "gelu"}
    ),
    spelled=lambda config: _distilbert(spelled_labels("DistilBert")(config)),
    file_variant=None,
)
_DISTILBERT_KEYS = {
    "num_hidden_layers": "n_layers",
    "hidden_size": "dim",
    "intermediate_size": "hidden_dim",
    "num_attention_heads": "n_heads",
}


def _distilbert(config: dict[str, Any]) -> dict[str, Any]:
    """The names of DistilBertConfig, which has neither types nor an epsilon (it is 1e-12)."""
    without = {k: v for k, v in config.items() if k not in ("type_vocab_size", "layer_norm_eps", "position_offset")}
    return {_DISTILBERT_KEYS.get(name, name): value for name, value in without.items()}
