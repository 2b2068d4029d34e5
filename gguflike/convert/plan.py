"""The plan of a conversion: every tensor's type, size and source, decided before any data is read."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from gguflike.blocks import BlockFormat
from gguflike.checkpoint.tokenizer import Reading
from gguflike.container import FilePlan
from gguflike.container.splitting import paths_of
from gguflike.convert.mixes import Recipe
from gguflike.convert.planned import PlannedTensor
from gguflike.errors import counted
from gguflike.progress import Progress

if TYPE_CHECKING:
    from gguflike.convert.budget import Budget
    from gguflike.convert.calibration import Calibration
    from gguflike.convert.floats import FloatModel
    from gguflike.convert.folding import Folding
    from gguflike.convert.given_hessians import GivenHessians
    from gguflike.convert.stages import Stage
    from gguflike.convert.tuning import TuningPlan

Remade = Callable[[Mapping[str, BlockFormat]], "ConversionPlan"]
"""The plan of the same conversion in which the tensors of these names have these types."""


class Card(Protocol):
    """What measures a file (`gguflike.Card`)."""

    def blank(self, metadata: Mapping[str, Any], reference: str) -> dict[str, Any]:
        """Metadata that take as many bytes as the figures will. Errors for what cannot be measured at all.

        ``metadata`` are those of the file, ``reference`` what its model is called.
        """
        ...

    def filled(
        self,
        metadata: Mapping[str, Any],
        reference: str,
        path: str,
        write_floats: Callable[[str], object],
        threads: int | None,
        progress: Progress | None,
    ) -> dict[str, Any]:
        """The same with the figures of the file at ``path``, beside the one that ``write_floats(path)`` writes."""
        ...


@dataclass(frozen=True)
class ConversionPlan:
    """What a conversion will write. Pure and printable; ``files`` hold every size and offset: one, or the shards of a
    model in several. ``inputs`` are the files that it is made from, none of which can be the target.

    ``notices`` are things to know that no error stopped: shortened contexts, requantized sources, missing importance.
    ``calibration`` says on what text the model runs so that its matrices are rounded for it, or what Hessians are kept
    of such a run; None: they are not.
    """

    source: str
    target: Path | None
    recipe: Recipe
    metadata: Mapping[str, Any] = field(repr=False)
    tensors: tuple[PlannedTensor, ...] = field(repr=False)
    notices: tuple[str, ...]
    files: tuple[FilePlan, ...] = field(repr=False)
    inputs: tuple[str, ...] = field(repr=False)
    tokenizer: Reading | None = field(default=None, repr=False, compare=False)  # what the proof of it needs
    is_split: bool = False  # named as shards are, even if it is one file
    digests: Mapping[str, str] = field(default_factory=dict, repr=False)  # SHA-256 that tensors must have
    calibration: Calibration | GivenHessians | None = field(default=None, repr=False)
    folding: Folding | None = field(default=None, repr=False)  # scales that move before tensors are quantized
    budget: Budget | None = field(default=None, repr=False)  # where types are still to be chosen
    remade: Remade | None = field(default=None, repr=False, compare=False)  # the same with other types, for a budget
    outputs: str = field(default="", repr=False, compare=False)  # the folder with the factors that they were chosen by
    tuning: TuningPlan | None = field(default=None, repr=False, compare=False)  # how it is trained end to end
    card: Card | None = field(default=None, repr=False, compare=False)  # what measures the file for its header

    @property
    def file(self) -> FilePlan:
        """The file, or the shard that has the metadata."""
        return self.files[0]

    @property
    def layout(self) -> FilePlan | tuple[FilePlan, ...]:
        """The plan of the one file, or those of all shards."""
        return self.files if self.is_split else self.file

    @property
    def paths(self) -> tuple[str, ...]:
        """The files that appear; none where the plan names no target."""
        return () if self.target is None else tuple(os.fspath(path) for path, _ in paths_of(self.target, self.layout))

    @property
    def file_bytes(self) -> int:
        """Bytes of all files."""
        return sum(file.file_bytes for file in self.files)

    @property
    def parameters(self) -> int:
        return sum(tensor.weights for tensor in self.tensors)

    @property
    def bits_per_weight(self) -> float:
        """True bits per weight of the tensors: all of them, scales and norms included."""
        return 8 * sum(tensor.nbytes for tensor in self.tensors) / max(self.parameters, 1)

    @property
    def substitutions(self) -> tuple[PlannedTensor, ...]:
        """Tensors whose rows are no multiple of the block of the type that the recipe asks for."""
        return tuple(tensor for tensor in self.tensors if tensor.substituted)

    @property
    def calibrated(self) -> tuple[PlannedTensor, ...]:
        """The tensors that are rounded for the inputs which they have in the model."""
        if self.calibration is None:
            return ()
        reached = {place.name for place in self.calibration.matrices()}
        return tuple(t for t in self.tensors if t.format.is_quantized and not t.kept and t.name in reached)

    @property
    def stages(self) -> tuple[Stage, ...]:
        """What is done beside encoding, in its order; nothing where tensors are only encoded."""
        from gguflike.convert import stages, workload  # which few conversions need

        found: list[Stage] = []
        calibration, budget = self.calibration, self.budget
        if self.folding is not None:
            found.append(self.folding.stage({tensor.name: tensor.format for tensor in self.tensors}))
        if calibration is not None:
            found += calibration.stages(self.calibrated)
        if budget is not None and calibration is not None:
            found.insert(-1, calibration.choosing(budget.ladders, self.tensors))  # before they are rounded
        elif budget is not None:
            count = workload.expecting(budget.ladders, self.tensors)
            found.append(stages.stage_of(stages.TYPES, count, budget.speed, None))
        if self.tuning is not None:
            found.append(stages.Stage(stages.TUNING, self.tuning.seconds, self.tuning.memory))
        return tuple(found)

    def float_model(self) -> FloatModel:
        """The model that is converted, in floats. Errors as of `FloatModel`."""
        from gguflike.convert.floats import FloatModel  # and with it the reference

        said = {**self.metadata, **(self.tokenizer.metadata if self.tokenizer else {})}
        return FloatModel(said, (tensor.source for tensor in self.tensors), self.source)

    def by_type(self) -> dict[str, tuple[int, int, int]]:
        """Type -> number of tensors, weights, bytes; the most bytes first."""
        table: dict[str, tuple[int, int, int]] = {}
        for tensor in self.tensors:
            count, weights, size = table.get(tensor.format.name, (0, 0, 0))
            table[tensor.format.name] = (count + 1, weights + tensor.weights, size + tensor.nbytes)
        return dict(sorted(table.items(), key=lambda item: -item[1][2]))

    def __str__(self) -> str:
        target = f" -> {self.target}" if self.target else ""
        lines = [
            f"{self.source}{target}",
            f"{self.recipe.name}: {self.parameters:,} weights, {self.file_bytes:,} bytes, "
            f"{self.bits_per_weight:.3f} bits per weight",
        ]
        for name, (count, weights, size) in self.by_type().items():
            lines.append(f"  {name:<8} {counted(count, 'tensor', width=5)} {weights:>16,} weights {size:>16,} bytes")
        if self.is_split:
            largest = max(file.file_bytes for file in self.files)
            lines.append(f"in {counted(len(self.files), 'file')} of at most {largest:,} bytes")
        lines += self._kept_lines()
        lines += self.substitution_lines()
        if self.folding is not None:
            lines += self.folding.lines()
        if self.calibration is not None:
            lines += self.calibration.lines(self.calibrated)
        if any(each is not None for each in (self.calibration, self.budget, self.folding)):
            from gguflike.convert import stages

            own = [each for each in self.stages if each.name != stages.TUNING]  # which says that itself
            lines += stages.lines(own, 0 if self.calibration is None else self.calibration.disk)
        if self.tuning is not None:
            lines += self.tuning.lines()
        if self.budget is not None:
            where = "on this text" if self.calibration is not None else "by their encoders' errors"
            lines.append(f"types are chosen by what they cost {where}, {self.budget.line}")
        if self.card is not None:
            lines.append("measured on held-out text, beside the model in floats, of which a temporary file is made")
        lines += [f"notice: {notice}" for notice in self.notices]
        return "\n".join(lines)

    def _kept_lines(self) -> list[str]:
        found = Counter(t.format.name for t in self.tensors if t.kept)
        return [f"kept bit for bit: {counted(count, 'tensor')} of {name}" for name, count in found.items()]

    def substitution_lines(self) -> list[str]:
        """What is to be said of `substitutions`: a line for each pair of types and length of rows."""
        found = Counter((t.wanted.name, t.format.name, t.shape[-1]) for t in self.substitutions)
        return [
            f"substituted: {counted(count, 'tensor')} {got} instead of {wanted}, "
            f"whose block does not divide rows of {columns}"
            for (wanted, got, columns), count in found.items()
        ]
