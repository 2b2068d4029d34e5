"""A GGUF file to another of a different type."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import Executor
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gguflike import container
from gguflike.blocks import format_by_name
from gguflike.container import GGUFFile
from gguflike.container.reader import original_shape
from gguflike.container.splitting import Split, split_of
from gguflike.convert import generic, planning
from gguflike.convert import imatrix as imatrices
from gguflike.convert import metadata as general
from gguflike.convert import recipe as recipes
from gguflike.convert.budget import Beside, Limit, check_limit, limit_of
from gguflike.convert.carded import with_card
from gguflike.convert.effort import NONE, Chat, Effort, check_together, effort_of
from gguflike.convert.execute import carry_out, check_options
from gguflike.convert.facts import Facts, facts
from gguflike.convert.mixes import COPY, Recipe
from gguflike.convert.plan import Card, ConversionPlan
from gguflike.convert.planning import prepared
from gguflike.convert.selection import Selection, SelectionOptions, select
from gguflike.convert.sized import sized
from gguflike.convert.sources import GGUFSource, Source, stamp
from gguflike.errors import ArgumentError
from gguflike.progress import Progress
from gguflike.tensor import Method

if TYPE_CHECKING:
    from typing_extensions import Unpack

_PARTS = ("split.", "gguflike.digest.")
_QUANTIZED = ("gguflike.recipe", "gguflike.imatrix", "gguflike.calibration", "gguflike.quality", "gguflike.activations")


def quantize_file(
    src: str | os.PathLike[str],
    out: str | os.PathLike[str] | None,
    type: str,
    *,
    executor: Executor | None = None,
    progress: Progress | None = None,
    dry_run: bool = False,
    imatrix: str | os.PathLike[str] | None = None,
    threads: int | None = None,
    method: Method = "search",
    overwrite: bool = False,
    resume: bool = True,
    split_max_size: int | str | None = None,
    split_max_tensors: int | None = None,
    no_tensor_first_split: bool = False,
    keep_split: bool = False,
    effort: int = 0,
    calibration: Sequence[str | os.PathLike[str]] = (),
    calibration_tokens: int | None = None,
    size: int | str | None = None,
    bpw: float | None = None,
    fit_ram: int | str | None = None,
    context: int | None = None,
    beside: Beside | None = None,
    seed: int = 0,
    chat: Chat | None = None,
    fold: str | None = None,
    hessians: str | os.PathLike[str] | None = None,
    card: Card | None = None,
    **options: Unpack[SelectionOptions],
) -> ConversionPlan:
    """Write the GGUF file ``src`` (or the split model it belongs to) as ``type`` to ``out``; return the plan.

    Any architecture will do: roles are told by tensor names. Tensors that have their type already are copied byte for
    byte, all of them where ``type`` is COPY; encoding anew what was quantized before loses more than quantizing the
    original, and the plan says so. ``keep_split`` makes as many files as ``src`` has, each with the same tensors. The
    other arguments are those of `gguflike.convert`; with an ``effort`` the model in ``src`` runs as it is stored there.
    """
    check_options(method, threads)
    asked = effort_of(effort, calibration, calibration_tokens, seed, chat, fold, hessians)
    check_together(asked, executor=executor, method=method if method != "search" else None)
    split = split_of(split_max_size, split_max_tensors, no_tensor_first_split)
    planned = plan_quantization(
        src, out, type, imatrix, split, keep_split, asked, limit_of(size, bpw, fit_ram, context, beside), **options
    )
    return carry_out(
        planned if card is None else with_card(planned, card),
        dry_run=dry_run,
        executor=executor,
        progress=progress,
        threads=threads,
        method=method,
        overwrite=overwrite,
        resume=resume,
    )


def plan_quantization(
    src: str | os.PathLike[str] | GGUFFile,
    out: str | os.PathLike[str] | None,
    type: str,
    imatrix: str | os.PathLike[str] | None = None,
    split: Split | None = None,
    keep_split: bool = False,
    effort: Effort = NONE,
    limit: Limit | None = None,
    **options: Unpack[SelectionOptions],
) -> ConversionPlan:
    """The plan of `quantize_file`, from the header of the file: one that is open already may be all there is of it
    here, for a plan that is not carried out."""
    recipe, selection = limit.recipe if limit else by_name(type), select(options)
    check_together(effort, imatrix=imatrix)
    check_limit(limit, selection)
    if keep_split and split is not None:
        remedy = "leave out `keep_split`, or the limits of files"
        raise ArgumentError(
            "files are cut either as those of the source or by limits", field="keep_split", remedy=remedy
        )
    with nullcontext(src) if isinstance(src, GGUFFile) else container.open(src) as file:
        stamps = tuple(stamp(path) for path in file.paths)
        sources: list[Source] = [
            GGUFSource(file.path, info.name, info.shape, info.format.name, stamps, selection.renamed(info.name))
            for info in file.infos.values()
            if not selection.leaves_out(info.name)
        ]
        matrix = imatrices.read(imatrix) if imatrix is not None else None
        importance, notices = imatrices.match(matrix, sources, selection)
        metadata = selection.with_overrides(_metadata(file, recipe, selection, matrix.name if matrix else None))
        is_weighed = bool(importance) or effort.is_calibrated
        known = facts(metadata, {source.name: source.shape for source in sources}, is_weighed)
        metadata, counted = selection.without_layers(metadata)
        fixed = partial(_fixed_type, known, recipe, selection)
        if generic.is_generic(file.metadata):
            check_together(effort, generic=True)
            selection = replace(selection, pure=True)
            fixed = partial(generic.fixed_again, recipe, _network_shapes(file))
        label = Path(file.path).name
        calibration, folding = prepared(effort, metadata, sources, label)
        make = partial(
            planning.make,
            source=label,
            target=out,
            recipe=recipe,
            facts=known,
            sources=sources,
            metadata=metadata,
            fixed=fixed,
            inputs=(*file.paths, *(matrix.paths if matrix else ())),
            selection=selection,
            importance=importance,
            notices=[*notices, *counted],
            split=_same_shards(file, selection) if keep_split else split,
            calibration=calibration,
            folding=folding,
        )
        return sized(lambda formats: make(formats=formats), limit, selection)


def _network_shapes(file: GGUFFile) -> dict[str, tuple[int, ...]]:
    """The shape of each tensor in its network."""
    stated = ((name, info.shape, original_shape(file, info)) for name, info in file.infos.items())
    return {name: shape if own is None else own for name, shape, own in stated}


def _same_shards(file: GGUFFile, selection: Selection) -> Split | None:
    """The files that the source has, without those whose layers are all left out; None where it is one."""
    left = Counter(info.shard for info in file.infos.values() if not selection.leaves_out(info.name))
    counts = [left[number] for number in range(len(file.paths))]
    return Split(counts=tuple(c for i, c in enumerate(counts) if c or i == 0)) if len(counts) > 1 else None


def by_name(type: str) -> Recipe:
    """The recipe of a name, or COPY."""
    return COPY if isinstance(type, str) and type.upper() == COPY.name else recipes.by_name(type)


def _fixed_type(known: Facts, recipe: Recipe, selection: Selection, source: Source) -> str | None:
    """What is not a weight matrix stays as it is, and so does what was asked to."""
    is_weights = known.quantizable(source.name, source.shape) and not format_by_name(source.stored).is_integer
    return source.stored if not is_weights or recipe is COPY or selection.keeps(source.name) else None


def _metadata(file: GGUFFile, recipe: Recipe, selection: Selection, imatrix: str | None) -> dict[str, Any]:
    """Everything the source says, except what no longer holds."""
    dropped = _PARTS if recipe is COPY else (*_PARTS, *_QUANTIZED)
    metadata: dict[str, Any] = {key: file.metadata.typed(key) for key in file.metadata if not key.startswith(dropped)}
    if recipe is COPY:
        return metadata
    source = file.metadata.get("gguflike.source", Path(file.path).name)
    return metadata | {
        "general.file_type": recipe.file_type,
        "general.quantization_version": general.QUANTIZATION_VERSION,
        **general.provenance(source, recipe, selection, imatrix),
        "gguflike.source.file": general.readable(Path(file.path).name),
    }
