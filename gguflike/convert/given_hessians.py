"""Rounding with Hessians that `gguflike.calibrate` has kept: no text is read, and the model does not run.

They are of the inputs that matrices have in the float model. What rounding has changed of them before a matrix is not
known, so that it is not made up for: a calibration of its own loses less (see spec/calibration.md).
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gguflike.calibrate import needs
from gguflike.calibrate.rounding import DEFAULT, Rounding
from gguflike.calibrate.store import Group, Store
from gguflike.calibrate.tables import EMBEDDING, OUTPUT
from gguflike.calibrate.texts import Text
from gguflike.container import Typed, ValueType
from gguflike.convert import workload
from gguflike.convert.calibration import digest, float_model
from gguflike.convert.effort import Effort
from gguflike.convert.floats import FloatModel
from gguflike.convert.planned import PlannedTensor
from gguflike.convert.sources import Floats, Source
from gguflike.convert.stages import ROUNDING, TYPES, Stage, stage_of
from gguflike.errors import CheckpointError, counted
from gguflike.families.parts import Graph, Head, Place
from gguflike.progress import Progress

_AGAIN = "calibrate this source, with `hessians`"


class About(NamedTuple):
    """How Hessians were made: of the model ``source``, on ``tokens`` tokens of ``texts``, which have this ``sha256``,
    in ``sequences`` of at most ``context``. ``rest`` is the SHA-256 of what the model has beside matrices."""

    source: str
    texts: tuple[str, ...]
    sha256: str
    sequences: int
    tokens: int
    context: int
    rest: str

    @classmethod
    def of(cls, source: str, texts: Sequence[Text], ids: Sequence[Sequence[int]], context: int, rest: str) -> About:
        """Of Hessians that were made of the token ``ids``."""
        names = tuple(text.name for text in texts)
        return cls(source, names, digest(texts), len(ids), sum(map(len, ids)), context, rest)

    @classmethod
    def read(cls, store: Store) -> About:
        """What a folder says of its Hessians. CheckpointError where that is not all."""
        try:
            said = cls(**{**store.about, "texts": tuple(store.about["texts"])})
        except (TypeError, KeyError):
            said = None
        if said is not None:
            texts, numbers = (said.source, said.sha256, said.rest, *said.texts), said[3:6]
            if all(isinstance(each, str) for each in texts) and all(isinstance(each, int) for each in numbers):
                return said
        got = repr(store.about)[:80]
        raise CheckpointError("it is not said how the Hessians were made", path=store.index, got=got)


@dataclass(frozen=True)
class GivenHessians:
    """How a conversion rounds with the Hessians of a ``store``. ``about`` says how they were made, ``speed`` how many
    operations are made in a second."""

    effort: Effort
    model: FloatModel = field(repr=False, compare=False)
    store: Store = field(repr=False, compare=False)
    about: About
    rounding: Rounding = DEFAULT
    speed: float | None = field(default=None, compare=False)
    table = None  # of rows that are looked up, nothing is known
    disk = 0  # beside the file

    @property
    def notices(self) -> tuple[str, ...]:
        return ()

    @property
    def graph(self) -> Graph:
        return self.model.graph

    @property
    def inputs(self) -> tuple[str, ...]:
        """The files that are read."""
        return tuple(map(os.fspath, (self.store.index, *map(self.store.path, self.store.groups))))

    def matrices(self) -> Iterator[Place]:
        """The matrices whose Hessians there are."""
        return (place for place in self.graph.tensors() if place.tensor.is_matrix and place.name in self.store)

    def lines(self, tensors: Sequence[PlannedTensor]) -> list[str]:
        """What is to be said of it in a plan that rounds these tensors."""
        about = self.about
        return [
            f"effort 1: {counted(len(tensors), 'tensor')} rounded with the Hessians in {self.store.folder}, of "
            f"{about.tokens:,} tokens of {', '.join(about.texts)}",
            "they are of the float model: what rounding changes of the inputs of later matrices is not made up for",
        ]

    def document(self) -> dict[str, Any]:
        """The same for programs."""
        return {
            "effort": self.effort.level,
            "texts": list(self.about.texts),
            "tokens": self.about.tokens,
            "sequences": self.about.sequences,
            "longest_sequence": self.about.context,
            "held_out": [],
            "hessians": os.fspath(self.store.folder),
        }

    def stages(self, tensors: Sequence[PlannedTensor]) -> list[Stage]:
        """As of `Calibration`: there is nothing but the rounding."""
        return [stage_of(ROUNDING, workload.rounding(tensors), self.speed, self.memory)]

    def choosing(self, ladders: workload.Ladders, tensors: Sequence[PlannedTensor]) -> Stage:
        """The stage in which is measured what each type of its ladder costs a tensor."""
        return stage_of(TYPES, workload.choosing(ladders, tensors, is_loss_aware=False), self.speed, self.memory)

    @property
    def memory(self) -> int:
        """Bytes that rounding takes at most, about, and measuring types less."""
        return needs.BASE + needs.alone(self.graph)

    def metadata(self) -> dict[str, Any]:
        """What a file says of how it was rounded."""
        prefix, about = "gguflike.calibration", self.about
        return {
            f"{prefix}.effort": Typed(self.effort.level, ValueType.UINT32),
            f"{prefix}.texts": list(about.texts),
            f"{prefix}.sha256": about.sha256,
            f"{prefix}.tokens": Typed(about.tokens, ValueType.UINT64),
            f"{prefix}.sequence": Typed(about.context, ValueType.UINT32),
            f"{prefix}.hessians": "float",
            f"{prefix}.options": [f"{name}={value}" for name, value in vars(self.rounding).items()],
        }

    def watch(
        self,
        found: Callable[[tuple[str, ...], Any], None],
        known: Container[str],
        folder: Path,  # noqa: ARG002 - as of `Calibration`
        threads: int | None,  # noqa: ARG002
        progress: Progress,
    ) -> None:
        """Tell ``found`` of each group of matrices its names, and the statistics of what they multiply, unless all of
        them are ``known``."""
        for number, group in enumerate(self.store.groups):
            progress(number, len(self.store.groups), group.names[0])
            if not all(name in known for name in group.names):
                found(group.names, self.store[group.names[0]])

    def check(self) -> None:
        """CheckpointError where embedding, norms or biases are others than those of the model that was calibrated."""
        got = self.model.rest()
        if got != self.about.rest:
            raise self._other("embedding, norms and biases", self.about.rest, got)

    def check_matrix(self, name: str, weights: Floats) -> None:
        """CheckpointError where a matrix is another than that whose inputs were summed up."""
        group = self.store.group(name)
        expected = group.sha256[group.names.index(name)]
        got = hashlib.sha256(np.ascontiguousarray(weights, "<f4").data).hexdigest()
        if got != expected:
            raise self._other(name, expected, got)

    def _other(self, what: str, expected: str, got: str) -> CheckpointError:
        return CheckpointError(
            f"the Hessians are of another model, {self.about.source}: its {what} had other values",
            path=self.store.folder,
            field="hessians",
            expected=f"SHA-256 {expected[:16]}",
            got=got[:16],
            remedy=_AGAIN,
        )


def hessians_of(effort: Effort, metadata: Mapping[str, Any], sources: Sequence[Source], label: str) -> GivenHessians:
    """How the model of these ``sources`` and ``metadata`` is rounded with the Hessians that ``effort`` names.

    CheckpointError where the folder holds none, or they are not of this model as far as names and shapes say;
    UnsupportedError as of `float_model`.
    """
    assert effort.hessians is not None
    try:
        store = Store(Path(effort.hessians))
    except CheckpointError as error:
        error.field, error.remedy = "hessians", _AGAIN
        raise
    about = About.read(store)
    model = float_model(metadata, sources, label, "hessians")
    for group in store.groups:
        for name in group.names:
            _check_shape(model, store, group, name)
    head = EMBEDDING if isinstance(model.graph.head, Head) and model.graph.head.tied else OUTPUT
    if head not in store:
        raise CheckpointError("no Hessian of the output matrix", path=store.index, tensor=head, remedy=_AGAIN)
    return GivenHessians(effort, model, store, about, speed=workload.speed())


def _check_shape(model: FloatModel, store: Store, group: Group, name: str) -> None:
    """CheckpointError unless the model has such a tensor."""
    shape = model.sources[name].shape if name in model.sources else ()
    stack = (len(group.tokens),) if group.stacked else ()
    if len(shape) != len(stack) + 2 or (*shape[:-2], shape[-1]) != (*stack, group.columns):
        raise CheckpointError(
            "the Hessians are of another model",
            path=store.folder,
            field="hessians",
            tensor=name,
            expected=f"shape ({', '.join(map(str, (*stack, 'n', group.columns)))})",
            got=f"shape {shape}" if shape else "no such tensor",
            remedy=_AGAIN,
        )
