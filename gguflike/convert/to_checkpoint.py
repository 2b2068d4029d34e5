"""A GGUF file back to a Hugging Face folder, by the same rows that converted it."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gguflike import container
from gguflike.blocks import FORMATS
from gguflike.checkpoint.save import Entry, shards, write_json, write_tensors
from gguflike.checkpoint.sentence_transformers import documents, in_modules
from gguflike.checkpoint.tokenizer_json import tokenizer_config_from_metadata, tokenizer_json_from_metadata
from gguflike.checkpoint.vocabulary import SPECIAL_KEYS, Vocabulary
from gguflike.container import GGUFFile
from gguflike.convert.encode import SLAB_BYTES
from gguflike.convert.facts import single
from gguflike.convert.folder import check_free, new_folder
from gguflike.convert.generic import is_generic
from gguflike.convert.generic_export import GenericExportPlan, export_generic
from gguflike.convert.sources import Floats, GGUFSource, check, closing_sources, ranges, stamp
from gguflike.errors import GGUFError, GGUFLikeError, UnsupportedError, check_choice, counted
from gguflike.families import registry
from gguflike.families.family import Binding, Family, check_layers, expect_tensor
from gguflike.families.inert import scale_beside
from gguflike.families.origins import Piece
from gguflike.families.pooling import NUMBERS, pooling_config
from gguflike.families.transforms import Share
from gguflike.kernels.prepare import Need, prepare
from gguflike.progress import Progress

# Names of the option -> dtypes of safetensors, which are called as the block types are.
DTYPES: Mapping[str, str] = {"f32": "F32", "f16": "F16", "bf16": "BF16"}
_TORCH = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
_HEADER_ROOM = 1 << 20  # for the headers and the JSON files, in the estimate of space


class Run(NamedTuple):
    """Rows of a GGUF tensor, from ``first`` on, that become a piece of a tensor of the checkpoint: alone, or with those
    of other tensors that share it (transforms.Share)."""

    binding: Binding
    first: int
    piece: Piece
    others: tuple[Run, ...] = ()


@dataclass(frozen=True)
class _Scaled(GGUFSource):
    """A tensor of matrices by whose number, one for each, products with them are multiplied: a checkpoint has the
    products of both."""

    numbers: tuple[float, ...] = ()

    def read(self, start: int, stop: int, limit: float) -> Floats:
        rows = super().read(start, stop, np.inf)
        numbers = np.array(self.numbers, np.float32)
        made: Floats = rows * (numbers[start:stop, None, None] if rows.ndim > 2 else numbers[0])
        check(made, self.origin, start, limit)
        return made


@dataclass(frozen=True)
class ExportPlan:
    """What an export will write: config.json, and each file's tensors with the runs of GGUF rows that make each, or the
    value that is all it holds."""

    source: str
    target: Path
    dtype: str
    config: Mapping[str, Any] = field(repr=False)
    generation_config: Mapping[str, Any] = field(repr=False)
    modules: Mapping[str, Any] = field(repr=False)
    files: Mapping[str, list[Entry]] = field(repr=False)
    module_files: Mapping[str, list[Entry]] = field(repr=False)
    runs: Mapping[str, list[Run]] = field(repr=False)
    small: Mapping[str, Sequence[float]] = field(repr=False)

    @property
    def tensor_bytes(self) -> int:
        every = (*self.files.values(), *self.module_files.values())
        return sum(entry.nbytes for entries in every for entry in entries)

    def __str__(self) -> str:
        lines = [f"{self.source} -> {self.target}", f"{_TORCH[self.dtype]}: {self.tensor_bytes:,} bytes of tensors"]
        return "\n".join(
            [*lines, *(f"  {name}: {counted(len(entries), 'tensor')}" for name, entries in self.files.items())]
        )


def export(
    file: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    dtype: str = "auto",
    *,
    progress: Progress | None = None,
    dry_run: bool = False,
    overwrite: bool = False,
    generic: bool | None = None,
) -> ExportPlan | GenericExportPlan:
    """Write a GGUF file as a folder that Transformers loads: configuration, safetensors, tokenizer; return the plan.

    ``dtype`` is f32, f16, bf16, or auto: what the weight matrices are stored in where that is one of them, float32
    where they are quantized, because only float32 holds every dequantized value exactly. Under auto a vector that the
    dtype does not hold exactly stays float32. The folder appears complete or not at all; one that exists and is not
    empty, or a link in its place, is left alone (OutputError). ``overwrite`` replaces an earlier export, and nothing
    else. With ``generic``, which files made so say themselves, only the tensors are written, by the names and in the
    shapes of their network.

    GGUFError where the file breaks a rule or its data have changed, UnsupportedError for an architecture or a tokenizer
    that Transformers has no class for, ArgumentError for another ``dtype``, OSError where the file cannot be opened.
    """
    check_choice("dtype", dtype, ("auto", *DTYPES))
    check_free(Path(folder), overwrite)
    with container.open(file) as opened:
        if is_generic(opened.metadata) if generic is None else generic:
            options: Any = {"progress": progress, "dry_run": dry_run, "overwrite": overwrite}
            return export_generic(opened, Path(folder), DTYPES.get(dtype), **options)
        with _of(opened):
            plan, sources = _plan(opened, Path(folder), dtype)
            tokenizer = {
                "tokenizer.json": tokenizer_json_from_metadata(opened.metadata),
                "tokenizer_config.json": tokenizer_config_from_metadata(opened.metadata),
            }
        if dry_run:
            return plan
        done = 0

        def parts(entry: Entry) -> Iterator[memoryview]:
            nonlocal done
            if entry.name in plan.small:
                yield np.array(plan.small[entry.name], np.float32).data.cast("B")
                return
            for run in plan.runs[entry.name]:
                for part in _parts(sources, run, entry.dtype):
                    yield part
                    done += part.nbytes
                    if progress is not None:
                        progress(done, plan.tensor_bytes, entry.name)

        written = {
            "config.json": plan.config,
            "generation_config.json": plan.generation_config,
            **tokenizer,
        }
        stored = {source.stored for source in sources.values()}
        with closing_sources(), new_folder(plan.target, plan.tensor_bytes + _HEADER_ROOM, overwrite) as temporary:
            prepare((Need("decode", name) for name in sorted(stored) if FORMATS[name].is_quantized), progress)
            write_tensors(temporary, plan.files, parts)
            for file, entries in plan.module_files.items():
                write_tensors(temporary, {file: entries}, parts)
            for name, document in {**written, **plan.modules}.items():
                (temporary / name).parent.mkdir(exist_ok=True)
                write_json(temporary / name, document)
    return plan


@contextmanager
def _of(opened: GGUFFile) -> Iterator[None]:
    """Errors in this block name the file."""
    try:
        yield
    except GGUFLikeError as error:
        error.path = error.path or opened.path
        raise


def _plan(opened: GGUFFile, target: Path, dtype: str) -> tuple[ExportPlan, dict[str, GGUFSource]]:
    """The plan of an export, and the sources of the file's tensors by their names there."""
    if opened.architecture is None:
        raise GGUFError("the file names no architecture", path=opened.path, field="general.architecture")
    family = registry.for_gguf(opened.architecture).of_file(opened.metadata, opened.infos)
    config = _config(family, opened)
    vocabulary = Vocabulary.from_metadata(opened.metadata)
    runs = _runs(family, config, opened)
    sources = _sources(opened, runs)
    chosen = DTYPES[dtype] if dtype != "auto" else _own_dtype(sources)

    def held(name: str) -> str:
        made_of = (part.binding.gguf for run in runs[name] for part in (run, *run.others))
        fits = all(_holds(chosen, sources[gguf]) for gguf in made_of)
        return chosen if dtype != "auto" or fits else DTYPES["f32"]

    entries = [Entry(name, held(name), each[0].piece.hf_shape) for name, each in runs.items()]
    values = family.to_config(config)
    pooling = values.pop("pooling_type", None)
    small: dict[str, Sequence[float]] = {}  # tensors that a file holds as keys
    for key, each in family.small.items():
        shape, given = each.shape(config), values.pop(key)
        for index, name in enumerate(family.small_names(key, each.layers(config))):
            entries.append(Entry(name, DTYPES["f32"], shape))
            small[name] = given[index * prod(shape) : (index + 1) * prod(shape)]
    of_modules = in_modules(entries)
    others = [entry for entry in entries if not any(entry.name == each.name for e in of_modules.values() for each in e)]
    dense = {file.partition("/")[0]: each[0].shape for file, each in of_modules.items()}
    plan = ExportPlan(
        source=Path(opened.path).name,
        target=target,
        dtype=chosen,
        config={**_token_ids(opened.metadata, vocabulary), **values, "torch_dtype": _TORCH[chosen]},
        generation_config=_generation(opened.metadata, vocabulary),
        modules={} if pooling not in NUMBERS else documents(pooling_config(pooling, config.n_embd), dense),
        files=shards(others),
        module_files=of_modules,
        runs=runs,
        small=small,
    )
    return plan, sources


