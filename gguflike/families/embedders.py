"""Decoders that give vectors of texts: Qwen3-Embedding and Qwen3-Reranker, EmbeddingGemma, EuroBERT."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

from gguflike.errors import UnsupportedError
from gguflike.families.config import key
from gguflike.families.decoder import (
    DECODER_NAMES,
    SILU,
    Decoder,
    attention,
    feed_forward,
    pre_norm,
    qk_norms,
    rope_of,
    unscaled,
)
from gguflike.families.family import Family
from gguflike.families.gemma import GEMMA3, SANDWICH_NAMES, Gemma3, sandwich
from gguflike.families.origins import Named, Piece
from gguflike.families.parts import Block, Embedding, Graph, Norm, Rope, Tensor
from gguflike.families.parts.extras import Layer, Pooling
from gguflike.families.pooling import kind_of
from gguflike.families.qwen import QWEN3, qwen3
from gguflike.families.windows import Windowed, span
from gguflike.frozen import frozen, replace

_LEFT_OUT = MappingProxyType({r"lm_head\.": "the head for text, which embeddings do not use,"})


def pooling_field() -> Any:
    """The field of llama.cpp's number of a kind of pooling."""
    return key("pooling_type", "pooling_type", zero=True)


@frozen
class Qwen3Embedding(Windowed):
    """Hyper-parameters."""

    pooling: int | None = pooling_field()


def qwen3_embedding(c: Qwen3Embedding) -> Graph:
    """Qwen 3's graph with pooling instead of a head."""
    return replace(qwen3(c), head=Pooling(kind_of(c.pooling), c.n_embd))


QWEN3_EMBEDDING = replace(
    QWEN3,
    config=Qwen3Embedding,
    graph=qwen3_embedding,
    left_out=_LEFT_OUT,
    constants=MappingProxyType({**QWEN3.constants, "architectures": ["Qwen3Model"]}),
    variant=None,
    file_variant=None,
)


#: What the model is asked, as it was trained (Zhang et al. 2025, arXiv:2506.05176).
PROMPT = (
    "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the Instruct "
    'provided. Note that the answer can only be "yes" or "no".<|im_end|>\n'
    "<|im_start|>user\n<Instruct>: Given a web search query, retrieve relevant passages that answer the query\n"
    "<Query>: {query}\n<Document>: {document}<|im_end|>\n"
    "<|im_start|>assistant\n<think>\n\n</think>\n\n"
)


@frozen
class Qwen3Reranker(Qwen3Embedding):
    """Hyper-parameters. The labels are words that the model may answer."""

    labels: tuple[str, ...] = key("classifier.output_labels", "labels", listed=True)
    answers: tuple[int, ...] | None = key("gguflike.answers", "answers", listed=True)  # ids of the words
    prompt: str = key("tokenizer.chat_template.rerank", "prompt", default=PROMPT)
    prompts: tuple[str, ...] = key("tokenizer.chat_templates", "prompts", default=("rerank",), listed=True)


def qwen3_reranker(c: Qwen3Reranker) -> Graph:
    """Qwen 3's graph with a head for a few words, whose probabilities are the scores."""
    output = Layer("cls.output", len(c.labels), c.n_embd)
    return replace(qwen3(c), head=Pooling("last", c.n_embd, (output,), c.labels, probabilities=True))


@frozen
class Answers:
    """The rows of the head, or of the embedding that serves as one, of the words that a reranker answers with."""

    def names(self, prefix: str, tensor: Tensor) -> list[str]:  # noqa: ARG002 - part of the interface
        return ["lm_head.weight"]

    def pieces(self, prefix: str, tensor: Tensor, c: Qwen3Reranker) -> list[Piece]:  # noqa: ARG002
        name = "lm_head.weight" if c.untied else "model.embed_tokens.weight"
        return [Piece(name, (c.n_vocab, c.n_embd), 1, 1, start) for start in c.answers or ()]


def _no_export(c: Qwen3Reranker, read: Any) -> Qwen3Reranker:  # noqa: ARG001
    raise UnsupportedError(
        "a reranker's file holds of the head only what it answers with, so the checkpoint cannot be made of it again",
        tensor="cls.output.weight",
        remedy="take the checkpoint that it was converted from",
    )


QWEN3_RERANKER = replace(
    QWEN3_EMBEDDING,
    config=Qwen3Reranker,
    graph=qwen3_reranker,
    origins=MappingProxyType({**QWEN3.origins, "cls.output": Answers()}),
    left_out=MappingProxyType({r"lm_head\.": "what the head has for other words"}),
    recover=_no_export,
)


