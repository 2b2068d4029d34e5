"""What reaches the matrices of a file when its model reads text: fixed ranges of activations."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gguflike.activations import Fixed
from gguflike.calibrate import ranges
from gguflike.calibrate.ranges import OBSERVERS, Seen
from gguflike.calibrate.stream import stream
from gguflike.calibrate.tables import EMBEDDING, OUTPUT
from gguflike.calibrate.texts import Text, sequences
from gguflike.convert.calibration import longest
from gguflike.convert.effort import Chat, files_of
from gguflike.convert.mixes import COPY
from gguflike.convert.quantize import plan_quantization
from gguflike.convert.sources import closing_sources
from gguflike.errors import ArgumentError, check_choice, check_integer, check_threads
from gguflike.progress import Progress

StrPath = str | os.PathLike[str]


@dataclass(frozen=True)
class Group:
    """Matrices that read the same, and the range of that."""

    names: tuple[str, ...]
    fixed: Fixed


@dataclass(frozen=True)
class Observed:
    """The groups of a model's matrices, on which ``texts`` they were observed, and on how many tokens of these;
    ``held`` is a sequence of which nothing was observed where there was more than one."""

    groups: tuple[Group, ...]
    texts: tuple[Text, ...]
    tokens: int
    held: tuple[int, ...]


def observe(
    path: StrPath,
    observer: str,
    *,
    calibration: Iterable[StrPath] = (),
    context: int,
    tokens: int | None,
    threads: int | None,
    progress: Progress | None,
    chat: Chat | None,
) -> Observed:
    """Run texts through the model in the GGUF file ``path``, layer by layer, and find a range for what each of its
    quantized matrices multiplies, by the ``observer`` of that name; none for stacks of matrices.

    The arguments are those of `gguflike.calibrate`. ArgumentError where no matrix of the file is quantized.
    """
    check_choice("observer", observer, OBSERVERS)
    check_integer("context", context, 2)
    check_threads(threads)
    if tokens is not None:
        check_integer("tokens", tokens, 2)
    plan = plan_quantization(path, None, COPY.name)
    model = plan.float_model()
    types = {tensor.name: tensor.format for tensor in plan.tensors}
    if not any(types[place.name].is_quantized for place in model.graph.tensors() if place.tensor.used):
        raise _none(path)
    texts = model.texts(files_of("calibration", calibration), chat)
    length = longest(model, context)
    ids = sequences(texts, model.encode, length, model.begin, tokens)
    *seen, held = ids if len(ids) > 1 else [ids[0], ids[0]]
    found: list[Group] = []

    def take(names: tuple[str, ...], result: Any) -> None:
        quantized = tuple(name for name in names if types[name].is_quantized)
        if quantized and isinstance(result, Seen):
            found.extend(_group(quantized, result, observer))

    with tempfile.TemporaryDirectory(prefix="gguflike-") as folder, closing_sources():
        stream(
            model.graph,
            model.read,
            seen,
            None,
            Path(folder) / "states",
            found=take,
            collecting=ranges.Observers(),
            rows=model.rows,
            length=length,
            threads=threads,
            progress=progress,
        )
    if not found:
        raise _none(path)
    return Observed(tuple(found), tuple(texts), _count(seen), tuple(held))


def _none(path: StrPath) -> ArgumentError:
    return ArgumentError(
        "no matrix of the file multiplies activations of 8 bits",
        path=os.fspath(path),
        remedy="`gguflike quantize` makes such a file",
    )


def _group(names: Sequence[str], seen: Seen, observer: str) -> list[Group]:
    """None where nothing but zeros was seen. An output matrix is called so also where it is the embedding's."""
    of = OBSERVERS[observer](seen)
    clip = max(-of.low, of.high)
    if not clip > 0:
        return []
    called = tuple(OUTPUT if name == EMBEDDING else name for name in names)
    return [Group(called, Fixed(clip, seen.massive_from))]


def _count(sequences: Sequence[Sequence[int]]) -> int:
    return sum(map(len, sequences))
