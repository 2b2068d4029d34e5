"""Figures about a file in its own header: places kept in the plan, filled in when the data are written.

Who measures is not known here: something that runs models, which what converts must not import.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from gguflike import container
from gguflike.blocks import FORMATS, BlockFormat, format_by_name
from gguflike.calibrate.texts import Text
from gguflike.container import FilePlan, TensorSpec
from gguflike.container.layout import MAX_NAME_BYTES
from gguflike.convert.calibration import Calibration, digest
from gguflike.convert.plan import Card, ConversionPlan
from gguflike.convert.planned import PlannedTensor
from gguflike.convert.sources import is_half, stored_as
from gguflike.errors import ArgumentError, UnsupportedError
from gguflike.progress import Progress


def with_card(plan: ConversionPlan, card: Card) -> ConversionPlan:
    """The plan of the same file with places for figures in its header.

    UnsupportedError for a model in several files, ArgumentError for a text that is calibrated on, and what
    ``card.blank`` raises.
    """
    if plan.is_split:
        raise UnsupportedError(
            "a model in several files cannot be measured before it is complete",
            field="card",
            remedy="leave `card` out, and have `gguflike eval --card` measure it then",
        )
    said = card.blank(plan.metadata, plan.source)
    _check_held_out(plan, said)
    metadata = {**plan.metadata, **said}
    return replace(plan, metadata=metadata, files=(_laid_out(metadata, plan.tensors),), card=card)


def _check_held_out(plan: ConversionPlan, said: Mapping[str, Any]) -> None:
    """ArgumentError where the model is to be measured on a text that it is calibrated on."""
    texts = plan.calibration.texts if isinstance(plan.calibration, Calibration) else ()
    texts += () if plan.folding is None else plan.folding.texts
    seen = {digest(each) for text in texts for each in _as_read(text)}
    names, digests = (said[f"gguflike.quality.{key}"].value for key in ("texts", "texts.sha256"))
    for name, sha256 in zip(names, digests, strict=True):
        if sha256 in seen:
            raise ArgumentError(
                "calibrated on, too: figures on it would say nothing of other text",
                field="text",
                got=name,
                remedy="measure on text that is held out",
            )


def _as_read(text: Text) -> Iterator[list[Text]]:
    """A text as one that is measured on is joined: of a file of lines, each with a line end."""
    yield [text]
    yield [Text(text.name, tuple(f"{each}\n" for each in text.documents), text.rendered)]


def final(
    done: Callable[[], ConversionPlan],
    card: Card,
    threads: int | None,
    progress: Progress | None,
    write: Callable[[ConversionPlan], object],
) -> Callable[[str], FilePlan]:
    """What makes the final header, given the path of the file whose data are complete. ``done`` gives the plan as it is
    then, ``write`` carries a plan out."""

    def made(path: str) -> FilePlan:
        plan = done()
        figures = card.filled(
            plan.metadata, plan.source, path, lambda out: write(in_floats(plan, out)), threads, progress
        )
        return _laid_out({**plan.metadata, **figures}, plan.tensors)

    return made


def in_floats(plan: ConversionPlan, target: str | os.PathLike[str]) -> ConversionPlan:
    """The plan of the same model, from the same sources, without anything quantized."""
    beside = {each.name for t in plan.tensors if t.kept and (stored := stored_as(t.source, t.format.name))
              for each in stored.beside()}  # fmt: skip
    fmt = _lossless(plan)
    tensors = tuple(
        PlannedTensor(t.source, fmt, fmt) if t.format.is_quantized else t for t in plan.tensors if t.name not in beside
    )
    return replace(
        plan,
        target=Path(target),
        tensors=tensors,
        files=(_laid_out(plan.metadata, tensors),),
        is_split=False,
        digests={},
        calibration=None,
        tuning=None,
        card=None,
    )


def _lossless(plan: ConversionPlan) -> BlockFormat:
    """The type that holds what the quantized tensors are made from: one of 16 bits where all are stored in it."""
    stored = {t.source.stored for t in plan.tensors if t.format.is_quantized}
    fmt = FORMATS.get(next(iter(stored))) if len(stored) == 1 else None
    return fmt if fmt is not None and is_half(fmt) else format_by_name("F32")


def _laid_out(metadata: Mapping[str, Any], tensors: tuple[PlannedTensor, ...]) -> FilePlan:
    specs = [TensorSpec(tensor.name, tensor.shape, tensor.format) for tensor in tensors]
    long_names = any(len(tensor.name.encode()) > MAX_NAME_BYTES for tensor in tensors)
    return container.plan(metadata, specs, long_names=long_names)