def _sources(opened: GGUFFile, runs: Mapping[str, Sequence[Run]]) -> dict[str, GGUFSource]:
    """The tensors of the file that ``runs`` read, by their names there."""
    stamps = tuple(stamp(path) for path in opened.paths)
    bindings = {
        part.binding.gguf: part.binding for each in runs.values() for run in each for part in (run, *run.others)
    }
    factors = _factors(opened, bindings)
    sources: dict[str, GGUFSource] = {}
    for name, binding in bindings.items():
        given = (opened.path, name, binding.shape, opened.infos[name].format.name, stamps, name)
        sources[name] = _Scaled(*given, numbers=tuple(factors[name])) if name in factors else GGUFSource(*given)
    return sources


def _own_dtype(sources: Mapping[str, GGUFSource]) -> str:
    """The dtype that all matrices have in the file, if it is one of a checkpoint; else float32."""
    matrices = {source.stored for name, source in sources.items() if not single(name, source.shape)}
    return matrices.pop() if len(matrices) == 1 and matrices <= set(DTYPES.values()) else DTYPES["f32"]


def _factors(opened: GGUFFile, bindings: Mapping[str, Binding]) -> dict[str, list[float]]:
    """By name of a tensor, the number of each of its matrices by which products are multiplied: NVFP4 has them.
    GGUFError unless there is one for each."""
    factors = {}
    for name, binding in bindings.items():
        beside = scale_beside(name)
        if beside is None or beside not in opened.infos or beside in bindings:
            continue
        expected, got = binding.shape[:-2] or (1,), opened.infos[beside].shape
        if got != expected:
            raise GGUFError(
                "there is not one scale for each matrix", path=opened.path, tensor=beside, expected=expected, got=got
            )
        factors[name] = opened.load(beside).dequantize().tolist()
    return factors


