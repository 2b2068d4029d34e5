"""Texts to vectors and scores: `Model.embed`, `Model.scores` and `Model.rerank`.

Texts are computed one after the other, and what one comes to depends on no other: a model that sees no token ahead goes
on from what two texts have in common (a reranker's instruction, say), which gives the same bits.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from gguflike.errors import (
    ArgumentError,
    ArgumentTypeError,
    UnsupportedError,
    check_choice,
    check_text,
    check_texts,
    counted,
)
from gguflike.families.parts.extras import Pooling
from gguflike.runner.pooling import KINDS, Pooler, unit

if TYPE_CHECKING:
    import numpy.typing as npt

    from gguflike.runner.model import Model
    from gguflike.runner.tokenizer import Tokenizer

    Floats = npt.NDArray[np.float32]

#: The chat template by which a reranker that writes its answer is asked, with ``{query}`` and ``{document}`` in it.
RERANK = "rerank"


class Tokens(NamedTuple):
    """A text, or a pair of texts, as token ids. The tokens from ``second`` on are the second text's. ``begin``: so many
    from the first on must stay."""

    ids: list[int]
    second: int
    begin: int


def embed(model: Model, texts: str | Iterable[str], pooling: str | None, normalize: bool, truncate: bool) -> Floats:
    """As of ``Model.embed``."""
    made = []
    for number, text in enumerate(checked_texts("texts", texts)):
        ids = single(model.tokenizer, text).ids
        if not ids:
            raise ArgumentError(
                "a text without tokens", field=f"texts[{number}]", got=repr(text), remedy="leave it out"
            )
        made.append(of_tokens(model, ids, pooling, normalize, truncate))
    return np.stack(made)


def of_tokens(model: Model, ids: list[int], pooling: str | None, normalize: bool, truncate: bool) -> Floats:
    """The vector (n,) of a text that is token ids already. Errors as of ``Model.embed`` and ``Model.hidden``."""
    pooler, kind = embedder(model, pooling)
    tokens = fitting(model, Tokens(ids, len(ids), 0), truncate)
    vector = pooler.pooled(model.hidden(tokens.ids, last=kind == "last"), kind)
    return unit(vector) if normalize else vector


def scores(model: Model, texts: Iterable[str | tuple[str, str]], truncate: bool) -> Floats:
    """As of ``Model.scores``."""
    if isinstance(texts, str) or not isinstance(texts, Iterable):
        raise ArgumentTypeError("not a list", field="texts", expected="a list of texts or of pairs of texts", got=texts)
    pooler = _classifier(model)
    rows = [_scored(model, pooler, each, truncate) for each in texts]
    if not rows:
        raise ArgumentError("no texts to score", field="texts", expected="at least one")
    return np.stack(rows)


def rerank(model: Model, query: str, documents: str | Iterable[str], truncate: bool) -> Floats:
    """As of ``Model.rerank``."""
    check_text("query", query)
    pooler = ranker(model)
    listed = checked_texts("documents", documents)
    pairs = (paired(model.tokenizer, query, document) for document in listed)
    return np.array([_pooled(model, pooler, pair, truncate)[0] for pair in pairs], np.float32)


def ranked(model: Model, pair: Tokens) -> Floats:
    """The score (1,) of a query and a document, which are tokens already. Errors as of ``Model.rerank``."""
    return _pooled(model, ranker(model), pair, truncate=False)[:1]


def ranker(model: Model) -> Pooler:
    """What makes the score of a document. UnsupportedError where the model ranks none."""
    pooler = _classifier(model)
    if len(pooler.part.labels) != 1 and not pooler.part.probabilities:
        raise UnsupportedError(
            "this model tells classes apart, it does not rank documents",
            path=model.path,
            expected="one score",
            got=counted(len(pooler.part.labels), "label"),
            remedy="scores() gives a score for each label",
        )
    return pooler


def checked_texts(name: str, texts: str | Iterable[str]) -> list[str]:
    """As of `check_texts`, and ArgumentError where there are none."""
    listed = check_texts(name, texts)
    if not listed:
        raise ArgumentError("no texts", field=name, expected="at least one")
    return listed


def embedder(model: Model, pooling: str | None) -> tuple[Pooler, str]:
    """What makes vectors, and how those of tokens become one. UnsupportedError where the model has none, ArgumentError
    where neither the file nor ``pooling`` says how."""
    return _pooler(model), _kind(model, pooling)


def _pooler(model: Model) -> Pooler:
    """The pooling of a model that gives vectors; one without layers where it gives logits."""
    part = model.graph.head
    if not isinstance(part, Pooling):
        return Pooler(Pooling("none", model.graph.embedding.n_embd), model.weights)
    if part.labels:
        raise UnsupportedError(
            "this model scores texts, it has no vectors of them",
            path=model.path,
            remedy="scores() and rerank() give its scores (`gguflike rerank`)",
        )
    return Pooler(part, model.weights)


def _classifier(model: Model) -> Pooler:
    part = model.graph.head
    if not isinstance(part, Pooling) or not part.labels:
        raise UnsupportedError(
            "this model does not score texts",
            path=model.path,
            expected="a classifier or a reranker",
            remedy="embed() gives vectors, whose products tell how near texts are (`gguflike embed`)",
        )
    return Pooler(part, model.weights)


def _kind(model: Model, pooling: str | None) -> str:
    """How vectors of tokens become one: as asked for, or as the file says."""
    if pooling is not None:
        check_choice("pooling", pooling, KINDS)
        return pooling
    head = model.graph.head
    if isinstance(head, Pooling) and head.kind != "none":
        return head.kind
    raise ArgumentError(
        "the file does not say how the vectors of tokens become one of a text",
        path=model.path,
        field="pooling",
        expected=", ".join(KINDS),
        remedy="ask for one, as the model was trained",
    )


def _scored(model: Model, pooler: Pooler, text: str | tuple[str, str], truncate: bool) -> Floats:
    """The scores (labels,) of a text or of a pair."""
    if isinstance(text, str):
        tokens = single(model.tokenizer, text)
    else:
        pair = checked_texts("texts", text)
        if len(pair) != 2:
            raise ArgumentTypeError("not a pair", field="texts", expected="two texts", got=f"{len(pair)}")
        tokens = paired(model.tokenizer, *pair)
    return _pooled(model, pooler, tokens, truncate)


def _pooled(model: Model, pooler: Pooler, tokens: Tokens, truncate: bool) -> Floats:
    tokens, kind = fitting(model, tokens, truncate), pooler.part.kind
    return pooler.pooled(model.hidden(tokens.ids, tokens.second, last=kind == "last"), kind)


def single(tokenizer: Tokenizer, text: str) -> Tokens:
    """A text with the tokens that the file wants around it."""
    ids = tokenizer.encode(text)
    return Tokens(ids, len(ids), 0)


def paired(tokenizer: Tokenizer, first: str, second: str) -> Tokens:
    """Two texts: by the chat template for it, or between the tokens that the file wants, [CLS] a [SEP] b [SEP] say."""
    template = tokenizer.chat_templates.get(RERANK)
    if template is not None:
        ids = _filled(tokenizer, template, {"query": first, "document": second})
        return Tokens(ids, len(ids), len(ids))
    vocabulary = tokenizer.vocabulary
    bos = [vocabulary.special["bos"]] if vocabulary.add_bos else []
    end = [vocabulary.special[vocabulary.ending]] if vocabulary.add_eos else []
    between = [vocabulary.special["sep"]] if vocabulary.add_sep else []
    begin = [*bos, *tokenizer.encode(first, add_special=False), *end, *between]
    return Tokens([*begin, *tokenizer.encode(second, add_special=False), *end], len(begin), len(begin))


def _filled(tokenizer: Tokenizer, template: str, texts: dict[str, str]) -> list[int]:
    """Token ids of a template in which ``{name}`` stands for a text. What looks like markup in a text is text."""
    known = sorted((text for text in tokenizer.vocabulary.markup if text and text in template), key=len, reverse=True)
    ids: list[int] = []
    for place, piece in enumerate(re.split(f"({'|'.join(map(re.escape, known))})", template) if known else [template]):
        if place % 2:
            ids += tokenizer.encode(piece, False, True)
        elif piece:
            filled = re.sub(r"\{(\w+)\}", lambda found: texts.get(found[1], found[0]), piece)
            ids += tokenizer.encode(filled, False, False)
    return ids


def fitting(model: Model, tokens: Tokens, truncate: bool) -> Tokens:
    """Tokens that the context holds. UnsupportedError for too many, unless they are to be cut: the end of the text, or
    of the second of two, but not the token that ends it."""
    ids, most = tokens.ids, model.context
    if len(ids) <= most:
        return tokens
    vocabulary = model.tokenizer.vocabulary
    end = 1 if vocabulary.add_eos else 0
    room = most - end
    if not truncate or room <= tokens.begin:
        raise UnsupportedError(
            "the text is longer than the context",
            path=model.path,
            expected=f"at most {counted(most, 'token')}",
            got=len(ids),
            remedy="shorten it, or cut it by `truncate=True`",
        )
    return Tokens(ids[:room] + ids[len(ids) - end :], min(tokens.second, most), tokens.begin)
