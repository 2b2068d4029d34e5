"""Calibrating a model by what its file or folder says of it: tokens, chat template, floats; and ranges of activations
into its file."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from gguflike import activations
from gguflike.container.restate import restate
from gguflike.convert import matrix_inputs
from gguflike.convert.calibration import digest
from gguflike.convert.matrix_inputs import CONTEXT, CalibrationPlan, Multiplied
from gguflike.convert.observed import Group, Observed, observe
from gguflike.errors import ArgumentError, check_threads
from gguflike.evaluate.models import is_checkpoint
from gguflike.evaluate.scores import divergence
from gguflike.locate import locate
from gguflike.progress import Progress, calibrating
from gguflike.runner.model import Model
from gguflike.runner.tokenizer import Tokenizer

StrPath = str | os.PathLike[str]
Floats = npt.NDArray[np.float32]
TOKENS = 8192
"""On which ranges of activations are observed: they are known after few."""
MOST_TOKENS = 256
"""Of the sequence that says what static ranges cost."""
NOTHING = 0.05
"""What hybrid activations may add to the divergence of dynamic ones: less than what other text changes of it."""


@dataclass(frozen=True)
class Ranges:
    """What `calibrate_activations` found: the ranges of ``matrices``, of which hybrid activations use ``hybrid``, on
    ``tokens`` tokens of ``texts``; divergences from adaptive activations, in nats, of dynamic, hybrid and static
    ones."""

    path: str
    matrices: int
    hybrid: int
    texts: tuple[str, ...]
    tokens: int
    dynamic_kl: float
    hybrid_kl: float
    static_kl: float


def calibrate(
    src: StrPath,
    out: StrPath | None = None,
    *,
    calibration: Iterable[StrPath] = (),
    merge: Iterable[StrPath] = (),
    hessians: StrPath | None = None,
    context: int = CONTEXT,
    tokens: int | None = None,
    revision: str | None = None,
    workspace: StrPath | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
    overwrite: bool = False,
) -> Multiplied:
    """Run texts through the model ``src``, and write what its matrices multiply; return what was found.

    ``src`` is a checkpoint folder, a Hub id or a GGUF file, best of floats. ``out`` is an importance matrix, a GGUF
    file that `gguflike.convert` and llama.cpp's llama-quantize read; ``merge`` are such files (or of the old format,
    .dat), whose sums are added. ``hessians`` is a folder for Gram matrices, which `gguflike.calibrate.store.Store`
    reads: of each group of matrices that share an input of k values they take 2 k (k + 1) bytes. One of the two must be
    given.

    ``calibration`` are files of text (UTF-8), or lines of JSON (.jsonl): ``{"text": ...}`` or ``{"messages": [...]}``,
    which the model's chat template renders. By default it is what the package has: some 300 kB of prose, code,
    dialogues, markup and many languages. Texts are cut into sequences of ``context`` tokens (fewer, where the model was
    trained with fewer); ``tokens`` limits how many there are in all, taken evenly from all texts.

    The model is run layer by layer: in memory are the float weights of a part of one layer, sums of up to a gigabyte,
    and what a few sequences compute. Hidden states (tokens x width x 8 bytes) are in a folder beside the target, or in
    ``workspace``, which is removed in the end; where a run is cut off, the same call goes on with the layer it was in.
    The result is the same at any number of ``threads``. ``progress`` counts tokens that have passed a step of the
    model.

    ArgumentError for texts that cannot be read, QuantizationError where the model computes what is not finite,
    OutputError where a target exists, unless ``overwrite``, or the disk has no room; errors of the source as of
    `gguflike.convert`.
    """
    check_threads(threads)
    matrix_inputs.check_targets(out, hessians, overwrite, workspace)
    planned = plan_calibration(
        src,
        out,
        calibration=calibration,
        merge=merge,
        hessians=hessians,
        context=context,
        tokens=tokens,
        revision=revision,
        workspace=workspace,
        progress=progress,
    )
    return matrix_inputs.carry_out(planned, threads, progress, overwrite)


def plan_calibration(
    src: StrPath,
    out: StrPath | None = None,
    *,
    calibration: Iterable[StrPath] = (),
    merge: Iterable[StrPath] = (),
    hessians: StrPath | None = None,
    context: int = CONTEXT,
    tokens: int | None = None,
    revision: str | None = None,
    workspace: StrPath | None = None,
    progress: Progress | None = None,
) -> CalibrationPlan:
    """What `calibrate` with these arguments would do: on how many tokens, in how many seconds, with how much memory and
    disk. No tensor is read, nothing is written; errors as there, but of the target and of the disks."""
    gguf = not is_checkpoint(src)
    return matrix_inputs.plan_calibration(
        locate(src, progress) if gguf else src,
        out,
        calibration=calibration,
        merge=merge,
        hessians=hessians,
        context=context,
        tokens=tokens,
        revision=revision,
        workspace=workspace,
        progress=progress,
        chat=render,
        gguf=gguf,
    )


def render(metadata: Mapping[str, Any], messages: list[dict[str, Any]], **variables: Any) -> str:
    """The text that the chat template in a file's metadata makes of a conversation, and of further ``variables``, such
    as ``tools``. TemplateError where it fails."""
    return Tokenizer(metadata).apply_chat_template(messages, add_generation_prompt=False, **variables)


def calibrate_activations(
    path: StrPath,
    *,
    observer: str = "least-error",
    calibration: Iterable[StrPath] = (),
    context: int = CONTEXT,
    tokens: int | None = TOKENS,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Ranges:
    """Find fixed ranges of what the quantized matrices of a GGUF file multiply, and write them into its metadata
    (``gguflike.activations.*``), so that it runs with ``activations="static"`` or ``"hybrid"``; return what was found.

    Texts run through the model in the file, layer by layer, as of `calibrate`. ``observer`` says how a range is made
    of what was seen: "min-max", "moving-average" (of the extremes of slabs), "percentile" (99.99 of magnitudes) or
    "least-error" (of clipping and rounding, by a histogram). Stacks of experts have none.

    Hybrid activations use the ranges of as many matrices as together add at most 5 % to the divergence of dynamic
    activations, those first that cost least: the model runs with each of them alone, then with more and fewer, on a
    sequence of which nothing was observed, and is compared with itself with adaptive activations.

    The file is written anew, and takes the old one's place when it is complete. ArgumentError where it is none, or no
    matrix in it is quantized; errors as of `calibrate` and `load`.
    """
    if is_checkpoint(path) or not os.path.lexists(path):
        raise ArgumentError(
            "ranges of activations are written into the file", path=os.fspath(path), expected="a GGUF file on disk"
        )
    found = observe(
        path,
        observer,
        calibration=calibration,
        context=context,
        tokens=tokens,
        threads=threads,
        progress=calibrating(progress),
        chat=render,
    )
    chosen, kl = _hybrid(path, found, threads, progress)
    ranges = {name: group.fixed for group in found.groups for name in group.names}
    hybrid = {name for group in chosen for name in group.names}
    texts = tuple(text.name for text in found.texts)
    said = activations.values(ranges, hybrid, observer, texts, digest(found.texts), found.tokens)
    restate(path, activations.PREFIX, said)
    return Ranges(os.fspath(path), len(ranges), len(hybrid), texts, found.tokens, *kl)


def _hybrid(
    path: StrPath, found: Observed, threads: int | None, progress: Progress | None
) -> tuple[Sequence[Group], tuple[float, float, float]]:
    """The groups that hybrid activations take the ranges of, and the divergences of dynamic, hybrid and static ones."""
    ids = list(found.held[:MOST_TOKENS])
    tell = calibrating(progress)
    settings: dict[str, Any] = {"threads": threads, "context": len(ids), "progress": progress}
    with Model(path, activations="adaptive", **settings) as model:
        truth = model.logits(ids)
    with Model(path, **settings) as model:

        def cost(groups: Sequence[Group]) -> float:
            model.fix({name: group.fixed for group in groups for name in group.names})
            return divergence(truth, model.logits(ids))

        costs = {}
        for number, group in enumerate(found.groups):
            tell(number, len(found.groups), f"with static {group.names[0]}")
            costs[group] = cost([group])
        groups = sorted(found.groups, key=costs.__getitem__)
        dynamic = cost([])
        low, high, hybrid = 0, len(groups), dynamic
        while low < high:
            middle = (low + high + 1) // 2
            kl = cost(groups[:middle])
            if kl <= (1 + NOTHING) * dynamic:
                low, hybrid = middle, kl
            else:
                high = middle - 1
        return groups[:low], (dynamic, hybrid, cost(groups))
