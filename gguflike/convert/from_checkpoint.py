"""A Hugging Face checkpoint to a GGUF file."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from concurrent.futures import Executor
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from gguflike import checkpoint
from gguflike.blocks import FORMATS, format_by_name
from gguflike.checkpoint import Checkpoint
from gguflike.checkpoint.adapter import is_adapter
from gguflike.checkpoint.source import fetched
from gguflike.checkpoint.tokenizer import Reading
from gguflike.checkpoint.tokenizer import read as read_tokenizer
from gguflike.container import Typed, ValueType
from gguflike.container.splitting import Split, split_of
from gguflike.convert import imatrix as imatrices
from gguflike.convert import lora as loras
from gguflike.convert import metadata as general
from gguflike.convert import planning
from gguflike.convert import recipe as recipes
from gguflike.convert.budget import Beside, Limit, check_limit, limit_of
from gguflike.convert.carded import with_card
from gguflike.convert.effort import NONE, Chat, Effort, check_together, effort_of
from gguflike.convert.execute import carry_out, check_options
from gguflike.convert.facts import Facts, facts, single
from gguflike.convert.lora import Lora
from gguflike.convert.mixes import Recipe
from gguflike.convert.plan import Card, ConversionPlan
from gguflike.convert.planning import prepared
from gguflike.convert.selection import Selection, SelectionOptions, select
from gguflike.convert.sized import sized
from gguflike.convert.source_model import SourceModel, read_model
from gguflike.convert.sources import Source
from gguflike.errors import ArgumentError, ArgumentTypeError, check_choice
from gguflike.families import config as configs
from gguflike.progress import Progress
from gguflike.tensor import Method

if TYPE_CHECKING:
    from typing_extensions import Unpack

AUTO = "auto"


def convert(
    src: str | os.PathLike[str],
    out: str | os.PathLike[str] | None,
    type: str = "Q4_K_M",
    *,
    executor: Executor | None = None,
    progress: Progress | None = None,
    dry_run: bool = False,
    imatrix: str | os.PathLike[str] | None = None,
    threads: int | None = None,
    method: Method = "search",
    name: str | None = None,
    revision: str | None = None,
    ignore_config: Iterable[str] = (),
    overwrite: bool = False,
    resume: bool = True,
    split_max_size: int | str | None = None,
    split_max_tensors: int | None = None,
    no_tensor_first_split: bool = False,
    cache: bool = False,
    tokenizer_proof: str = "error",
    lora: Sequence[Lora] = (),
    base: str | os.PathLike[str] | None = None,
    generic: bool = False,
    arch: str | None = None,
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
    """Convert a checkpoint folder or Hub id to a GGUF file of the recipe ``type``; return the plan carried out.

    ``type`` may also be auto: BF16 or F16, as the checkpoint has it. ``out`` may be a folder (one that exists, or a
    name that ends in a slash), for ``out/NAME-TYPE.gguf``; folders that are missing are made. ``imatrix`` is an
    importance matrix, ``ignore_config`` are config keys to accept unread. Types of single tensors, layers left out and
    metadata set by hand are the ``options``: those of `SelectionOptions`.

    ``lora`` are folders of LoRA adapters that are merged in float32, or pairs of a folder and how much of it, such as
    ``("folder", 0.5)``. An adapter as ``src`` becomes a file that llama.cpp applies to a model; ``base`` is a folder or
    Hub id with the configuration of that model, by default what the adapter names.

    With ``generic``, ``src`` is a file of safetensors, or a folder of them, of any network: names and shapes of tensors
    are kept, and ``arch`` is the name of its architecture that readers ask for, such as "flux".

    ``effort`` 0 encodes each tensor by itself, in the time that reading and encoding take. With 1 the model runs on
    text (``calibration_tokens`` of the files ``calibration``, or of those that the package has; ``chat`` renders
    conversations) and each matrix is rounded for the inputs that it gets there; with 2 a backward pass (whose chances
    are drawn by ``seed``) says before how much each output matters; with 3 what was rounded is then trained end to end
    to say what the model says, on the same text, while that helps on another one. The whole model is in memory then.
    ``hessians`` is a folder in which `gguflike.calibrate` has kept what effort 1 needs of this very model: any number
    of types are rounded with them, without running it again, and lose somewhat more (see spec/calibration.md).

    ``size`` (bytes, or text such as "4.5GiB") or ``bpw`` (bits per weight) may stand for ``type``: each matrix gets the
    type that costs least, in a file that is not larger; with an ``effort`` below 2, what types cost is by a prior. Or
    ``fit_ram`` (bytes): the file that runs in so much memory with a ``context`` of so many tokens, by what ``beside``
    says that a model takes beside its weights, such as `gguflike.runner.needs.beside_weights`. See spec/effort.md.

    ``fold`` moves scales between tensors first, without changing what the model computes: "awq", which makes finer what
    multiplies large inputs, or "smooth" (SmoothQuant), which makes activations even. Such a run does not go on where it
    was cut off.

    The weights of a Hub id (``org/name``, ``org/name@revision``) are read from there as they are needed; files that are
    read whole and in order by this process are compared with the Hub's SHA-256. With ``cache`` they are downloaded into
    the Hub's cache first, and stay there.

    With ``dry_run`` the plan is all: nothing is written, ``out`` may be None, and no tensor is read (but an output
    matrix that config.json ties to the embedding is compared with it, and kept where they differ, and so are tensors
    that are stored twice). One tensor (of a large one, a few slabs) is in memory at a time, or one per worker of
    ``executor``. The target appears complete or not at all; one that exists is left alone unless ``overwrite`` says so,
    and one that is a file of the checkpoint, by whatever path or link, or the importance matrix, is refused.

    A run that is cut off leaves what it has written beside the target, and the same call goes on from there and ends
    with the same bytes; ``resume=False`` begins anew and leaves nothing. ``split_max_size`` (bytes, or text such as
    "4G") and ``split_max_tensors`` make several files, out-00001-of-00003.gguf and so on; ``no_tensor_first_split``
    puts nothing but metadata into the first.

    Before anything is written, texts of many scripts are tokenized with what the file will say and with the source's
    tokenizer: UnsupportedError shows where they differ, also where the tokenizer does what GGUF cannot say. With
    ``tokenizer_proof="warn"`` that is a notice.

    CheckpointError where files of the source are missing, damaged or contradict each other, RemoteError where they
    cannot be had, UnsupportedError for what is not handled (an architecture, a key of config.json that changes what is
    computed), QuantizationError for weights that are not finite or that the type cannot hold, ArgumentError and
    ArgumentTypeError for an argument that makes no sense, OutputError where the target cannot be written.
    """
    check_options(method, threads)
    asked = effort_of(effort, calibration, calibration_tokens, seed, chat, fold, hessians)
    check_together(asked, executor=executor, method=method if method != "search" else None)
    split = split_of(split_max_size, split_max_tensors, no_tensor_first_split)
    planned = plan_conversion(
        src,
        out,
        type,
        imatrix=imatrix,
        name=name,
        revision=revision,
        ignore_config=ignore_config,
        split=split,
        cache=cache,
        progress=progress,
        tokenizer_proof=tokenizer_proof,
        lora=lora,
        base=base,
        generic=generic,
        arch=arch,
        effort=asked,
        limit=limit_of(size, bpw, fit_ram, context, beside),
        **options,
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


def plan_conversion(
    src: str | os.PathLike[str],
    out: str | os.PathLike[str] | None,
    type: str,
    *,
    imatrix: str | os.PathLike[str] | None = None,
    name: str | None = None,
    revision: str | None = None,
    ignore_config: Iterable[str] = (),
    split: Split | None = None,
    cache: bool = False,
    progress: Progress | None = None,
    tokenizer_proof: str = "error",
    lora: Sequence[Lora] = (),
    base: str | os.PathLike[str] | None = None,
    generic: bool = False,
    arch: str | None = None,
    effort: Effort = NONE,
    limit: Limit | None = None,
    **options: Unpack[SelectionOptions],
) -> ConversionPlan:
    """The plan of `convert`, from the configuration and the headers of the checkpoint."""
    check_choice("tokenizer_proof", tokenizer_proof, ("error", "warn"))
    selection = select(options)
    check_together(effort, imatrix=imatrix, generic=generic)
    check_limit(limit, selection)
    if isinstance(ignore_config, str | bytes):
        raise ArgumentTypeError("not a list", field="ignore_config", expected="a list of keys", got=repr(ignore_config))
    by_source = isinstance(type, str) and type.lower() == AUTO
    recipe = limit.recipe if limit else recipes.by_name("F16" if by_source or generic else type)
    src, revision = fetched(src, revision, cache, progress)
    if generic:
        from gguflike.convert.generic import plan_generic

        if lora or base or imatrix or revision or selection.pruned or limit:
            raise ArgumentError(
                "of a network of any kind, only types of tensors, metadata and files can be chosen",
                field="generic",
                remedy="leave out `lora`, `base`, `imatrix`, `revision`, `prune_layers`, `size`, `bpw` and `fit_ram`",
            )
        return plan_generic(src, out, type, selection, arch, name, split)
    adapters = loras.open_all(lora)
    if arch is not None:
        raise ArgumentError(
            "only a network of any kind is given an architecture", field="arch", remedy="add `generic=True`"
        )
    if not adapters and is_adapter(src):
        from gguflike.convert.adapter import plan_adapter

        _check_adapter(effort, imatrix, limit)
        return plan_adapter(src, out, recipe.name, selection, base, name, ignore_config)
    if base is not None:
        raise ArgumentError("only an adapter has a base", field="base", got=repr(base), remedy="leave it out")
    opened = checkpoint.open(src, revision, ignore_config)
    if by_source:
        recipe = recipes.by_name(recipes.half_type(t.dtype for t in opened.tensors.values() if len(t.shape) > 1))
    model = read_model(opened, adapters, ignore_config)
    sources = [renamed(each, selection) for each in model.sources if not selection.leaves_out(each.name)]
    matrix = imatrices.read(imatrix) if imatrix is not None else None
    importance, unused = imatrices.match(matrix, sources, selection)
    label = str(opened.source)
    described, tokenizer = _described(opened, model, sources, recipe, name, lenient=tokenizer_proof == "warn")
    metadata = {
        **described,
        **general.provenance(label, recipe, selection, matrix.name if matrix else None, opened.revision),
        **({"gguflike.lora": loras.labels(adapters)} if adapters else {}),
    }
    metadata = selection.with_overrides(metadata)
    is_weighed = bool(importance) or effort.is_calibrated
    known = facts(metadata, {source.name: source.shape for source in sources}, is_weighed)
    metadata, counted = selection.without_layers(metadata)
    calibration, folding = prepared(effort, metadata, sources, label)
    make = partial(
        planning.make,
        source=label,
        target=out,
        recipe=recipe,
        facts=known,
        sources=sources,
        metadata=metadata,
        fixed=partial(fixed_type, known, recipe, selection),
        selection=selection,
        importance=importance,
        inputs=[
            *opened.inputs(),
            *(path for each in adapters for path in each.adapter.inputs()),
            *(matrix.paths if matrix else ()),
        ],
        notices=[*model.notices, *unused, *counted, *tokenizer.notices],
        tokenizer=tokenizer,
        split=split,
        calibration=calibration,
        folding=folding,
    )
    return sized(lambda formats: make(formats=formats), limit, selection)


def _check_adapter(effort: Effort, imatrix: str | os.PathLike[str] | None, limit: Limit | None) -> None:
    """ArgumentError for what an adapter by itself cannot be converted with."""
    idle = {"effort": effort.level, "fold": effort.fold, "imatrix": imatrix}
    if limit is not None:
        idle[limit.field] = limit.label
    for field, given in idle.items():
        if given:
            raise ArgumentError(
                "an adapter is not calibrated, and its types are those of a recipe",
                field=field,
                got=given,
                remedy="leave it out, or merge by `lora`",
            )


def _described(
    opened: Checkpoint,
    model: SourceModel,
    sources: Sequence[Source],
    recipe: Recipe,
    name: str | None,
    lenient: bool,
) -> tuple[dict[str, Any], Reading]:
    """The metadata that say what the model is, its tokenizer among them, and that tokenizer."""
    described = general.general(
        model.family.name,
        str(opened.source),
        {source.name: source.shape for source in sources},
        recipe,
        opened.generation_config,
        model.card,
        name,
        opened.config.get("_name_or_path"),
    )
    tokenizer = read_tokenizer(opened.folder, opened.config, opened.generation_config, described, lenient=lenient)
    hyperparameters = configs.to_metadata(model.config, model.family.name)
    return {**described, **hyperparameters, **_typed(tokenizer)}, tokenizer


def _typed(tokenizer: Reading) -> dict[str, Any]:
    """The ``tokenizer.*`` keys. A list without entries (a BPE that merges nothing) is one of strings."""
    return {
        key: Typed([], ValueType.ARRAY, ValueType.STRING) if isinstance(value, list) and not value else value
        for key, value in tokenizer.metadata.items()
    }


def renamed(source: Source, selection: Selection) -> Source:
    """``source`` by the name that its tensor will have."""
    name = selection.renamed(source.name)
    return source if name == source.name else replace(cast("Any", source), name=name)


def fixed_type(known: Facts, recipe: Recipe, selection: Selection, source: Source) -> str | None:
    """What llama.cpp's converter does, which comes before its quantizer: float32 for norms, biases, routers and the
    like; the few matrices that are never quantized keep their precision, or get the recipe's if that is a float type.
    """
    plain = not format_by_name(recipe.type).is_quantized
    if single(source.name, source.shape):
        return "F32" if plain or not known.quantizable(source.name, source.shape) else None
    if known.quantizable(source.name, source.shape) and not selection.keeps(source.name):
        return None
    if plain and not selection.keeps(source.name):
        return recipe.type
    stored = FORMATS.get(source.stored)
    return source.stored if stored is not None and stored.is_float and stored.row_bytes(1) < 4 else "F32"