def _config(family: Family[Any], opened: GGUFFile) -> Any:
    config = family.from_file(opened.metadata, opened.infos.keys())

    def read(name: str) -> Floats:
        return opened.load(name).dequantize()

    return family.recover(config, read) if family.recover else config


def _runs(family: Family[Any], config: Any, opened: GGUFFile) -> dict[str, list[Run]]:
    """Name in the checkpoint -> what makes it, for every tensor of the file. GGUFError where file and family
    disagree."""
    check_layers(config, opened.path, len(opened.infos))
    bound = family.bind(config)
    for binding in bound:
        info = opened.infos.get(binding.gguf)
        remedy = "the file is incomplete, or was made for another architecture"
        expect_tensor(GGUFError, opened.path, binding.gguf, binding.shape, info and info.shape, remedy)
    known = {binding.gguf for binding in bound}
    beside = {scale_beside(name) for name in known}
    inputs = {name for name in opened.infos if name.endswith(".input_scale")}  # for those who round activations
    unknown = sorted(set(opened.infos) - known - beside - inputs)
    if unknown:
        raise UnsupportedError(
            f"{counted(len(unknown), 'tensor')} that no model of architecture {family.name} has",
            path=opened.path,
            tensor=unknown[0],
            remedy="`generic=True` writes all tensors, by their names in the file",
        )
    runs: dict[str, list[Run]] = {}
    for binding in bound:
        first = 0
        for piece in binding.pieces:
            runs.setdefault(piece.hf, []).append(Run(binding, first, piece))
            first += piece.rows
    return {name: _complete(name, each, opened.path) for name, each in runs.items()}


def _complete(name: str, runs: list[Run], path: str) -> list[Run]:
    """The runs that make one tensor, in order. GGUFError where the file does not have all of it."""
    ordered = _with_others(sorted(runs, key=lambda run: run.piece.start))
    rows, wanted = sum(run.piece.unused + run.piece.hf_rows for run in ordered), runs[0].piece.hf_shape[0]
    if rows != wanted:
        raise GGUFError("the file does not hold all of a tensor", path=path, tensor=name, expected=wanted, got=rows)
    return ordered


