"""Calibrating a model by what its file or folder says of it: tokens, chat template, floats."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any

from gguflike.convert.multiplied import CONTEXT, Multiplied
from gguflike.convert.multiplied import calibrate as _calibrate
from gguflike.evaluate.models import is_checkpoint
from gguflike.locate import locate
from gguflike.progress import Progress
from gguflike.runner.tokenizer import Tokenizer

StrPath = str | os.PathLike[str]


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
    gguf = not is_checkpoint(src)
    return _calibrate(
        locate(src, progress) if gguf else src,
        out,
        calibration=calibration,
        merge=merge,
        hessians=hessians,
        context=context,
        tokens=tokens,
        revision=revision,
        workspace=workspace,
        threads=threads,
        progress=progress,
        overwrite=overwrite,
        chat=render,
        gguf=gguf,
    )


def render(metadata: Mapping[str, Any], messages: list[dict[str, Any]]) -> str:
    """The text that the chat template in a file's metadata makes of a conversation. TemplateError where it fails."""
    return Tokenizer(metadata).apply_chat_template(messages, add_generation_prompt=False)
