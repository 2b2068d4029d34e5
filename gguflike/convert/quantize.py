"""A GGUF file to another of a different type."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import Executor
from functools import partial
from pathlib import Path
from typing import Any

from gguflike import container
from gguflike.blocks import format_by_name
from gguflike.container import GGUFFile
from gguflike.container.splitting import split_of
from gguflike.convert import imatrix as imatrices
from gguflike.convert import metadata as general
from gguflike.convert import plan as plans
from gguflike.convert import recipe as recipes
from gguflike.convert.execute import check_options, execute
from gguflike.convert.facts import Facts, facts
from gguflike.convert.mixes import Recipe
from gguflike.convert.plan import ConversionPlan
from gguflike.convert.resume import with_notice
from gguflike.convert.sources import GGUFSource, Source, closing_sources, stamp
from gguflike.progress import Progress
from gguflike.tensor import Method

_DROPPED = ("split.", "gguflike.digest.", "gguflike.recipe", "gguflike.imatrix")


def quantize_file(
    src: str | os.PathLike[str],
    out: str | os.PathLike[str] | None,
    type: str,
    *,
    executor: Executor | None = None,
    progress: Progress | None = None,
    dry_run: bool = False,
    tensor_types: Sequence[str] = (),
    imatrix: str | os.PathLike[str] | None = None,
    threads: int | None = None,
    method: Method = "search",
    overwrite: bool = True,
    resume: bool = True,
    split_max_size: int | str | None = None,
    split_max_tensors: int | None = None,
    no_tensor_first_split: bool = False,
) -> ConversionPlan:
    """Write the GGUF file ``src`` (or the split model it belongs to) as ``type`` to ``out``; return the plan.

    Any architecture will do: roles are told by tensor names. Tensors that have their type already are copied byte for
    byte; encoding anew what was quantized before loses more than quantizing the original, and the plan says so. The
    other arguments are those of `gguflike.convert`.
    """
    recipe, overrides = recipes.by_name(type), recipes.overrides(tensor_types)
    check_options(method, threads)
    split = split_of(split_max_size, split_max_tensors, no_tensor_first_split)
    with container.open(src) as file:
        stamps = tuple(stamp(path) for path in file.paths)
        sources: list[Source] = [
            GGUFSource(file.path, info.name, info.shape, info.format.name, stamps) for info in file.infos.values()
        ]
        matrix = imatrices.read(imatrix) if imatrix is not None else None
        importance, notices = imatrices.match(matrix, sources)
        known = facts(file.metadata, {info.name: info.shape for info in file.infos.values()}, matrix is not None)
        planned = plans.make(
            source=Path(src).name,
            target=out,
            recipe=recipe,
            facts=known,
            sources=sources,
            metadata=_metadata(file, recipe, tensor_types, matrix.name if matrix else None),
            kept=partial(_kept, known),
            inputs=(*file.paths, *(matrix.paths if matrix else ())),
            overrides=overrides,
            importance=importance,
            notices=notices,
            split=split,
        )
    planned = with_notice(planned, method, resume)
    if not dry_run:
        with closing_sources():
            execute(
                planned,
                executor=executor,
                progress=progress,
                threads=threads,
                method=method,
                overwrite=overwrite,
                resume=resume,
            )
    return planned


def _kept(known: Facts, source: Source) -> str | None:
    """What is not a weight matrix stays as it is."""
    is_weights = known.quantizable(source.name, source.shape) and not format_by_name(source.stored).is_integer
    return None if is_weights else source.stored


def _metadata(file: GGUFFile, recipe: Recipe, overrides: Sequence[str], imatrix: str | None) -> dict[str, Any]:
    """Everything the source says, except what no longer holds."""
    metadata: dict[str, Any] = {key: file.metadata.typed(key) for key in file.metadata if not key.startswith(_DROPPED)}
    source = file.metadata.get("gguflike.source", Path(file.path).name)
    return metadata | {
        "general.file_type": recipe.file_type,
        "general.quantization_version": general.QUANTIZATION_VERSION,
        **general.provenance(source, recipe, overrides, imatrix),
        "gguflike.source.file": Path(file.path).name,
    }