def _with_others(runs: list[Run]) -> list[Run]:
    """The first run of those that share their rows, with the others, in place of all; none where one is missing."""
    shares = {via.index: (run, via.of) for run in runs if isinstance(via := run.piece.via, Share)}
    if not shares:
        return runs
    if 0 not in shares or len(shares) != shares[0][1]:
        return []
    first, *others = (shares[index][0] for index in sorted(shares))
    return [first._replace(others=tuple(others))]


def _holds(dtype: str, source: GGUFSource) -> bool:
    """Whether a dtype holds exactly what files keep in float32. Matrices are in the dtype already, or it is float32."""
    if not single(source.name, source.shape):
        return True
    fmt = FORMATS[dtype]
    values = source.read(0, source.shape[0], FORMATS[DTYPES["f32"]].limit)
    if np.abs(values).max(initial=0.0) > fmt.limit:
        return False
    assert fmt.encode is not None  # the types of DTYPES have both
    assert fmt.decode is not None
    back = fmt.decode(fmt.encode(values).view(fmt.dtype)).reshape(values.shape)
    return bool((back == values).all())


def _parts(sources: Mapping[str, GGUFSource], run: Run, dtype: str) -> Iterator[memoryview]:
    fmt, piece = FORMATS[dtype], run.piece
    assert fmt.encode is not None
    source = sources[run.binding.gguf]
    stop = run.first + piece.rows
    if piece.unused:
        zeros = np.zeros((piece.unused, *piece.hf_shape[1:]), np.float32)
        yield np.ascontiguousarray(fmt.encode(zeros)).data.cast("B")
    for start, end in ranges(run.first, stop, source.shape[1:], piece.via.group, SLAB_BYTES):
        rows = source.read(start, end, fmt.limit)
        if isinstance(piece.via, Share):
            shares = [rows, *(sources[run.binding.gguf].read(start, end, fmt.limit) for run in run.others)]
            rows = piece.via.woven(shares)
        else:
            rows = piece.via.undo(rows[0] if piece.stacked else rows)
        if prod(rows.shape):
            yield np.ascontiguousarray(fmt.encode(rows)).data.cast("B")


def _token_ids(metadata: Mapping[str, Any], vocabulary: Vocabulary) -> dict[str, Any]:
    """bos, eos and pad of config.json, of those that the file says."""
    return {f"{role}_token_id": index for role, index in _said(metadata, vocabulary, ("bos", "eos", "pad")).items()}


def _said(metadata: Mapping[str, Any], vocabulary: Vocabulary, roles: Iterable[str]) -> dict[str, int]:
    """The ids of special tokens that the file has a key for. Where that names no token, it is what is assumed then."""
    special = vocabulary.special
    return {role: special[role] for role in roles if SPECIAL_KEYS[role] in metadata and role in special}


#: general.sampling.* -> keys of generation_config.json, and whether they are whole numbers.
_SAMPLING = {
    "temp": ("temperature", False),
    "top_k": ("top_k", True),
    "top_p": ("top_p", False),
    "min_p": ("min_p", False),
    "penalty_repeat": ("repetition_penalty", False),
}


def _generation(metadata: Mapping[str, Any], vocabulary: Vocabulary) -> dict[str, Any]:
    """generation_config.json: the token ids, every token that ends a turn, sampling defaults if given."""
    config = _token_ids(metadata, vocabulary)
    ends = set(_said(metadata, vocabulary, ("eos", "eot")).values())
    if len(ends) > 1:
        config["eos_token_id"] = sorted(ends)
    sampling = {
        name: _number(metadata, key, whole)
        for short, (name, whole) in _SAMPLING.items()
        if (key := f"general.sampling.{short}") in metadata
    }
    return {**config, **({"do_sample": True, **sampling} if sampling else {})}


def _number(metadata: Mapping[str, Any], key: str, whole: bool) -> int | float:
    """A number that JSON can say. GGUFError for anything else."""
    value = metadata[key]
    if isinstance(value, bool) or not isinstance(value, int if whole else int | float) or not math.isfinite(value):
        expected = "a whole number" if whole else "a finite number"
        raise GGUFError("wrong kind of value", field=key, expected=expected, got=repr(value)[:60])
    return value if whole else round(float(value), 6)
