"""What a calibrated conversion does beside writing a file: on which text the model runs, and what that takes."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from gguflike.calibrate.rounding import DEFAULT, Rounding
from gguflike.container import Typed, ValueType
from gguflike.convert import corpora, cost
from gguflike.convert.corpora import Ids, Text
from gguflike.convert.cost import duration
from gguflike.convert.effort import Effort
from gguflike.convert.facts import untyped
from gguflike.convert.sources import Source
from gguflike.errors import GGUFLikeError, UnsupportedError, counted
from gguflike.families import registry
from gguflike.families.family import check_layers
from gguflike.families.parts import Graph, Head, Place

SEQUENCE = 512  # tokens that are seen together
_WITHOUT = "`effort=0` encodes each tensor by itself"


@dataclass(frozen=True)
class Calibration:
    """How a conversion is calibrated. ``graph`` is the model, ``sequences`` the token ids that it runs on, each from
    position 0."""

    effort: Effort
    graph: Graph = field(repr=False)
    texts: tuple[Text, ...]
    sequences: tuple[Ids, ...] = field(repr=False, compare=False)
    notices: tuple[str, ...] = ()
    rounding: Rounding = DEFAULT
    seconds: float | None = field(default=None, compare=False)

    @property
    def tokens(self) -> int:
        return sum(map(len, self.sequences))

    @property
    def sequence(self) -> int:
        """Tokens of the longest sequence."""
        return max(map(len, self.sequences))

    def matrices(self) -> Iterator[Place]:
        """The matrices that the model multiplies with, which can be rounded for their inputs."""
        for place in self.graph.tensors():
            form = place.tensor.form or ("matrix" if len(place.tensor.shape) > 1 else "values")
            if place.tensor.used and form == "matrix":
                yield place

    def lines(self, matrices: int) -> list[str]:
        """What is to be said of it in a plan that rounds so many matrices."""
        names = ", ".join(text.name for text in self.texts)
        length = counted(len(self.sequences), "sequence")
        lines = [
            f"effort {self.effort.level}: {counted(matrices, 'tensor')} rounded for "
            f"{self.tokens:,} tokens of {names}, in {length} of up to {self.sequence}"
        ]
        if self.seconds is not None:
            lines.append(f"calibrating takes about {duration(self.seconds)}")
        return lines

    def metadata(self) -> dict[str, Any]:
        """What a file says of its calibration: enough to do the same again."""
        prefix = "gguflike.calibration"
        return {
            f"{prefix}.effort": Typed(self.effort.level, ValueType.UINT32),
            f"{prefix}.texts": [text.name for text in self.texts],
            f"{prefix}.sha256": [text.sha256 for text in self.texts],
            f"{prefix}.tokens": Typed(self.tokens, ValueType.UINT64),
            f"{prefix}.sequence": Typed(self.sequence, ValueType.UINT32),
            f"{prefix}.seed": Typed(self.effort.seed, ValueType.UINT64),
            f"{prefix}.options": [f"{name}={value}" for name, value in vars(self.rounding).items()],
        }


def calibration_of(effort: Effort, metadata: Mapping[str, Any], sources: Sequence[Source]) -> Calibration | None:
    """How the model of these ``sources`` and ``metadata`` is calibrated; None where it is not asked for.

    UnsupportedError where the reference cannot run it; CheckpointError where a text cannot be read.
    """
    if not effort.is_calibrated:
        return None
    plain = {key: untyped(value) for key, value in metadata.items()}
    graph = graph_of(plain, [source.name for source in sources])
    texts, sequences, notices = corpora.sequences(
        effort.texts, plain, effort.tokens, longest(graph, plain), effort.seed
    )
    made = Calibration(effort, graph, tuple(texts), tuple(sequences), tuple(notices))
    return replace(made, seconds=cost.seconds(made))


def graph_of(metadata: Mapping[str, Any], names: Collection[str]) -> Graph:
    """The graph of a model by what its file says. UnsupportedError where it makes no text."""
    try:
        family = registry.for_gguf(str(metadata.get("general.architecture"))).of_file(metadata, names)
        config = family.from_file(metadata, names)
        check_layers(config, "the model", len(names))
        graph = family.graph(config)
    except GGUFLikeError as error:
        raise UnsupportedError(
            f"cannot be calibrated, as it is not known what the model computes: {error.what}",
            field=error.field or "effort",
            expected=error.expected,
            got=error.got,
            remedy=_WITHOUT,
        ) from error
    if not isinstance(graph.head, Head):
        raise UnsupportedError(
            "only models that make text are calibrated", field="effort", got=family.name, remedy=_WITHOUT
        )
    return graph


def longest(graph: Graph, metadata: Mapping[str, Any]) -> int:
    """Tokens of a sequence: those that attention sees together, as far as the model can be computed with so many."""
    context = metadata.get(f"{metadata['general.architecture']}.context_length")
    limits = (SEQUENCE, context, graph.reach, graph.embedding.positions)
    return min(limit for limit in limits if isinstance(limit, int) and limit > 0)
