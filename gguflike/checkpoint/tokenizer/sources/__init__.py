"""What stands in where tokenizer.json is missing, each read as the tokenizer.json that it amounts to.

sentencepiece  tokenizer.model and its like: a protocol buffer of pieces with scores
tekken         tekken.json, Mistral's
tiktoken       *.tiktoken, or a tokenizer.model of that kind: bytes and ranks, a line each
bpe_files      vocab.json and merges.txt, GPT-2's and those like it
wordpiece      vocab.txt, BERT's
source         what they share: what they are asked, and parts of tokenizer.json
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from gguflike.checkpoint import files
from gguflike.checkpoint.tokenizer.sources.source import Asked, Source
from gguflike.errors import CheckpointError

#: Names of files, or patterns, and the module that reads each, in the order in which they are looked for.
_KINDS = (
    ("tekken.json", "tekken"),
    ("tokenizer.model", "sentencepiece"),
    ("spiece.model", "sentencepiece"),
    ("sentencepiece.bpe.model", "sentencepiece"),
    ("tokenizer.model.v*", "sentencepiece"),
    ("merges.txt", "bpe_files"),
    ("tiktoken.model", "tiktoken"),
    ("*.tiktoken", "tiktoken"),
    ("vocab.txt", "wordpiece"),
)


def read(folder: Path, settings: Mapping[str, Any], config: Mapping[str, Any]) -> Source:
    """The vocabulary of a folder without tokenizer.json. ``settings`` and ``config`` are what is in
    tokenizer_config.json and config.json.

    CheckpointError where there is none, or where it is malformed; UnsupportedError where it does what is not handled.
    """
    for path, module in _candidates(folder):
        make: Callable[[Path, Asked], Source] = import_module(f"{__name__}.{module}").read
        return make(path, Asked(settings, config))
    others = sorted(path.name for path in folder.glob("*") if "token" in path.name or "vocab" in path.name)
    raise CheckpointError(
        "the folder has no tokenizer",
        path=folder,
        expected="tokenizer.json, tokenizer.model, tekken.json, vocab.json with merges.txt, vocab.txt or *.tiktoken",
        got=", ".join(others[:4]) or "none of them",
        remedy="download the tokenizer's files too",
    )


def _candidates(folder: Path) -> Iterator[tuple[Path, str]]:
    for pattern, module in _KINDS:
        if "*" not in pattern:
            if files.present(folder / pattern):
                yield folder / pattern, _kind(folder / pattern, module)
            continue
        for path in sorted(folder.glob(pattern), reverse=True):  # of several versions the newest
            yield path, module


def _kind(path: Path, module: str) -> str:
    """The module for what a file is: a tokenizer.model may be one of tiktoken's (Llama 3)."""
    if module != "sentencepiece":
        return module
    from gguflike.checkpoint.tokenizer.sources import tiktoken

    return "tiktoken" if tiktoken.is_one(files.read(path)) else module
