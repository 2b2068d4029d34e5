"""A checkpoint: the folder that Transformers saves, with its tensors behind one mapping."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gguflike import foreign
from gguflike.checkpoint import files, mistral, quantized, recognize, sentence_transformers, strictjson, weights
from gguflike.checkpoint.safetensors import INDEX, SINGLE, LazyTensor
from gguflike.checkpoint.source import called, fetched
from gguflike.errors import ArgumentError, CheckpointError, UnsupportedError

#: What a checkpoint may be read from beside its shards, by this package and by others.
FILES = (
    *("config.json", "generation_config.json", SINGLE, INDEX, "README.md"),
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "tokenizer.model"),
    *("spiece.model", "sentencepiece.bpe.model", "tiktoken.model", "tekken.json", "vocab.json", "merges.txt"),
    *("vocab.txt", "chat_template.json", "chat_template.jinja"),
    *(sentence_transformers.MODULES, sentence_transformers.POOLING),
)
_OF_CHECKPOINTS = (".json", ".txt", ".model", ".jinja", ".md")
_EXPECTED = "a folder with config.json and *.safetensors, or a Hugging Face id such as org/name"


@dataclass(frozen=True)
class Checkpoint:
    """An opened checkpoint. No data has been read; ``tensors`` read themselves.

    ``source`` is what to call it: a Hub id, or the folder's own name. ``revision`` is the Hub's commit. ``pooling`` is
    how vectors of tokens become one, where sentence-transformers says so; the tensors of its linear layers are among
    the ``tensors``, as ``<module>.<name>``, and ``dense`` says their sizes. ``files`` are those with weights;
    ``notices`` say what was found in the folder and is not used, or used in another way than it says. Quantized weights
    are among the tensors as the floats that they stand for, and ``config`` does not say that they are.
    """

    folder: Path
    config: Mapping[str, Any]
    generation_config: Mapping[str, Any]
    tensors: Mapping[str, LazyTensor]
    source: str
    revision: str | None = None
    pooling: Mapping[str, Any] | None = None
    dense: Mapping[str, int] = field(default_factory=dict)
    files: tuple[Path, ...] = ()
    notices: tuple[str, ...] = ()

    def inputs(self) -> list[Path]:
        """The files that are, or would be, part of the checkpoint: those of FILES, those with weights, and all of the
        folder and those of its modules but GGUF."""
        inner = ["additional_chat_templates", *sentence_transformers.folders(self.folder)]
        folders = [self.folder, *(self.folder / name for name in inner)]
        present = [path for folder in folders if folder.is_dir() for path in sorted(folder.iterdir())]
        named = [*self.files, *(self.folder / name for name in FILES)]
        return [*named, *(path for path in present if path.suffix.lower() != ".gguf" and path not in named)]


def open(source: str | os.PathLike[str], revision: str | None = None, ignored: Iterable[str] = ()) -> Checkpoint:
    """Open a folder, a file of weights in one, or a repository of the Hub (`source.fetched`). ``ignored`` are keys of
    config.json to accept unread.

    CheckpointError where files are missing, incomplete or contradict each other; RemoteError where the Hub refuses;
    UnsupportedError for what is known and no checkpoint; ArgumentError for the revision of a folder.
    """
    source, revision = fetched(source, revision)
    path = Path(source)
    folder = path if path.is_dir() else path.parent
    if path.is_dir() or (path.is_file() and path.name.endswith(weights.ENDINGS)):
        if revision is not None:
            raise ArgumentError("a folder has no revisions", path=folder, field="revision", got=repr(revision))
        return _open_folder(folder, *called(folder), ignored, file=None if path.is_dir() else path)
    if path.is_file():
        raise _no_checkpoint(path)
    raise CheckpointError(
        "no such checkpoint",
        path=path,
        expected=_EXPECTED,
        got="nothing there" if not files.present(path) else "neither a folder nor a file",
    )


def _no_checkpoint(path: Path) -> Exception:
    """The error for a file that is not one of weights: what it is, or where it belongs to."""
    with path.open("rb") as file:
        start = file.read(foreign.SAMPLE)
    if path.suffix in _OF_CHECKPOINTS and (path.parent / "config.json").exists():
        return CheckpointError("a file, and not the checkpoint", path=path, remedy=f"give its folder, {path.parent}")
    known = files.not_the_file(path, start, "a checkpoint") or recognize.by_name(path)
    return known or CheckpointError("no such checkpoint", path=path, expected=_EXPECTED, got="a file")


def _of_transformers(folder: Path, file: Path | None) -> tuple[dict[str, Any], weights.Weights]:
    """config.json, and the weights of a folder or of one file in it."""
    if not files.present(folder / "config.json"):
        recognize.check_folder(folder)
        if file is not None:
            recognize.check_tensors(weights.of_file(file).tensors, file)
        remedy = "a checkpoint has one beside its weights, and a tokenizer: download them, too"
        raise CheckpointError("there is no config.json", path=folder, remedy=remedy)
    config = strictjson.load_config(folder / "config.json")
    if "peft_type" in config:
        recognize.check_folder(folder)
    return config, weights.of_file(file) if file is not None else weights.of_folder(folder, config)


def _original(
    folder: Path, file: Path | None, ignored: frozenset[str]
) -> tuple[dict[str, Any], weights.Weights] | None:
    """The same of a folder in Mistral's or Meta's own format, where it is in no other, or its file is asked for."""
    if not files.present(folder / mistral.PARAMS) or not (paths := mistral.weight_files(folder)):
        return None
    if file not in paths and (file is not None or weights.has_any(folder)):
        return None
    try:
        original = mistral.read(folder, [weights.read(path) for path in paths], ignored)
    except (CheckpointError, UnsupportedError) as error:
        error.what = f"in Mistral's or Meta's own format ({mistral.PARAMS}, consolidated): {error.what}"
        error.remedy = error.remedy or recognize.HF_FILES
        raise
    stated = folder / "config.json"
    config = strictjson.load_config(stated) if files.present(stated) else {}
    config = {name: value for name, value in config.items() if name != "quantization_config"} or original.config
    if "quantization_config" in original.config:
        config["quantization_config"] = original.config["quantization_config"]
    notice = f"read from {mistral.PARAMS} and {paths[0].name}, in Mistral's or Meta's own format"
    return config, weights.Weights(original.files, original.tensors, (notice, *original.notices))


def _open_folder(
    folder: Path, source: str, revision: str | None, ignored: Iterable[str], file: Path | None = None
) -> Checkpoint:
    ignored = frozenset(ignored)
    config, found = _original(folder, file, ignored) or _of_transformers(folder, file)
    plain = quantized.resolved(found.tensors, config, folder, ignored)
    recognize.check_tensors(plain.tensors, folder)
    generation = folder / "generation_config.json"
    dense = sentence_transformers.dense(folder)
    return Checkpoint(
        folder=folder,
        config=plain.config,
        generation_config=strictjson.load(generation) if files.present(generation) else {},
        tensors={**plain.tensors, **dense},
        source=source,
        revision=revision,
        pooling=sentence_transformers.pooling(folder),
        dense=sentence_transformers.dense_sizes(dense),
        files=found.files,
        notices=(*found.notices, *recognize.unapplied(folder), *plain.notices),
    )
