"""What is measured: GGUF files as they are, and checkpoints by way of a temporary file that holds their very floats.

A checkpoint is converted rather than computed by ``reference/``: then both models run through the same kernels, and
what is measured is what quantization did; memory stays bounded, since matrices of floats are read where they lie in the
mapped file; and the conversion is proven already. The file is in the folder for temporary files (TMPDIR) and is as
large as the checkpoint.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gguflike import container
from gguflike.container.layout import ARCHITECTURE_KEY
from gguflike.errors import ArgumentError, GGUFLikeError
from gguflike.evaluate import texts
from gguflike.evaluate.texts import CONTEXT
from gguflike.locate import locate
from gguflike.progress import Progress
from gguflike.runner.tokenizer import Tokenizer

StrPath = str | os.PathLike[str]
FLOATS = ("BF16", "F16")  # types that a checkpoint of such matrices is stored in without loss; all others need F32


@contextmanager
def float_file(source: StrPath, threads: int | None = None, progress: Progress | None = None) -> Iterator[str]:
    """The path of a GGUF file: ``source``, fetched where it is elsewhere, or a temporary one with the floats of the
    checkpoint that it names. Errors inside the block that speak of this file call it ``source``.

    Errors as of `locate` and `convert`.
    """
    if not is_checkpoint(source):
        path = os.fspath(locate(source, progress))
        with _called(path, source):
            yield path
        return
    from gguflike import checkpoint
    from gguflike.convert import convert

    with tempfile.TemporaryDirectory(prefix="gguflike-") as folder:
        opened = checkpoint.open(source)
        kind = lossless(tensor.dtype for tensor in opened.tensors.values() if len(tensor.shape) > 1)
        made = Path(folder) / f"{Path(opened.source).name}-{kind}.gguf"
        with _called(os.fspath(made), source):
            convert(source, made, kind, threads=threads, progress=progress, tokenizer_proof="warn", resume=False)
            yield os.fspath(made)


@contextmanager
def _called(path: str, source: StrPath) -> Iterator[None]:
    try:
        yield
    except GGUFLikeError as error:
        error.call(path, os.fspath(source))
        raise


def is_checkpoint(source: StrPath) -> bool:
    """Whether a name is that of a checkpoint rather than of a GGUF file: a folder, a file of weights, or a repository
    of the Hub that holds no GGUF file."""
    if os.path.isdir(source):  # noqa: PTH112 - text
        return True
    if os.path.lexists(source):
        return os.fspath(source).endswith((".safetensors", ".bin", ".pth"))
    from gguflike.checkpoint.hub import client, reference, resolver

    found = reference.parse(os.fspath(source))
    if found is None or not found.repo or found.file is not None or found.type is not None:
        return False
    return not resolver.models_of(client.list_repository(found.repo, found.revision).files)


def check_texts(
    sources: Sequence[StrPath], held_out: Mapping[str, str], context: int | None, tokens: int | None, score: str
) -> None:
    """Errors of texts that are too short, and of how they are to be cut, where a checkpoint among the ``sources`` would
    be converted before they are met: by a GGUF file that is here, if there is one beside it."""
    here = [each for each in sources if os.path.isfile(each)]  # noqa: PTH113 - text
    here = [each for each in here if not is_checkpoint(each)]
    if not here or not held_out or len(here) == len(sources):
        return
    with container.open(here[0]) as file:
        protocol = texts.Protocol(chosen_context(context, [metadata_of(here[0])]), tokens, score)
        tokenizer = Tokenizer(file.metadata)
        for name, text in held_out.items():
            texts.cut(name, text, tokenizer, protocol)


def lossless(dtypes: Iterable[str]) -> str:
    """The smallest float type that holds matrices of these dtypes of safetensors exactly."""
    kinds = set(dtypes)
    return kinds.pop() if len(kinds) == 1 and kinds <= set(FLOATS) else "F32"


def metadata_of(path: StrPath) -> dict[str, Any]:
    """What says in a GGUF file how many tokens its model was trained with."""
    with container.open(path) as file:
        keys = [key for key in (ARCHITECTURE_KEY, f"{file.architecture}.context_length") if key in file.metadata]
        return {key: file.metadata[key] for key in keys}


def chosen_context(asked: int | None, models: Sequence[Mapping[str, Any]]) -> int:
    """The tokens of a chunk for models with these metadata: as many as are asked for, or CONTEXT, or what they were
    trained with where that is less. ArgumentError where they were trained with fewer than are asked for."""
    said = [each.get(f"{each.get(ARCHITECTURE_KEY)}.context_length") for each in models]
    trained = min((each for each in said if isinstance(each, int) and each > 0), default=1 << 31)
    if asked is not None and asked > trained:
        raise ArgumentError(
            "more than the model was trained with", field="context", expected=f"at most {trained}", got=asked
        )
    return min(CONTEXT, trained) if asked is None else asked
