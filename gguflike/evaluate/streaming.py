"""One or two models over the same chunks: piece by piece, so that memory holds few rows of logits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise

from gguflike.errors import UnsupportedError
from gguflike.evaluate.scores import Logits, Scores, pairs, scores
from gguflike.evaluate.texts import Protocol, Text, tokens
from gguflike.progress import Progress
from gguflike.runner.model import Model

PIECE_BYTES = 1 << 25  # of logits of one model that are in memory at a time


def check_alike(models: Sequence[Model], texts: Mapping[str, str], protocol: Protocol) -> None:
    """UnsupportedError where models have other vocabularies, or other tokens for what is used of a text: nothing can be
    compared."""
    first = models[0]
    for other in models[1:]:
        if other.vocab_size != first.vocab_size:
            raise UnsupportedError(
                "the models have vocabularies of different sizes, so their logits cannot be compared",
                path=other.path,
                expected=f"{first.vocab_size} tokens, as in {first.path}",
                got=other.vocab_size,
            )
        for name, text in texts.items():
            if tokens(text, first.tokenizer, protocol) != tokens(text, other.tokenizer, protocol):
                raise UnsupportedError(
                    f"the models have different tokens for the text {name!r}, so their logits cannot be compared",
                    path=other.path,
                    expected=f"the token ids of {first.path}",
                    remedy="convert both from the same checkpoint",
                )


def stream(
    models: Sequence[Model],
    reference: Model | None,
    texts: Sequence[Text],
    protocol: Protocol,
    progress: Progress | None = None,
) -> list[dict[str, Scores]]:
    """For each model, its scores by the name of the text: `Pairs` where there is a reference, which is run once.

    ``progress`` counts tokens.
    """
    total, done = sum(len(text.chunks) for text in texts) * protocol.context, 0
    found: list[dict[str, list[Scores]]] = [{text.name: [] for text in texts} for _ in models]
    for text in texts:
        for chunk in text.chunks:
            for each, part in zip(found, _chunk(models, reference, chunk, protocol), strict=True):
                each[text.name].append(part)
            done += protocol.context
            if progress is not None:
                progress(done, total, f"evaluating {text.name}")
    return [{name: type(parts[0]).joined(parts) for name, parts in each.items()} for each in found]


def _chunk(
    models: Sequence[Model], reference: Model | None, chunk: Sequence[int], protocol: Protocol
) -> Iterator[Scores]:
    """Each model's scores of one chunk."""
    first, end = protocol.first, len(chunk) - 1
    size = max(1, PIECE_BYTES // (4 * models[0].vocab_size))
    pieces = -(-(end - first) // size)
    bounds = [first + (end - first) * i // pieces for i in range(pieces + 1)]
    parts: list[list[Scores]] = [[] for _ in models]
    for start, stop in pairwise(bounds):
        targets = chunk[start + 1 : stop + 1]
        wanted = None if reference is None else _logits(reference, chunk, start, stop, start == first)
        for each, model in zip(parts, models, strict=True):
            got = _logits(model, chunk, start, stop, start == first)
            each.append(scores(got, targets) if wanted is None else pairs(wanted, got, targets))
    for each in parts:
        yield type(each[0]).joined(each, 1)


def _logits(model: Model, chunk: Sequence[int], start: int, stop: int, begin: bool) -> Logits:
    """Logits behind the positions ``start`` to ``stop``. ``begin``: what is before them has not been computed."""
    if begin and start:
        model.extend(chunk[:start], 0)
    found: Logits = model.extend(chunk[start:stop], start, all_logits=True)
    return found
