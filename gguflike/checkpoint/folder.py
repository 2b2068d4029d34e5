"""A checkpoint: the folder that Transformers saves, with its tensors behind one mapping."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gguflike.checkpoint import sentence_transformers, strictjson
from gguflike.checkpoint.safetensors import INDEX, SINGLE, LazyTensor, read_header
from gguflike.errors import ArgumentError, CheckpointError

#: What a checkpoint may be read from beside its shards, by this package and by others.
FILES = (
    *("config.json", "generation_config.json", SINGLE, INDEX, "README.md"),
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "tokenizer.model"),
    *("vocab.json", "merges.txt", "chat_template.json", "chat_template.jinja"),
    *(sentence_transformers.MODULES, sentence_transformers.POOLING),
)
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass(frozen=True)
class Checkpoint:
    """An opened checkpoint. No data has been read; ``tensors`` read themselves.

    ``source`` is what to call it: a Hub id, or the folder's own name. ``revision`` is the Hub's commit. ``pooling`` is
    how vectors of tokens become one, where sentence-transformers says so; the tensors of its linear layers are among
    the ``tensors``, as ``<module>.<name>``, and ``dense`` says their sizes.
    """

    folder: Path
    config: Mapping[str, Any]
    generation_config: Mapping[str, Any]
    tensors: Mapping[str, LazyTensor]
    source: str
    revision: str | None = None
    pooling: Mapping[str, Any] | None = None
    dense: Mapping[str, int] = field(default_factory=dict)

    def inputs(self) -> list[Path]:
        """The files that are, or would be, part of the checkpoint: those of FILES, and all of the folder and those of
        its modules but GGUF."""
        inner = ["additional_chat_templates", *sentence_transformers.folders(self.folder)]
        folders = [self.folder, *(self.folder / name for name in inner)]
        present = [path for folder in folders if folder.is_dir() for path in sorted(folder.iterdir())]
        named = [self.folder / name for name in FILES]
        return [*named, *(path for path in present if path.suffix.lower() != ".gguf" and path not in named)]


def open(source: str | os.PathLike[str], revision: str | None = None) -> Checkpoint:
    """Open a folder, or a Hub id such as ``org/name`` (downloaded into the Hub's cache where it is not there yet).

    CheckpointError where files are missing, incomplete or contradict each other; ArgumentError for the revision of a
    folder.
    """
    folder = Path(source)
    if folder.is_dir():
        if revision is not None:
            raise ArgumentError("a folder has no revisions", path=folder, field="revision", got=repr(revision))
        return _open_folder(folder, folder.resolve().name, None)
    if isinstance(source, str) and _HUB_ID.fullmatch(source) and not folder.exists():
        from gguflike.checkpoint import hub

        found, commit = hub.snapshot(source, revision)
        return _open_folder(found, source, commit)
    raise CheckpointError(
        "no such checkpoint",
        path=folder,
        expected="a folder with config.json and *.safetensors, or a Hugging Face id such as org/name",
        got="a file" if folder.exists() else "nothing there",
        remedy="a GGUF file is quantized with `gguflike quantize`" if folder.suffix == ".gguf" else None,
    )


def _open_folder(folder: Path, source: str, revision: str | None) -> Checkpoint:
    config = strictjson.load(folder / "config.json")
    generation = folder / "generation_config.json"
    tensors, dense = _tensors(folder), sentence_transformers.dense(folder)
    quantized = config.get("quantization_config")
    if isinstance(quantized, dict) and quantized.get("quant_method") == "bitnet":
        from gguflike.checkpoint import bitnet

        tensors = bitnet.ternary(tensors, quantized)
    return Checkpoint(
        folder=folder,
        config=config,
        generation_config=strictjson.load(generation) if generation.exists() else {},
        tensors={**tensors, **dense},
        source=source,
        revision=revision,
        pooling=sentence_transformers.pooling(folder),
        dense=sentence_transformers.dense_sizes(dense),
    )


def _tensors(folder: Path) -> dict[str, LazyTensor]:
    index, single = folder / INDEX, folder / SINGLE
    if index.exists():
        return _indexed(folder, index)
    if single.exists():
        return read_header(single)
    others = sorted(path.name for path in folder.glob("*.bin")) or sorted(path.name for path in folder.glob("*.pt*"))
    raise CheckpointError(
        "no safetensors in the folder",
        path=folder,
        expected=f"{SINGLE} or {INDEX}",
        got=", ".join(others[:3]) or "no weights",
        remedy="save it again with save_pretrained(..., safe_serialization=True)" if others else None,
    )


def _indexed(folder: Path, index: Path) -> dict[str, LazyTensor]:
    """Tensors of a sharded checkpoint; the index and the shards must tell the same story."""
    weight_map = strictjson.load(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError("weight_map is missing or empty", path=index, field="weight_map")
    files = sorted({_shard_name(name, index) for name in weight_map.values()})
    if SINGLE not in files and (folder / SINGLE).exists():
        raise CheckpointError(
            f"the folder holds both {SINGLE} and an index of other files",
            path=folder,
            remedy="remove whichever is stale",
        )
    tensors: dict[str, LazyTensor] = {}
    for file in files:
        if not (folder / file).is_file():
            raise CheckpointError(
                "shard is missing", path=folder / file, remedy="the download is incomplete; fetch the checkpoint again"
            )
        for name, tensor in read_header(folder / file).items():
            if weight_map.get(name) != file:
                raise CheckpointError(
                    "shard holds a tensor that the index places elsewhere",
                    path=folder / file,
                    tensor=name[:200],
                    expected=weight_map.get(name, "no such tensor"),
                    got=file,
                )
            tensors[name] = tensor
    missing = [name for name in weight_map if name not in tensors]
    if missing:
        raise CheckpointError(
            f"{len(missing)} tensors of the index are in no shard", path=index, tensor=missing[0][:200]
        )
    return tensors


def _shard_name(name: Any, index: Path) -> str:
    """A file name and nothing else: an index must not reach out of its folder."""
    if not isinstance(name, str) or not re.fullmatch(r"[\w][\w.-]*\.safetensors", name):
        raise CheckpointError(
            "weight_map names something other than a safetensors file of the folder",
            path=index,
            field="weight_map",
            got=repr(name)[:120],
        )
    return name
