"""Whether metadata and tensors of a file agree: what loads, but will surprise whoever runs it."""

from __future__ import annotations

import re
from collections.abc import Iterator

from gguflike.container.reader import GGUFFile
from gguflike.container.values import INTEGERS, ValueType
from gguflike.errors import counted

TOKENS = "tokenizer.ggml.tokens"
EMBEDDING = "token_embd.weight"
PER_TOKEN = ("tokenizer.ggml.scores", "tokenizer.ggml.token_type")
_LAYER = re.compile(r"blk\.(\d+)\.")


def inconsistencies(file: GGUFFile) -> Iterator[tuple[str, str, str]]:
    """(rule, key, what is wrong) for each disagreement."""
    yield from _layers(file)
    yield from _vocabulary(file)


def _layers(file: GGUFFile) -> Iterator[tuple[str, str, str]]:
    """M-010: ``<architecture>.block_count`` layers, numbered from 0. A shard alone has only some of them."""
    key = f"{file.architecture}.block_count"
    found = {int(match[1]) for name in file.infos if (match := _LAYER.match(name))}
    if not found or key not in file.metadata or "split.count" in file.metadata:
        return
    if file.metadata.type_of(key) not in INTEGERS:
        yield "M-010", key, f"the number of layers is a {file.metadata.type_of(key).name}, not an integer"
        return
    stated = file.metadata[key]
    missing = next((number for number in range(len(found) + 1) if number not in found), 0)
    if missing < stated:
        yield "M-010", key, f"metadata says {counted(stated, 'layer')}, layer {missing} has no tensors"
    if max(found) >= stated:
        yield "M-010", key, f"metadata says {counted(stated, 'layer')}, there are tensors of layer {max(found)}"


def _vocabulary(file: GGUFFile) -> Iterator[tuple[str, str, str]]:
    """M-011: as many scores and types as tokens, a row of the embedding for each, special ids among them."""
    metadata = file.metadata
    if TOKENS not in metadata or metadata.item_type_of(TOKENS) is not ValueType.STRING:
        return
    tokens = metadata.count_of(TOKENS)
    for key in PER_TOKEN:
        if key in metadata and metadata.count_of(key) != tokens:
            yield "M-011", key, f"{counted(metadata.count_of(key), 'value')} for {counted(tokens, 'token')}"
    info = file.infos.get(EMBEDDING)
    if info and len(info.shape) == 2 and info.shape[0] < tokens:
        yield "M-011", TOKENS, f"{counted(tokens, 'token')}, but {EMBEDDING} has {counted(info.shape[0], 'row')}"
    for key in metadata:
        if key.startswith("tokenizer.ggml.") and key.endswith("_token_id") and metadata.type_of(key) in INTEGERS:
            value = metadata[key]
            if value >= tokens and value != 2**32 - 1:  # all ones: "none"
                yield "M-011", key, f"id {value} is not among {counted(tokens, 'token')}"
