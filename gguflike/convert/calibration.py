"""What a calibrated conversion does beside writing a file: on which text the model runs, and what that takes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gguflike.calibrate import needs
from gguflike.calibrate.rounding import DEFAULT, Rounding
from gguflike.calibrate.stream import SUMS, stream
from gguflike.calibrate.sums import Hessians
from gguflike.calibrate.tables import EMBEDDING, is_told
from gguflike.calibrate.texts import Text, sequences
from gguflike.container import Typed, ValueType
from gguflike.convert import workload
from gguflike.convert.effort import Effort
from gguflike.convert.floats import FloatModel
from gguflike.convert.planned import PlannedTensor
from gguflike.convert.sources import Floats, Source
from gguflike.convert.stages import OUTPUTS, ROUNDING, TYPES, Stage, stage_of
from gguflike.errors import GGUFLikeError, UnsupportedError, counted
from gguflike.families.parts import Graph, Head, Place
from gguflike.kernels.engine.host import thread_count
from gguflike.progress import Progress, calibrating

if TYPE_CHECKING:
    from gguflike.calibrate.sensitivities import Sensitivities

SEQUENCE = 512  # tokens that are seen together
APART = ("dialogue.jsonl", "essays.txt")
"""Of the package's texts those that are held out where a conversion is calibrated on the others."""
_WITHOUT = "`effort=0` encodes each tensor by itself"


@dataclass(frozen=True)
class Calibration:
    """How a conversion is calibrated. ``sequences`` are the token ids of ``texts`` that the ``model`` runs on, each
    from position 0; ``speed`` how many operations are made in a second. ``held_out`` are texts of another kind, which
    decide how long is trained, where that is done."""

    effort: Effort
    model: FloatModel = field(repr=False, compare=False)
    texts: tuple[Text, ...] = field(repr=False)
    sequences: tuple[tuple[int, ...], ...] = field(repr=False)
    rounding: Rounding = DEFAULT
    held_out: tuple[Text, ...] = field(default=(), repr=False)
    speed: float | None = field(default=None, compare=False)

    @property
    def notices(self) -> tuple[str, ...]:
        """What is to know of it: that there is less text than was asked for."""
        short = self.tokens < self.effort.tokens - self.sequence
        return (f"calibrated on {counted(self.tokens, 'token')}, which is all that the texts have",) if short else ()

    @property
    def graph(self) -> Graph:
        return self.model.graph

    @property
    def tokens(self) -> int:
        return sum(map(len, self.sequences))

    @property
    def sequence(self) -> int:
        """Tokens of the longest sequence."""
        return max(map(len, self.sequences))

    def matrices(self) -> Iterator[Place]:
        """The matrices that can be rounded for what the model does with them: those that it multiplies with, and the
        embedding, where it is known how much its rows matter."""
        for place in self.graph.tensors():
            if place.tensor.is_matrix or (place.tensor.used and place.name == self.table):
                yield place

    @property
    def table(self) -> str | None:
        """The embedding, where it is measured how much its rows matter."""
        return EMBEDDING if self.effort.is_loss_aware and is_told(self.graph) else None

    @property
    def inputs(self) -> tuple[str, ...]:
        """The files that are read."""
        return self.effort.texts

    def watch(
        self,
        found: Callable[[tuple[str, ...], Any], None],
        known: Container[str],  # noqa: ARG002 - as of `GivenHessians`
        folder: Path,
        threads: int | None,
        progress: Progress,
    ) -> None:
        """Run the float model, and tell ``found`` of each group of matrices its names, and the statistics of what they
        multiply: from the layer on that an earlier run has left in ``folder``."""
        stream(
            self.graph,
            self.model.read,
            self.sequences,
            None,
            folder,
            found=found,
            rows=self.model.rows,
            length=self.sequence,
            threads=threads,
            progress=progress,
        )

    def sensitivities(
        self, read: Callable[[str], Floats], folder: Path, threads: int | None, progress: Progress | None
    ) -> Sensitivities:
        """How much outputs and tokens matter to what the model says, by one backward pass over the texts, unless an
        earlier run has left that in ``folder``."""
        from gguflike.calibrate.sensitivities import measure  # and with it the gradients

        return measure(
            self.graph,
            read,
            self.sequences,
            folder,
            length=self.sequence,
            seed=self.effort.seed,
            threads=threads,
            progress=calibrating(progress),
        )

    def lines(self, tensors: Sequence[PlannedTensor]) -> list[str]:
        """What is to be said of it in a plan that rounds these tensors."""
        names = ", ".join(text.name for text in self.texts)
        length = counted(len(self.sequences), "sequence")
        return [
            f"effort {self.effort.level}: {counted(len(tensors), 'tensor')} rounded for "
            f"{counted(self.tokens, 'token')} of {names}, in {length} of up to {self.sequence}"
        ]

    def document(self) -> dict[str, Any]:
        """The same for programs."""
        return {
            "effort": self.effort.level,
            "texts": [text.name for text in self.texts],
            "tokens": self.tokens,
            "sequences": len(self.sequences),
            "longest_sequence": self.sequence,
            "held_out": [text.name for text in self.held_out],
            "hessians": None,
        }

    def stages(self, tensors: Sequence[PlannedTensor]) -> list[Stage]:
        """What is done to round these tensors, whose types are known; the rounding last."""
        run, is_loss_aware = self._run, self.effort.is_loss_aware
        walking = workload.walking(run, tensors, is_loss_aware)
        found = [stage_of(ROUNDING, walking, self.speed, self.walking_memory)]
        if is_loss_aware:
            memory = needs.BASE + needs.learning(self.graph, self.sequence, thread_count(None))
            found.insert(0, stage_of(OUTPUTS, workload.learning(run), self.speed, memory))
        return found

    def choosing(self, ladders: workload.Ladders, tensors: Sequence[PlannedTensor]) -> Stage:
        """The stage in which is measured what each type of its ladder costs a tensor."""
        count = workload.watching(self._run) + workload.choosing(ladders, tensors, self.effort.is_loss_aware)
        return stage_of(TYPES, count, self.speed, self.choosing_memory)

    @property
    def _run(self) -> workload.Run:
        return workload.Run(self.graph, tuple(map(len, self.sequences)))

    @property
    def walking_memory(self) -> int:
        """Bytes that the walk which rounds takes at most, about."""
        threads, outputs = thread_count(None), self.effort.is_loss_aware
        return needs.BASE + needs.memory(self.graph, self.sequence, Hessians(), True, True, threads, SUMS, outputs)

    @property
    def choosing_memory(self) -> int:
        """Bytes that measuring types takes at most, about."""
        threads, outputs = thread_count(None), self.effort.is_loss_aware
        return needs.BASE + needs.choosing(self.graph, self.sequence, Hessians(), threads, SUMS, outputs)

    @property
    def disk(self) -> int:
        """Bytes beside the file: of the walk that rounds matrices, and of what a backward pass keeps for it."""
        walk = needs.disk(self.graph, self.tokens, Hessians(), True)
        if not self.effort.is_loss_aware:
            return walk
        return needs.outputs(self.graph, self.tokens) + max(walk, needs.backward(self.graph, self.tokens))

    def metadata(self) -> dict[str, Any]:
        """What a file says of its calibration: enough to do the same again."""
        prefix = "gguflike.calibration"
        return {
            f"{prefix}.effort": Typed(self.effort.level, ValueType.UINT32),
            f"{prefix}.texts": [text.name for text in self.texts],
            f"{prefix}.sha256": digest(self.texts),
            f"{prefix}.tokens": Typed(self.tokens, ValueType.UINT64),
            f"{prefix}.sequence": Typed(self.sequence, ValueType.UINT32),
            **({f"{prefix}.seed": Typed(self.effort.seed, ValueType.UINT64)} if self.effort.is_loss_aware else {}),
            f"{prefix}.options": [f"{name}={value}" for name, value in vars(self.rounding).items()],
        }


