"""Which tensor's quantization costs how much.

One tensor at a time is that of the reference, and all others are as they are: what the divergence falls by is what the
tensor costs, with the int8 activations that its kernels take. What is saved by two tensors together is not the sum of
both. A pass over the text for each tensor takes long, so that their number can be bounded; those with the largest
relative squared error ||W - Q||^2 / ||W||^2 come first then, since costs grow with it (HIGGS, arXiv 2411.17525).
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from gguflike import container
from gguflike.container import GGUFFile
from gguflike.container.overlay import Overlay
from gguflike.diff import compare
from gguflike.errors import UnsupportedError, check_integer, check_threads, counted
from gguflike.evaluate import estimates, models, streaming, texts
from gguflike.evaluate.estimates import Figure
from gguflike.evaluate.scores import Pairs, Scores
from gguflike.evaluate.texts import Protocol, Text
from gguflike.progress import Progress
from gguflike.runner.model import Model

StrPath = str | os.PathLike[str]
AT_ONCE = 1 << 30  # bytes of models that are in memory beside one pass of the reference


@dataclass(frozen=True)
class Cost:
    """What the quantization of one ``tensor`` costs: by how many nats the divergence is lower with the reference's, and
    which ``share`` of it that is. None for one that was not measured. ``error`` is ||W - Q|| / ||W||."""

    tensor: str
    type: str
    nbytes: int
    error: float
    saved: Figure | None = None
    share: float | None = None


@dataclass(frozen=True)
class Blame:
    """The ``costs`` of all quantized tensors, the largest first, then those not measured; ``kl`` is that of all."""

    model: str
    reference: str
    kl: Figure
    costs: tuple[Cost, ...]

    def document(self) -> dict[str, Any]:
        """All of it as JSON."""
        costs = [vars(cost) | {"saved": cost.saved and cost.saved._asdict()} for cost in self.costs]
        return {"model": self.model, "reference": self.reference, "kl": self.kl._asdict(), "tensors": costs}


def blame(
    model: StrPath,
    text: Mapping[str, str] | Iterable[StrPath],
    *,
    reference: StrPath,
    most: int | None = None,
    context: int | None = None,
    tokens: int | None = None,
    score: str = "half",
    threads: int | None = None,
    activations: str = "dynamic",
    progress: Progress | None = None,
) -> Blame:
    """What each quantized tensor of the GGUF file ``model`` costs beside its ``reference``, ``most`` of them measured.

    The other arguments and errors are those of `gguflike.evaluate`; UnsupportedError where nothing is quantized that
    the reference has in another form.
    """
    check_threads(threads)
    held_out = texts.named(text)
    if most is not None:
        most = check_integer("most", most, 1)
    with ExitStack() as stack:
        paths = [stack.enter_context(models.float_file(each, threads, progress)) for each in (model, reference)]
        own, other = (stack.enter_context(container.open(path)) for path in paths)
        trained = [models.metadata_of(path) for path in paths]
        protocol = Protocol(models.chosen_context(context, trained), tokens, score)
        costs = _candidates(own, other, threads, progress)
        settings: dict[str, Any] = {"context": protocol.context, "threads": threads, "activations": activations}
        beside = stack.enter_context(Model(paths[1], progress=progress, **settings))
        measured = costs[:most]
        swaps = [set[str](), *({cost.tensor} for cost in measured)]  # the first is the file as it is
        files = [Overlay(own, other, names, _hidden(own, other, names)) for names in swaps]
        scored: list[Mapping[str, Scores]] = []
        size = max(AT_ONCE // max(own.file_bytes, 1), 1)
        for start in range(0, len(files), size):
            part = files[start : start + size]
            heard = _counted(progress, start, len(part), len(files))
            scored += _scores(part, beside, held_out, protocol, settings, heard)
    kl = [_kl(each) for each in scored]
    total = estimates.mean(kl[0])
    found = []
    for cost, after in zip(measured, kl[1:], strict=True):
        saved = estimates.mean([a - b for a, b in zip(kl[0], after, strict=True)])
        share = saved.value / total.value if total.value else None
        found.append(Cost(cost.tensor, cost.type, cost.nbytes, cost.error, saved, share))
    found.sort(key=lambda cost: -cost.saved.value if cost.saved else 0.0)
    return Blame(os.fspath(model), os.fspath(reference), total, (*found, *costs[len(measured) :]))


def _candidates(own: GGUFFile, other: GGUFFile, threads: int | None, progress: Progress | None) -> list[Cost]:
    """The tensors that differ from the reference's, those with the largest relative error first."""
    infos = [
        info
        for name, info in own.infos.items()
        if info.format.is_quantized and name in other.infos and other.infos[name].shape == info.shape
    ]
    total, done, found = sum(info.nbytes for info in infos), 0, []
    for info in infos:
        apart = compare(other.load(info.name), own.load(info.name), threads)
        if not apart.identical:
            found.append(Cost(info.name, info.format.name, info.nbytes, apart.relative))
        done += info.nbytes
        if progress is not None:
            progress(done, total, f"comparing {info.name}")
    if not found:
        raise UnsupportedError(
            "no quantized tensor that the reference has in another form",
            path=own.path,
            got=f"{counted(len(infos), 'quantized tensor')}, all as in {other.path}",
            remedy="give what the file was made from as `reference`",
        )
    return sorted(found, key=lambda cost: -cost.error if math.isfinite(cost.error) else -math.inf)


def _hidden(own: GGUFFile, other: GGUFFile, names: Iterable[str]) -> set[str]:
    """What lies beside tensors for their blocks' sake, and is part of the floats: NVFP4's scales."""
    scales = (f"{name.removesuffix('weight')}scale" for name in names)
    return {scale for scale in scales if scale in own.infos and scale not in other.infos}


def _scores(
    files: Sequence[GGUFFile],
    beside: Model,
    held_out: Mapping[str, str],
    protocol: Protocol,
    settings: Mapping[str, Any],
    progress: Progress | None,
) -> Sequence[Mapping[str, Scores]]:
    """The scores of several files beside a model."""
    with ExitStack() as stack:
        loaded = [stack.enter_context(Model(file.path, opened=file, **settings)) for file in files]
        streaming.check_alike([beside, loaded[0]], held_out, protocol)
        kinds: list[Text] = [texts.cut(name, text, loaded[0].tokenizer, protocol) for name, text in held_out.items()]
        return streaming.stream(loaded, beside, kinds, protocol, progress)


def _kl(scores: Mapping[str, Scores]) -> list[Any]:
    """The divergence of each token, by kind of text."""
    found = [each for each in scores.values() if isinstance(each, Pairs)]
    assert len(found) == len(scores)  # there is a reference
    return [each.kl for each in found]


def _counted(progress: Progress | None, start: int, count: int, total: int) -> Progress | None:
    """Progress that counts tokens of all passes, of which ``count`` are computed together from ``start`` on."""
    if progress is None:
        return None

    def heard(done: int, of: int, what: str) -> None:
        progress(start * of + done * count, total * of, what)

    return heard
