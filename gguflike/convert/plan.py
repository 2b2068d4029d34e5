"""The plan of a conversion: every tensor's type, size and source, decided before any data is read."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gguflike import container
from gguflike.blocks import FORMATS, BlockFormat, format_by_name
from gguflike.checkpoint.tokenizer import Reading
from gguflike.container import FilePlan, TensorSpec
from gguflike.container.layout import MAX_NAME_BYTES
from gguflike.container.splitting import Split, paths_of, plan_split
from gguflike.convert.facts import Facts
from gguflike.convert.mixes import Recipe
from gguflike.convert.recipe import RECIPES, Overrides
from gguflike.convert.selection import Selection
from gguflike.convert.sources import Floats, Source, stored_as
from gguflike.convert.target import place
from gguflike.errors import UnsupportedError, counted

if TYPE_CHECKING:
    from gguflike.convert.budget import Budget
    from gguflike.convert.calibration import Calibration
    from gguflike.convert.carded import Card
    from gguflike.convert.folding import Folding
    from gguflike.convert.kept import Kept
    from gguflike.convert.tuned import TuningPlan


@dataclass(frozen=True)
class PlannedTensor:
    """One tensor of the file. ``wanted`` is the type the recipe asks for, where the shape does not allow it."""

    source: Source
    format: BlockFormat
    wanted: BlockFormat
    importance: Floats | None = field(default=None, repr=False, compare=False)

    @property
    def name(self) -> str:
        return self.source.name

    @property
    def shape(self) -> tuple[int, ...]:
        return self.source.shape

    @property
    def weights(self) -> int:
        return prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.format.tensor_bytes(self.shape)

    @property
    def kept(self) -> bool:
        """Whether the source holds the very blocks, which are copied."""
        return self.format.is_quantized and stored_as(self.source, self.format.name) is not None

    @property
    def substituted(self) -> bool:
        return self.format.name != self.wanted.name


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
    calibration: Calibration | Kept | None = field(default=None, repr=False)
    folding: Folding | None = field(default=None, repr=False)  # scales that move before tensors are quantized
    budget: Budget | None = field(default=None, repr=False)  # where types are still to be chosen
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
        if self.calibration is not None or self.budget is not None:
            from gguflike.convert import stages

            lines += stages.lines(self)
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


def make(
    *,
    source: str,
    target: str | os.PathLike[str] | None,
    recipe: Recipe,
    facts: Facts,
    sources: Sequence[Source],
    metadata: Mapping[str, Any],
    kept: Callable[[Source], str | None],
    inputs: Iterable[str | os.PathLike[str]],
    selection: Selection,
    importance: Mapping[str, Floats] | None = None,
    notices: Sequence[str] = (),
    split: Split | None = None,
    tokenizer: Reading | None = None,
    calibration: Calibration | Kept | None = None,
    folding: Folding | None = None,
    formats: Mapping[str, BlockFormat] | None = None,
) -> ConversionPlan:
    """Choose types and lay out the file. ``kept`` gives the type of tensors that recipes do not touch, else None, and
    ``formats`` those of tensors by name whose types are chosen already.

    OutputError where the target is one of ``inputs``: the files that the command reads. UnsupportedError
    where the selection is strict and there is something to know, and where a calibration has nothing to round.
    """
    if calibration is not None:
        metadata = {**metadata, **calibration.metadata()}
        inputs = (*inputs, *calibration.inputs)
        notices = (*notices, *calibration.notices)
    if folding is not None:
        metadata = {**metadata, **folding.metadata()}
        notices = (*notices, *folding.notices)
    paths = (*(os.fspath(path) for path in inputs), *selection.files)
    file = None if target is None else place(target, source, recipe.name)
    if file is not None:
        container.check_target(file, paths)
    tensors = [_planned(each, recipe, facts, kept, selection, importance or {}) for each in sources]
    if formats:
        tensors = [replace(t, format=f, wanted=f) if (f := formats.get(t.name)) else t for t in tensors]
        metadata = {**metadata, "general.file_type": most_of(tensors).file_type}
    tensors += [each for tensor in tensors for each in _beside(tensor)]
    _check_overrides(selection.tensor_types, [each.name for each in sources if kept(each) is None])
    again = [] if selection.allow_requantize else _requantized(tensors)
    said = [*notices, *again]
    if calibration is None:
        said += _importance_notices(recipe, tensors, importance)
    planned = ConversionPlan(
        source=source,
        target=file,
        recipe=recipe,
        metadata=metadata,
        tensors=tuple(tensors),
        notices=tuple(said),
        files=(),
        inputs=paths,
        tokenizer=tokenizer,
        calibration=calibration,
        folding=folding,
    )
    if calibration is not None:
        planned = replace(planned, notices=(*planned.notices, *_calibration_notices(planned)))
        if calibration.effort.is_tuned:
            from gguflike.convert.tuned import with_tuning

            planned = with_tuning(planned)
    specs = [TensorSpec(tensor.name, tensor.shape, tensor.format) for tensor in tensors]
    long = sum(len(tensor.name.encode()) > MAX_NAME_BYTES for tensor in tensors)
    if long:
        what = f"{counted(long, 'tensor')} with names of more than {MAX_NAME_BYTES} bytes"
        planned = replace(planned, notices=(*planned.notices, f"{what}: llama.cpp refuses the file"))
    if split is None:
        files = [container.plan(planned.metadata, specs, long_names=long > 0)]
    else:
        files = plan_split(planned.metadata, specs, split, long_names=long > 0)
    is_split = len(files) > 1  # what fits into one file is not named as a shard
    if file is not None and is_split:
        for path, _ in paths_of(file, files):
            container.check_target(path, paths)
    planned = replace(planned, files=tuple(files), is_split=is_split)
    if selection.strict:
        _refuse_notices(planned)
    return planned


def most_of(tensors: Sequence[PlannedTensor]) -> Recipe:
    """The recipe of the type that most bytes of a model are of."""
    bytes_of: Counter[str] = Counter()
    for tensor in tensors:
        bytes_of[tensor.format.name] += tensor.nbytes
    known = [each for each in RECIPES.values() if bytes_of[each.type]]
    return max(known, key=lambda recipe: bytes_of[recipe.type])


def _calibration_notices(plan: ConversionPlan) -> list[str]:
    """What of a calibrated plan is quantized without. UnsupportedError where that is all."""
    reached = {tensor.name for tensor in plan.calibrated}
    if not reached:
        raise UnsupportedError(
            "nothing to calibrate: no matrix is encoded anew in blocks",
            field="effort",
            got=plan.recipe.name,
            remedy="leave out `effort`, or choose a type such as Q4_K_M",
        )
    # An embedding is looked up, not multiplied.
    others = [t.name for t in plan.tensors if t.format.is_quantized and not t.kept and t.name not in reached]
    others = [name for name in others if not name.endswith("token_embd.weight")]
    return [f"not calibrated: {counted(len(others), 'tensor')}, {others[0]} first"] if others else []


def _refuse_notices(plan: ConversionPlan) -> None:
    """UnsupportedError where there is something to know of a plan."""
    said = [*plan.notices, *plan.substitution_lines()]
    if said:
        raise UnsupportedError(
            f"{len(said)} {'notice' if len(said) == 1 else 'notices'}, each an error by `strict=True`",
            got=" | ".join(said),
            remedy="leave `strict=True` out to accept them",
        )


def _planned(
    source: Source,
    recipe: Recipe,
    facts: Facts,
    kept: Callable[[Source], str | None],
    selection: Selection,
    importance: Mapping[str, Floats],
) -> PlannedTensor:
    fixed = kept(source)
    if fixed is not None:
        return PlannedTensor(source, format_by_name(fixed), format_by_name(fixed))
    choice = selection.choose(recipe, source.name, source.shape, facts)
    weights = importance.get(source.name)
    return PlannedTensor(source, choice.format, choice.wanted, weights if choice.format.is_quantized else None)


def _beside(tensor: PlannedTensor) -> list[PlannedTensor]:
    """What a file needs beside a tensor whose blocks are kept."""
    stored = stored_as(tensor.source, tensor.format.name)
    made = [(each, format_by_name(each.stored)) for each in (stored.beside() if stored else [])]
    return [PlannedTensor(each, fmt, fmt) for each, fmt in made]


def _check_overrides(overrides: Overrides, names: Sequence[str]) -> None:
    for pattern, fmt in overrides:
        if not any(pattern.search(name) for name in names):
            raise UnsupportedError(
                "no weight matrix has a name that this tensor type is for",
                field="tensor_types",
                got=f"{pattern.pattern}={fmt.name}",
                remedy="names are those of GGUF, such as blk.0.attn_v.weight",
            )


def _importance_notices(
    recipe: Recipe, tensors: Sequence[PlannedTensor], importance: Mapping[str, Floats] | None
) -> list[str]:
    quantized = [t for t in tensors if t.format.is_quantized]
    if importance is None:
        wants = recipe.wants_imatrix and quantized
        return [f"{recipe.name} loses much without an importance matrix (`imatrix`)"] if wants else []
    # The embedding is looked up, not multiplied, so no importance matrix covers it.
    without = [t.name for t in quantized if t.importance is None and t.name != "token_embd.weight"]
    if not without:
        return []
    return [f"no importance for {len(without)} of {len(quantized)} quantized tensors, {without[0]} first"]


def _requantized(tensors: Sequence[PlannedTensor]) -> list[str]:
    """A notice for sources that have lost precision before and are encoded anew."""
    again = [t for t in tensors if t.source.stored != t.format.name]
    stored = [FORMATS[t.source.stored] for t in again if t.source.stored in FORMATS]
    counted = Counter(fmt.name for fmt in stored if fmt.is_quantized)
    listed = ", ".join(f"{count} of {name}" for name, count in counted.most_common())
    return [f"encoded anew from tensors that are quantized already: {listed}"] if counted else []
