"""A GGUF file into several, and several into one: the same tensors, byte for byte, and the same metadata.

Digests are renewed where the source has them, and are compared with what it states as tensors are copied.
"""

from __future__ import annotations

import os
from pathlib import Path

from gguflike import container
from gguflike.container import GGUFFile, TensorSpec
from gguflike.container.digest import recorded
from gguflike.container.shards import PREFIX
from gguflike.container.splitting import Split, paths_of, plan_split, split_of
from gguflike.convert.execute import carry_out
from gguflike.convert.mixes import COPY
from gguflike.convert.plan import ConversionPlan
from gguflike.convert.planned import PlannedTensor
from gguflike.convert.sources import GGUFSource, stamp
from gguflike.errors import OutputError, UnsupportedError
from gguflike.progress import Progress

MAX_TENSORS = 128  # of a file where no limit is given, as in llama.cpp's gguf-split


def split(
    src: str | os.PathLike[str],
    prefix: str | os.PathLike[str],
    *,
    split_max_size: int | str | None = None,
    split_max_tensors: int | None = None,
    no_tensor_first_split: bool = False,
    progress: Progress | None = None,
    dry_run: bool = False,
    overwrite: bool = False,
    resume: bool = True,
) -> ConversionPlan:
    """Write the GGUF file ``src`` as several, PREFIX-00001-of-00003.gguf and so on; return the plan carried out.

    ``split_max_size`` is the number of bytes of tensors in a file, or text such as "4G" (thousands of thousands
    of thousands; "4GiB" are of 1,024), and ``split_max_tensors`` their number, 128 where neither is given.
    ``no_tensor_first_split`` puts nothing but metadata into the first file. A model that is split already is split
    anew.

    DigestError where a tensor is not what the digests in ``src`` say. All files appear or, where the disk allows it,
    none; ``overwrite`` and ``resume`` are those of `gguflike.convert`.
    """
    given = split_of(split_max_size, split_max_tensors, no_tensor_first_split) or Split()
    if given.max_bytes is None and given.max_tensors is None:
        given = Split(max_tensors=MAX_TENSORS, metadata_first=given.metadata_first)
    if not os.path.basename(os.fspath(prefix)):  # noqa: PTH119 - a Path drops the slash
        remedy = "give the beginning of a name, such as model in that folder"
        raise OutputError("the target is a folder", path=prefix, remedy=remedy)
    planned = _planned(src, prefix, given)
    return carry_out(planned, dry_run=dry_run, progress=progress, overwrite=overwrite, resume=resume)


def merge(
    shard: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    progress: Progress | None = None,
    dry_run: bool = False,
    overwrite: bool = False,
    resume: bool = True,
) -> ConversionPlan:
    """Write a model that is split into several files as one, ``out``; return the plan carried out.

    ``shard`` is any of the files; the others are found by its name. DigestError where a tensor is not what the digests
    in them say, UnsupportedError where the file is none of several. ``overwrite`` and ``resume`` are those of
    `gguflike.convert`.
    """
    planned = _planned(shard, out, None)
    return carry_out(planned, dry_run=dry_run, progress=progress, overwrite=overwrite, resume=resume)


def _planned(src: str | os.PathLike[str], target: str | os.PathLike[str], split: Split | None) -> ConversionPlan:
    digests = _digests(src)
    with container.open(src) as file:
        if split is None and not _is_split(file):
            raise UnsupportedError(
                "the file is none of a model in several",
                path=src,
                expected=f"{PREFIX}count in its metadata, and a name such as model-00001-of-00003.gguf",
                remedy="it is one file already",
            )
        stamps = tuple(stamp(path) for path in file.paths)
        infos = list(file.infos.values())
        specs = [TensorSpec(info.name, info.shape, info.format) for info in infos]
        metadata = {key: file.metadata.typed(key) for key in file.metadata if not key.startswith(PREFIX)}
        if split is None:
            files = [container.plan(metadata, specs, digests=digests is not None, long_names=True)]
        else:
            files = plan_split(metadata, specs, split, always=True, digests=digests is not None, long_names=True)
        planned = ConversionPlan(
            source=Path(file.path).name,
            target=Path(target),
            recipe=COPY,
            metadata=metadata,
            tensors=tuple(
                PlannedTensor(
                    GGUFSource(file.path, info.name, info.shape, info.format.name, stamps, info.name),
                    info.format,
                    info.format,
                )
                for info in infos
            ),
            notices=(),
            files=tuple(files),
            inputs=file.paths,
            is_split=split is not None,
            digests=digests or {},
        )
    for path, _ in paths_of(target, planned.layout):
        container.check_target(path, planned.inputs)
    return planned


def _is_split(file: GGUFFile) -> bool:
    return len(file.paths) > 1 or any(key.startswith(PREFIX) for key in file.metadata)


def _digests(src: str | os.PathLike[str]) -> dict[str, str] | None:
    """The digest that each tensor is said to have; None where one of the files says none."""
    with container.open(src) as whole:
        stated = [recorded(file.metadata, list(file.infos)) for file in whole.shards]
    if any(each is None for each in stated):
        return None
    return {name: digest for each in stated if each is not None for name, digest in each.tensors.items()}
