"""A Hugging Face checkpoint to a GGUF file."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Executor
from math import prod
from typing import Any

from gguflike import checkpoint
from gguflike.arch import hparams, registry
from gguflike.arch.spec import ArchSpec, Binding, HParams, expect_tensor, holds
from gguflike.checkpoint import Checkpoint, LazyTensor
from gguflike.checkpoint.safetensors import FLOATS, same_values
from gguflike.checkpoint.tokenizer import metadata_from_folder
from gguflike.container import Typed, ValueType
from gguflike.convert import imatrix as imatrices
from gguflike.convert import metadata as general
from gguflike.convert import plan as plans
from gguflike.convert import recipe as recipes
from gguflike.convert.execute import check_options, execute
from gguflike.convert.plan import ConversionPlan
from gguflike.convert.recipe import Facts
from gguflike.convert.sources import CheckpointSource, MadeSource, Source
from gguflike.errors import ArgumentTypeError, CheckpointError, UnsupportedError
from gguflike.progress import Progress
from gguflike.tensor import Method


def convert(
    src: str | os.PathLike[str],
    out: str | os.PathLike[str] | None,
    type: str = "Q4_K_M",
    *,
    executor: Executor | None = None,
    progress: Progress | None = None,
    dry_run: bool = False,
    tensor_types: Sequence[str] = (),
    imatrix: str | os.PathLike[str] | None = None,
    threads: int | None = None,
    method: Method = "search",
    name: str | None = None,
    revision: str | None = None,
    ignore_config: Iterable[str] = (),
    overwrite: bool = True,
) -> ConversionPlan:
    """Convert a checkpoint folder or Hub id to a GGUF file of the recipe ``type``; return the plan carried out.

    ``tensor_types`` are ``REGEX=TYPE`` overrides, ``imatrix`` an importance matrix, ``ignore_config`` config keys to
    accept unread. With ``dry_run`` the plan is all: nothing is written, ``out`` may be None, and no tensor is read (but
    an output matrix that config.json ties to the embedding is compared with it, and kept where they differ). One tensor
    (of a large one, a slab) is in memory at a time, or one per worker of ``executor``. The target appears complete or
    not at all; one that is a file of the checkpoint, by whatever path or link, or the importance matrix, is refused.
    """
    check_options(method, threads)
    planned = plan_conversion(src, out, type, tensor_types, imatrix, name, revision, ignore_config)
    if not dry_run:
        execute(
            planned,
            executor=executor,
            progress=progress,
            threads=threads,
            method=method,
            overwrite=overwrite,
        )
    return planned


def plan_conversion(
    src: str | os.PathLike[str],
    out: str | os.PathLike[str] | None,
    type: str,
    tensor_types: Sequence[str] = (),
    imatrix: str | os.PathLike[str] | None = None,
    name: str | None = None,
    revision: str | None = None,
    ignore_config: Iterable[str] = (),
) -> ConversionPlan:
    """The plan of `convert`, from the configuration and the headers of the checkpoint."""
    recipe, overrides = recipes.by_name(type), recipes.overrides(tensor_types)
    if isinstance(ignore_config, str | bytes):
        raise ArgumentTypeError("not a list", field="ignore_config", expected="a list of keys", got=repr(ignore_config))
    opened = checkpoint.open(src, revision)
    spec = registry.for_config(opened.config)
    h, notices = hparams.from_config(spec, opened.config, ignore_config)
    h, kept = untied(spec, h, opened)
    sources, left_out = match(spec, h, opened)
    matrix = imatrices.read(imatrix) if imatrix is not None else None
    importance, unused = imatrices.match(matrix, sources)
    label = str(opened.source)
    metadata = {
        **general.general(
            spec.name,
            label,
            sum(prod(source.shape) for source in sources),
            recipe,
            opened.generation_config,
            general.read_card(opened.folder),
            name,
        ),
        **hparams.to_metadata(spec, h),
        **_tokenizer(opened),
        **general.provenance(label, recipe, tensor_types, matrix.name if matrix else None, opened.revision),
    }
    return plans.make(
        source=label,
        target=out,
        recipe=recipe,
        facts=facts(h, any(source.name == "output.weight" for source in sources), imatrix is not None),
        sources=sources,
        metadata=metadata,
        kept=_kept,
        overrides=overrides,
        importance=importance,
        inputs=[*opened.inputs(), *(matrix.paths if matrix else ())],
        notices=[*notices, *kept, *left_out, *unused],
    )


def _tokenizer(opened: Checkpoint) -> dict[str, Any]:
    """The ``tokenizer.*`` keys. A list without entries (a BPE that merges nothing) is one of strings."""
    metadata = metadata_from_folder(opened.folder, opened.config, opened.generation_config)
    return {
        key: Typed([], ValueType.ARRAY, ValueType.STRING) if isinstance(value, list) and not value else value
        for key, value in metadata.items()
    }


def _kept(source: Source) -> str | None:
    """Norms and biases are float32, whatever they were."""
    return None if recipes.quantizable(source.name, source.shape) else "F32"


def facts(h: Mapping[str, Any], has_output: bool, imatrix: bool) -> Facts:
    """What recipes ask about a model with parameters ``h``."""
    return Facts(
        n_layer=h["n_layer"],
        gqa=h["n_head"] // max(h["n_head_kv"], 1),
        n_expert=h.get("n_expert", 0),
        tied=not has_output,
        imatrix=imatrix,
    )


def untied(spec: ArchSpec, h: HParams, opened: Checkpoint) -> tuple[HParams, list[str]]:
    """``h`` with the output matrix untied where config.json ties it to an embedding that differs from it, and a notice.

    What is stored tells what was trained: a model merged or tuned after untying keeps the flag of its origin.
    """
    rules = {rule.gguf: rule for rule in spec.tensors}
    head, embedding = rules.get("output.weight"), rules.get("token_embd.weight")
    if head is None or embedding is None or head.when is None or holds(head.when, h):
        return h, []
    stored = [opened.tensors.get(str(rule.hf)) for rule in (head, embedding)]
    if stored[0] is None or stored[1] is None or same_values(stored[0], stored[1]):
        return h, []
    notice = f"{head.hf} is kept: config.json ties it to {embedding.hf}, but the two differ"
    return {**h, head.when: True}, [notice]


def match(spec: ArchSpec, h: HParams, opened: Checkpoint) -> tuple[list[Source], list[str]]:
    """Pair every tensor of the checkpoint with its place; also say which are left out.

    CheckpointError on a tensor that is missing or misshapen, UnsupportedError on one that the family does not have.
    """
    available = opened.tensors
    if h["n_layer"] > len(available):  # before names are made for that many layers
        raise CheckpointError(
            "config.json promises more layers than there are tensors",
            path=opened.folder,
            expected=f"num_hidden_layers {h['n_layer']}",
            got=f"{len(available)} tensors",
        )
    bindings = spec.bind(h)
    sources = [_source(binding, h, available, opened) for binding in bindings]
    dropped = set(available) - {binding.hf for binding in bindings}
    unused = sorted(name for name in dropped if not spec.ignores(name))
    ruled_out = set(spec.tensors_without_flag(h))
    unknown = [name for name in unused if name not in ruled_out]
    if unknown:
        raise UnsupportedError(
            f"{len(unknown)} tensors that {spec.hf_names[0]} does not have",
            path=opened.folder,
            tensor=unknown[0],
            remedy="the checkpoint is of another architecture, or incomplete support; nothing was converted",
        )
    notices = [f"{name} is left out: config.json says the model does not use it" for name in unused]
    return sources, notices


def _source(binding: Binding, h: HParams, available: Mapping[str, LazyTensor], opened: Checkpoint) -> Source:
    if binding.hf is None:
        make = binding.make
        assert make is not None, "a rule has either a name in the checkpoint or a function"
        return MadeSource(binding.gguf, binding.shape, functools.partial(make, dict(h)))
    tensor = available.get(binding.hf)
    path, shape = (tensor.path, tensor.shape) if tensor else (opened.folder, None)
    remedy = "the checkpoint is incomplete, or config.json belongs to another"
    expect_tensor(CheckpointError, path, binding.hf, binding.hf_shape, shape, remedy)
    assert tensor is not None
    if tensor.dtype not in FLOATS:
        raise UnsupportedError(
            "weights are not floating-point",
            path=tensor.path,
            tensor=binding.hf,
            expected="one of " + ", ".join(sorted(FLOATS)),
            got=tensor.dtype,
            remedy="a checkpoint that is already quantized has to be dequantized first",
        )
    return CheckpointSource(binding.gguf, tensor, binding.shape, binding.via)
