"""Whether the records of a file agree with each other: what loads, but will surprise whoever runs it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from gguflike.container.findings import Finding, odd
from gguflike.container.layout import ARCHITECTURE_KEY
from gguflike.container.values import INTEGERS, ValueType
from gguflike.container.view import HeaderView
from gguflike.errors import GGUFError, counted

TOKENS = "tokenizer.ggml.tokens"
EMBEDDING = "token_embd.weight"
PER_TOKEN = ("tokenizer.ggml.scores", "tokenizer.ggml.token_type")


def architecture(file: HeaderView) -> Iterator[Finding]:
    """C-016: ``general.architecture``, where it is there, is a text."""
    metadata = file.metadata
    if ARCHITECTURE_KEY not in metadata:
        return
    entry = metadata.entry(ARCHITECTURE_KEY)
    if entry.type is ValueType.STRING and isinstance(metadata[ARCHITECTURE_KEY], str):
        return
    yield Finding(
        "error",
        "C-016",
        "architecture is not a UTF-8 string",
        file.path,
        entry.start,
        field=f"metadata.{ARCHITECTURE_KEY}",
        expected="STRING",
        got=metadata.shown(ARCHITECTURE_KEY),
    )


def digested(file: HeaderView) -> Iterator[Finding]:
    """M-001: of digests both keys are there, one digest for each tensor, and all well-formed."""
    from gguflike.container.digest import recorded  # with hashlib, which opening a file does without

    try:
        recorded(file.metadata, list(file.infos))
    except GGUFError as error:
        yield Finding.of(error, file.path)


def strings(file: HeaderView) -> Iterator[Finding]:
    """C-104: strings are UTF-8."""
    metadata = file.metadata
    for key in metadata:
        wrong: list[bytes] = []
        if metadata.type_of(key) is ValueType.STRING:
            value = metadata[key]
            wrong = [value] if isinstance(value, bytes) else []
        elif texts := metadata.texts(key):
            wrong = [texts.raw(index) for index in texts.not_utf8()]
        if wrong:
            message = f"{len(wrong)} of {metadata.count_of(key)} strings are not UTF-8, the first {wrong[0][:40]!r}"
            yield Finding(odd(file), "C-104", message, file.path, metadata.entry(key).start, field=key)


def byte_order(file: HeaderView) -> Iterator[Finding]:
    """C-108: numbers are little-endian."""
    if file.byteorder == "big":
        yield Finding(odd(file), "C-108", "big-endian; most readers refuse such a file", file.path, 4, field="version")


def layers(file: HeaderView) -> Iterator[Finding]:
    """M-010: ``<architecture>.block_count`` layers, numbered from 0. A shard alone has only some of them."""
    key = f"{file.architecture}.block_count"
    numbers = (name.split(".", 2)[1] for name in file.infos if name.startswith("blk."))
    found = {int(number) for number in numbers if number.isascii() and number.isdigit() and len(number) < 10}
    if not found or key not in file.metadata or "split.count" in file.metadata:
        return

    def wrong(message: str) -> Finding:
        return Finding("warning", "M-010", message, file.path, file.metadata.entry(key).start, field=key)

    if file.metadata.type_of(key) not in INTEGERS:
        yield wrong(f"the number of layers is a {file.metadata.type_of(key).name}, not an integer")
        return
    stated = file.metadata[key]
    missing = next((number for number in range(len(found) + 1) if number not in found), 0)
    if missing < stated:
        yield wrong(f"metadata says {counted(stated, 'layer')}, layer {missing} has no tensors")
    if max(found) >= stated:
        yield wrong(f"metadata says {counted(stated, 'layer')}, there are tensors of layer {max(found)}")


def vocabulary(file: HeaderView) -> Iterator[Finding]:
    """M-011: as many scores and types as tokens, a row of the embedding for each, special ids among them."""
    metadata = file.metadata
    if TOKENS not in metadata or metadata.item_type_of(TOKENS) is not ValueType.STRING:
        return
    tokens = metadata.count_of(TOKENS)

    def wrong(key: str, message: str) -> Finding:
        return Finding("warning", "M-011", message, file.path, metadata.entry(key).start, field=key)

    for key in PER_TOKEN:
        if key in metadata and metadata.count_of(key) != tokens:
            yield wrong(key, f"{counted(metadata.count_of(key), 'value')} for {counted(tokens, 'token')}")
    info = file.infos.get(EMBEDDING)
    if info and len(info.shape) == 2 and info.shape[0] < tokens:
        yield wrong(TOKENS, f"{counted(tokens, 'token')}, but {EMBEDDING} has {counted(info.shape[0], 'row')}")
    for key in metadata:
        if key.startswith("tokenizer.ggml.") and key.endswith("_token_id") and metadata.type_of(key) in INTEGERS:
            value = metadata[key]
            if not 0 <= value < tokens and value not in (-1, 2**32 - 1):  # all ones: "none"
                yield wrong(key, f"id {value} is not among {counted(tokens, 'token')}")


def shards(first: HeaderView, later: Sequence[HeaderView]) -> Iterator[Finding]:
    """M-016: what a later shard says of the model, the first says, too. Readers take metadata of the first alone."""
    from gguflike.container.digest import PREFIX, SIGNATURE_PREFIX  # as above

    for file in later:
        for key in file.metadata:
            if key.startswith(("split.", PREFIX, SIGNATURE_PREFIX)):  # what each shard has of itself
                continue
            if key not in first.metadata:
                message = "a shard that is not the first has metadata, which no program reads there"
            elif not np.array_equal(file.metadata[key], first.metadata[key]):
                message = "the first shard says otherwise: this may be a shard of another model"
            else:
                continue
            yield Finding("warning", "M-016", message, file.path, file.metadata.entry(key).start, field=key)
