"""Figures into the metadata of a file: when it is made, by `Card`, or afterwards, by `write`."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from gguflike import quality
from gguflike.container.restate import restate
from gguflike.convert.facts import untyped
from gguflike.errors import ArgumentError
from gguflike.evaluate import texts
from gguflike.evaluate.evaluation import Evaluation, HeldOut, Quality, evaluate_all
from gguflike.evaluate.models import chosen_context
from gguflike.evaluate.texts import Protocol
from gguflike.progress import Progress
from gguflike.runner.tokenizer import Tokenizer

StrPath = str | os.PathLike[str]


class Card:
    """What `gguflike.convert` is given so that it measures the file on held-out ``text``, and says in its header how
    well it does beside the model in its own floats, of which a temporary file is made.

    The arguments are those of `gguflike.evaluate`.
    """

    def __init__(
        self,
        text: Mapping[str, str] | Iterable[StrPath],
        *,
        context: int | None = None,
        tokens: int | None = None,
        score: str = "half",
    ) -> None:
        self._held_out = HeldOut.of(text)
        self._context, self._tokens, self._score = context, tokens, score

    def blank(self, metadata: Mapping[str, Any], reference: str) -> dict[str, Any]:
        """Places for the figures. ArgumentError where a text is shorter than a chunk."""
        protocol = self._protocol(metadata)
        tokenizer = Tokenizer(_plain(metadata))
        for name, text in self._held_out.texts.items():
            texts.cut(name, text, tokenizer, protocol)
        return dict(quality.blank(_said(protocol, reference, self._held_out.texts)))

    def filled(
        self,
        metadata: Mapping[str, Any],
        reference: str,
        path: str,
        write_floats: Callable[[str], object],
        threads: int | None,
        progress: Progress | None,
    ) -> dict[str, Any]:
        """The figures of the file at ``path``."""
        protocol = self._protocol(metadata)
        with tempfile.TemporaryDirectory(prefix="gguflike-") as folder:
            floats = os.fspath(Path(folder) / "floats.gguf")
            write_floats(floats)
            (found,) = evaluate_all(
                [path], self._held_out, floats, protocol.context, self._tokens, self._score, threads, progress
            )
        return figures(found, reference, self._held_out.texts)

    def _protocol(self, metadata: Mapping[str, Any]) -> Protocol:
        return Protocol(chosen_context(self._context, [_plain(metadata)]), self._tokens, self._score)


def _plain(metadata: Mapping[str, Any]) -> dict[str, Any]:
    return {key: untyped(value) for key, value in metadata.items()}


def _said(protocol: Protocol, reference: str, held_out: Mapping[str, str]) -> quality.Protocol:
    digests = {name: hashlib.sha256(text.encode()).hexdigest() for name, text in held_out.items()}
    return quality.Protocol(reference, protocol.context, protocol.score, digests)


def figures(found: Evaluation, reference: str, held_out: Mapping[str, str]) -> dict[str, Any]:
    """The metadata that say what was found. ArgumentError where there was no reference."""
    if found.reference is None:
        raise ArgumentError(
            "a file says how well it does beside what it was made from", field="reference", remedy="give a `reference`"
        )
    kinds = [found.of(name) for name in held_out]
    numbers = [{name: _number(kind, name) for name in quality.FIGURES} for kind in kinds]
    said = _said(found.protocol, reference, held_out)
    return dict(quality.values(said, [kind.tokens for kind in kinds], numbers))


def _number(kind: Quality, name: str) -> float | None:
    figure = kind.kl if name == "kl_error" else getattr(kind, name)
    assert figure is not None  # there is a reference
    number: float | None = figure.error if name == "kl_error" else figure.value
    return number


def write(path: StrPath, found: Evaluation, held_out: Mapping[str, str]) -> None:
    """Write a file anew with what was found in its metadata, in place of what they said before; of a split model, the
    first of its files. It takes the old one's place when it is complete.

    ArgumentError where there was no reference; DigestError where a tensor is not what the file says that it is.
    """
    name = os.path.basename(os.path.normpath(found.reference or ""))  # noqa: PTH119 - no paths of one machine
    added = figures(found, name, held_out)
    restate(path, quality.PREFIX, added)
