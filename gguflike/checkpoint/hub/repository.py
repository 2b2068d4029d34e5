"""A repository of the Hub as a checkpoint: its small files are fetched into the Hub's cache, its weights stay there and
are read by ranges."""

from __future__ import annotations

import re
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath

from gguflike.checkpoint import elsewhere
from gguflike.checkpoint.hub import client, remote
from gguflike.checkpoint.hub.listing import Repository
from gguflike.errors import RemoteError
from gguflike.progress import Progress

MOST_BYTES = 64 << 20  # of a file that is fetched whole: the largest tokenizers take half of it
_SUFFIXES = (".json", ".txt", ".model", ".jinja", ".tiktoken", ".spm", ".bpe")
_CARD = "README.md"
_VERSIONED = re.compile(r"tokenizer\.model\.v\d+\w*")  # Mistral's
# Of what lies in folders: templates, and the modules of sentence-transformers.
_INNER = re.compile(r"additional_chat_templates/[^/]+\.jinja|\d+_\w+/(config\.json|model\.safetensors)")
_PICKLED = re.compile(r"(pytorch_model|model|consolidated)\b[\w.-]*\.(bin|pth?)")


def snapshot(repo: str, revision: str | None = None, keep_copy: bool = False, progress: Progress | None = None) -> Path:
    """The folder of a repository at a branch, tag or commit, of whose files some may be elsewhere. With ``keep_copy``,
    weights are downloaded into the Hub's cache too.

    Weights that the cache has, and those that only a loader of pickles reads, are files as well. RemoteError where the
    Hub or the network refuses.
    """
    found = client.list_repository(repo, revision)
    weights = [name for name in found.files if name.endswith(".safetensors")]
    top = [name for name in weights if "/" not in name]
    pickled = [] if top else [name for name in found.files if _PICKLED.fullmatch(name)]
    models = [name for name in found.files if name.lower().endswith(".gguf")]
    if models and not weights and not pickled:
        raise RemoteError(
            "the repository holds GGUF files, and no checkpoint",
            path=repo,
            got=", ".join(models[:3]),
            remedy=f"they are run as they are, gguflike run {repo}, or changed: gguflike quantize {repo}:TYPE",
        )
    small = [name for name, file in found.files.items() if _is_small(name, file.size)]
    if not small:
        raise RemoteError(
            "the repository holds no model",
            path=repo,
            expected="config.json and *.safetensors",
            got=", ".join(list(found.files)[:3]) or "no files",
        )
    paths = _fetch(found, small)
    for name in [*(top if keep_copy and not found.offline else ()), *pickled]:
        client.fetch(found, name, progress)
    folder = _root(paths[0], small[0])
    if not found.offline:
        for name in weights:
            elsewhere.place(folder / name, remote.place(found, name))
    return folder


def _is_small(name: str, size: int | None) -> bool:
    if size is not None and size > MOST_BYTES:
        return False
    if "/" in name:
        return _INNER.fullmatch(name) is not None
    return name.endswith(_SUFFIXES) or name == _CARD or _VERSIONED.fullmatch(name) is not None


def _fetch(found: Repository, names: Iterable[str]) -> list[Path]:
    with ThreadPoolExecutor(remote.CONNECTIONS) as threads:
        return list(threads.map(lambda name: client.fetch(found, name), names))


def _root(path: Path, name: str) -> Path:
    """The folder of a snapshot, from the path of one of its files."""
    return path.parents[len(PurePosixPath(name).parts) - 1]
