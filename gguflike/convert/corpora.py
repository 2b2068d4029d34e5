"""Text to calibrate on, as token ids."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gguflike.checkpoint.encoder import Encoder
from gguflike.checkpoint.vocabulary import Vocabulary
from gguflike.errors import ArgumentError, CheckpointError

Ids = tuple[int, ...]


@dataclass(frozen=True)
class Text:
    """A text that a model runs on: the name and SHA-256 of its file."""

    name: str
    sha256: str


def sequences(
    paths: Sequence[str], metadata: Mapping[str, Any], tokens: int, length: int, seed: int
) -> tuple[list[Text], list[Ids], list[str]]:
    """Sequences of ``length`` tokens, ``tokens`` in all, of the texts in ``paths``, of all alike; and what to tell.

    Each begins as a text does (with BOS, where the file asks for it). ``seed`` chooses which parts of a longer text.
    """
    encoder = Encoder(Vocabulary.from_metadata(metadata))
    texts, cut = [], []
    for path in paths:
        name, data = _read(path)
        texts.append(Text(name, hashlib.sha256(data).hexdigest()))
        cut.append(list(_cut(encoder, data.decode("utf-8", "replace"), length)))
    wanted = max(tokens // length, 1)
    taken: list[Ids] = []
    generator = np.random.default_rng(seed)
    orders = [_drawn(generator, each, length) for each in cut]
    while len(taken) < wanted and any(orders):
        taken += [parts[order.pop()] for parts, order in zip(cut, orders, strict=True) if order]
    taken = taken[:wanted]
    got = sum(map(len, taken))
    if not got:
        raise ArgumentError("no text to calibrate on", field="calibration", got=f"{len(paths)} files without a token")
    said = [] if len(taken) == wanted else [f"calibrated on {got:,} tokens, which is all that the texts have"]
    return texts, taken, said


def _drawn(generator: np.random.Generator, parts: Sequence[Ids], length: int) -> list[int]:
    """The numbers of the parts of a text in the order in which they are taken from the end: short ones come last."""
    order = generator.permutation(len(parts)).tolist()
    return sorted(order, key=lambda number: len(parts[number]) == length)


def _read(path: str) -> tuple[str, bytes]:
    try:
        return Path(path).name, Path(path).read_bytes()
    except OSError as error:
        raise CheckpointError(f"text cannot be read: {error.strerror}", path=path) from None


def _cut(encoder: Encoder, text: str, length: int) -> Iterator[Ids]:
    vocabulary = encoder.vocabulary
    first = [vocabulary.special["bos"]] if vocabulary.add_bos else []
    ids = encoder.encode(text, False, False)
    step = max(length - len(first), 1)
    for start in range(0, len(ids), step):
        yield (*first, *ids[start : start + step])
