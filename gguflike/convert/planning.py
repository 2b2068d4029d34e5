"""How a plan is made: types are chosen, what the model is calibrated on is settled, and the file is laid out."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from gguflike import container
from gguflike.blocks import FORMATS, BlockFormat, format_by_name
from gguflike.checkpoint.tokenizer import Reading
from gguflike.container import TensorSpec
from gguflike.container.layout import MAX_NAME_BYTES
from gguflike.container.splitting import Split, paths_of, plan_split
from gguflike.convert.effort import Effort
from gguflike.convert.facts import Facts
from gguflike.convert.mixes import Recipe
from gguflike.convert.plan import ConversionPlan
from gguflike.convert.planned import PlannedTensor
from gguflike.convert.recipe import RECIPES, Overrides
from gguflike.convert.selection import Selection
from gguflike.convert.sources import Floats, Source, stored_as
from gguflike.convert.target import place
from gguflike.errors import UnsupportedError, counted

if TYPE_CHECKING:
    from gguflike.convert.calibration import Calibration
    from gguflike.convert.folding import Folding
    from gguflike.convert.given_hessians import GivenHessians
    from gguflike.tensor import QuantizedTensor


def prepared(
    effort: Effort, metadata: Mapping[str, Any], sources: Sequence[Source], label: str
) -> tuple[Calibration | GivenHessians | None, Folding | None]:
    """How the model of these ``sources`` and ``metadata`` is calibrated, and what is folded in it, as far as that is
    asked for.

    UnsupportedError where the reference cannot run it, ArgumentError where a text cannot be read, CheckpointError for
    Hessians that are not of this model.
    """
    calibration: Calibration | GivenHessians | None = None
    folding = None
    if effort.hessians is not None:
        from gguflike.convert.given_hessians import hessians_of

        calibration = hessians_of(effort, metadata, sources, label)
    elif effort.is_calibrated:  # what only this needs is imported then, and with it the reference
        from gguflike.convert.calibration import calibration_of

        calibration = calibration_of(effort, metadata, sources, label)
    if effort.fold is not None:
        from gguflike.convert.folding import folding_of

        folding = folding_of(effort, metadata, sources, label)
    return calibration, folding


def make(
    *,
    source: str,
    target: str | os.PathLike[str] | None,
    recipe: Recipe,
    facts: Facts,
    sources: Sequence[Source],
    metadata: Mapping[str, Any],
    fixed: Callable[[Source], str | None],
    inputs: Iterable[str | os.PathLike[str]],
    selection: Selection,
    importance: Mapping[str, Floats] | None = None,
    notices: Sequence[str] = (),
    split: Split | None = None,
    tokenizer: Reading | None = None,
    calibration: Calibration | GivenHessians | None = None,
    folding: Folding | None = None,
    formats: Mapping[str, BlockFormat] | None = None,
) -> ConversionPlan:
    """Choose types and lay out the file. ``fixed`` gives the type of tensors that recipes do not touch, else None, and
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
    tensors = [_planned(each, recipe, facts, fixed, selection, importance or {}) for each in sources]
    if formats:
        tensors = [replace(t, format=f, wanted=f) if (f := formats.get(t.name)) else t for t in tensors]
        metadata = {**metadata, "general.file_type": most_of(tensors).file_type}
    tensors += [each for tensor in tensors for each in _beside(tensor)]
    if folding is not None:
        folding.check(tensors, recipe.name)
    _check_overrides(selection.tensor_types, [each.name for each in sources if fixed(each) is None])
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


def most_of(tensors: Sequence[PlannedTensor | QuantizedTensor]) -> Recipe:
    """The recipe of the type that most bytes of tensors are of."""
    bytes_of: Counter[str] = Counter()
    for tensor in tensors:
        bytes_of[tensor.format.name] += tensor.nbytes
    known = [each for each in RECIPES.values() if bytes_of[each.type]]
    return max(known, key=lambda recipe: bytes_of[recipe.type])


def _calibration_notices(plan: ConversionPlan) -> list[str]:
    """What of a calibrated plan is quantized without. UnsupportedError where that is all."""
    reached = {tensor.name for tensor in plan.calibrated}
    if not reached:
        short = next((tensor for tensor in plan.substitutions if tensor.format.is_float), None)
        other = "or choose a type such as Q4_K_M"
        if short is not None:
            other = f"as no block divides rows of {short.shape[-1]}"
        raise UnsupportedError(
            "nothing to calibrate: no matrix is encoded anew in blocks",
            field="effort",
            got=plan.recipe.name,
            remedy=f"leave out `effort`, {other}",
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
    fixed: Callable[[Source], str | None],
    selection: Selection,
    importance: Mapping[str, Floats],
) -> PlannedTensor:
    if (name := fixed(source)) is not None:
        return PlannedTensor(source, format_by_name(name), format_by_name(name))
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