def digest(texts: Sequence[Text]) -> str:
    """SHA-256 of texts, the documents of all one behind the other. One for all: a file is to be no larger for it."""
    whole = hashlib.sha256()
    for text in texts:
        for document in text.documents:
            whole.update(document.encode("utf-8", "surrogatepass"))
    return whole.hexdigest()


def calibration_of(effort: Effort, metadata: Mapping[str, Any], sources: Sequence[Source], label: str) -> Calibration:
    """How the model of these ``sources`` and ``metadata`` is calibrated; errors as of `planning.prepared`."""
    model = float_model(metadata, sources, label, "effort", _WITHOUT)
    texts, held_out = model.texts(effort.texts, effort.chat), list[Text]()
    if effort.is_tuned:
        held_out = model.texts((), effort.chat)
        if not effort.texts:
            held_out = [text for text in texts if text.name in APART]
            texts = [text for text in texts if text.name not in APART]
    ids = sequences(texts, model.encode, longest(model), model.begin, effort.tokens)
    made = Calibration(effort, model, tuple(texts), tuple(map(tuple, ids)), held_out=tuple(held_out))
    return replace(made, speed=workload.speed())


def float_model(
    metadata: Mapping[str, Any], sources: Sequence[Source], label: str, field: str, remedy: str = "leave it out"
) -> FloatModel:
    """The model that runs on text, as the argument ``field`` asks for. UnsupportedError where it cannot, which
    ``remedy`` avoids."""
    try:
        model = FloatModel(metadata, sources, label)
    except GGUFLikeError as error:
        raise UnsupportedError(
            f"cannot be calibrated, as it is not known what the model computes: {error.what}",
            field=error.field or field,
            tensor=error.tensor,
            expected=error.expected,
            got=error.got,
            remedy=remedy,
        ) from error
    if not isinstance(model.graph.head, Head):
        raise UnsupportedError("only models that make text are calibrated", field=field, got=label, remedy=remedy)
    return model


def longest(model: FloatModel, most: int = SEQUENCE) -> int:
    """Tokens of a sequence: ``most``, as far as the model can be computed with so many."""
    limits = (most, model.context, model.graph.reach, model.graph.embedding.positions)
    return min(limit for limit in limits if limit > 0)