@frozen
class GemmaEmbedding(Gemma3):
    """Hyper-parameters. ``dense_2_out`` and ``dense_3_in`` are sizes of two linear layers that may follow pooling."""

    pooling: int | None = pooling_field()
    dense_2: bool = key(None, None, tensor="dense_2.weight")
    dense_2_in: int | None = key("dense_2_feat_in", "dense_2_feat_in")
    dense_2_out: int | None = key("dense_2_feat_out", "dense_2_feat_out")
    dense_3: bool = key(None, None, tensor="dense_3.weight")
    dense_3_in: int | None = key("dense_3_feat_in", "dense_3_feat_in")
    dense_3_out: int | None = key("dense_3_feat_out", "dense_3_feat_out")


def gemma_embedding(c: GemmaEmbedding) -> Graph:
    """Gemma 3's graph in which tokens see those behind them, too: in windows, as far back as ahead."""
    full, local, norms = rope_of(c, "neox"), Rope(c.n_rot, c.rope_base_swa, "neox"), qk_norms(c)

    def block(layer: int) -> Block:
        rope = local if c.windowed[layer] else full
        mixer = attention(c, rope, **norms, scale=c.attention_scale, window=span(c, layer), causal=False)
        return sandwich(c, mixer)

    layers = []
    if c.dense_2:
        layers.append(Layer("dense_2", c.dense_2_out or c.n_embd, c.dense_2_in or c.n_embd))
    if c.dense_3:
        layers.append(Layer("dense_3", c.dense_3_out or c.n_embd, c.dense_3_in or c.n_embd))
    return Graph(
        Embedding(c.n_vocab, c.n_embd, c.n_embd**0.5),
        tuple(block(layer) for layer in range(c.n_layer)),
        Norm("output_norm", c.n_embd, c.norm_eps),
        Pooling(kind_of(c.pooling), c.n_embd, tuple(layers)),
    )


def _without_dense(config: dict[str, Any]) -> dict[str, Any]:
    """An exported config.json, which says nothing of the linear layers: their own do."""
    return {name: value for name, value in config.items() if not name.startswith("dense_")}


GEMMA_EMBEDDING = replace(
    GEMMA3,
    name="gemma-embedding",
    config=GemmaEmbedding,
    graph=gemma_embedding,
    origins=MappingProxyType(
        {**SANDWICH_NAMES, "dense_2": Named("2_Dense.linear"), "dense_3": Named("3_Dense.linear")}
    ),
    left_out=_LEFT_OUT,
    implemented=MappingProxyType({**GEMMA3.implemented, "use_bidirectional_attention": (True,)}),
    constants=MappingProxyType(
        {**GEMMA3.constants, "architectures": ["Gemma3TextModel"], "use_bidirectional_attention": True}
    ),
    spelled=lambda config: _without_dense(GEMMA3.spelled(config)),
)


@frozen
class EuroBert(Decoder):
    """Hyper-parameters (Boizard et al. 2025, arXiv:2503.05500)."""

    n_ctx: int = key("context_length", "max_position_embeddings", default=8192)
    norm_eps: float = key("attention.layer_norm_rms_epsilon", "rms_norm_eps", default=1e-5)
    rope_base: float = key("rope.freq_base", "rope.theta", default=250000.0)
    rope_scaling: str | None = unscaled()
    causal: bool = key("attention.causal", None, default=False)
    pooling: int | None = pooling_field()
    # Of its classifiers, which these are not; llama.cpp's converter writes it where it knows the kind.
    classifier_pooling: int | None = key("classifier.pooling_type", "classifier_pooling")


def eurobert(c: EuroBert) -> Graph:
    """Llama's graph in which tokens see those behind them, too."""
    mixer = attention(c, rope_of(c, "neox"), causal=c.causal)
    block = pre_norm(c, mixer, feed_forward(c))
    return Graph(
        Embedding(c.n_vocab, c.n_embd),
        (block,) * c.n_layer,
        Norm("output_norm", c.n_embd, c.norm_eps),
        Pooling(kind_of(c.pooling), c.n_embd),
    )


_NUMBERS = {"mean": 1, "cls": 2}


def _named_pooling(config: dict[str, Any]) -> dict[str, Any]:
    """An exported config.json, in which the kind of pooling has its name."""
    kinds = {number: name for name, number in _NUMBERS.items()}
    return {name: kinds[value] if name == "classifier_pooling" else value for name, value in config.items()}


EUROBERT = Family(
    name="eurobert",
    config=EuroBert,
    graph=eurobert,
    origins=DECODER_NAMES,
    left_out=_LEFT_OUT,
    implemented=SILU,
    inert=QWEN3.inert | {"mask_token", "mask_token_id"},
    constants=MappingProxyType({"architectures": ["EuroBertModel"], "model_type": "eurobert", "hidden_act": "silu"}),
    normalized=lambda values: {**values, "classifier_pooling": _NUMBERS.get(str(values.get("classifier_pooling")))},
    spelled=_named_pooling,
)
