"""What a slot holds of a text, as a file: to go on after the program was ended.

A file is ``MAGIC``, the length of the header in 8 bytes, little-endian, the header as JSON, the arrays of the states
one behind the other as the header lists them, and the SHA-256 of all before. The header says of which model the text is
(`fingerprint`), by which version and in what type of cache, for which context, its tokens, and the arrays' types and
shapes. All of that is checked before anything is used. Files are complete or not there (`container.target`).
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gguflike import __version__
from gguflike.container.target import Target
from gguflike.errors import ArgumentError, CacheError, check_text
from gguflike.runner.slots import Saved

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gguflike.runner import Model
    from gguflike.runner.slots import Slot

MAGIC = b"gguflike slot 1\n"
SUFFIX = ".slot"
_DIGEST_BYTES = hashlib.sha256().digest_size
_SAMPLES, _SAMPLE_BYTES = 64, 4096  # of a model's file, beside its beginning
_BEGINNING = 1 << 20
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


class Store:
    """Files of slots in one folder."""

    def __init__(self, folder: Path, model: Model) -> None:
        """ArgumentError where there is no such folder."""
        if not folder.is_dir():
            raise ArgumentError("no such folder", path=folder, field="store", remedy="make the folder first")
        self._folder, self._model = folder, model

    def save(self, slot: Slot, name: str) -> int:
        """Write what a slot holds; returns how many tokens. A file of that name is replaced. ArgumentError for a name
        that is none, and for a slot that holds nothing, OutputError where the file cannot be written."""
        path = self._path(name)
        if not slot.tokens:
            raise ArgumentError("the slot holds nothing that could be saved", field="slot", got=slot.number)
        saved = slot.save()
        arrays = [np.ascontiguousarray(array) for held in saved.states for array in held]
        header = self._about() | {
            "tokens": saved.tokens,
            "prefilled": saved.prefilled,
            "states": [[[str(array.dtype.str), list(array.shape)] for array in held] for held in saved.states],
        }
        text = json.dumps(header).encode()
        parts: tuple[Any, ...] = (
            MAGIC,
            len(text).to_bytes(8, "little"),
            text,
            *(array.reshape(-1).view(np.uint8) for array in arrays),
        )
        digest, at = hashlib.sha256(), 0
        target = Target(path, overwrite=True)
        try:
            target.create(sum(map(len, parts)) + _DIGEST_BYTES)
            for part in parts:
                digest.update(part)
                target.write(memoryview(part), at)
                at += len(part)
            target.write(memoryview(digest.digest()), at)
            target.sync()
            target.publish()
            target.sync_folder()
        finally:
            target.discard()
        return len(saved.tokens)

    def restore(self, slot: Slot, name: str) -> int:
        """Let a slot hold what is in a file; returns how many tokens. CacheError where the file is missing, damaged, or
        of another model, version, type of cache or context: the slot holds nothing then."""
        path = self._path(name)
        slot.lose()
        try:
            data = path.read_bytes()
        except OSError as error:
            raise CacheError("cannot be read", path=path, got=error.strerror) from error
        saved = self._parsed(path, data)
        try:
            slot.restore(saved)
        except (ValueError, IndexError) as error:
            slot.lose()
            raise CacheError("its arrays do not fit the model's", path=path, got=str(error)) from error
        return len(saved.tokens)

    def _parsed(self, path: Path, data: bytes) -> Saved:
        body, digest = data[:-_DIGEST_BYTES], data[-_DIGEST_BYTES:]
        if not body.startswith(MAGIC):
            raise CacheError("no file of a slot", path=path, expected=repr(MAGIC), got=repr(data[: len(MAGIC)]))
        if hashlib.sha256(body).digest() != digest:
            raise CacheError("the file is damaged", path=path, got="another SHA-256 than it states")
        start = len(MAGIC) + 8
        length = int.from_bytes(body[len(MAGIC) : start], "little")
        header: dict[str, Any] = json.loads(body[start : start + length])
        for key, value in self._about().items():
            if header.get(key) != value:
                what = f"the file was made for another {key.replace('_', ' ')}"
                raise CacheError(what, path=path, expected=value, got=header.get(key))
        arrays = _arrays(body, start + length, header["states"])
        return Saved(header["tokens"], header["prefilled"], list(arrays))

    def _about(self) -> dict[str, Any]:
        model = self._model
        return {
            "model": fingerprint(model),
            "version": __version__,
            "cache_type": model.cache_type,
            "context": model.context,
        }

    def _path(self, name: str) -> Path:
        check_text("name", name)
        if not _NAME.fullmatch(name):
            raise ArgumentError(
                "not a name of a saved slot",
                field="name",
                expected="letters, digits, dots, dashes and underscores, at most 100, no path",
                got=repr(name)[:60],
            )
        return self._folder / (name + SUFFIX)


def _arrays(body: bytes, at: int, states: list[list[tuple[str, list[int]]]]) -> Iterator[list[Any]]:
    for held in states:
        arrays = []
        for kind, shape in held:
            dtype, count = np.dtype(kind), int(np.prod(shape, dtype=np.int64))
            arrays.append(np.frombuffer(body, dtype, count, at).reshape(shape).copy())
            at += count * dtype.itemsize
        yield arrays


def fingerprint(model: Model) -> str:
    """A digest of a model's files: their sizes, their beginnings, where the header is, and samples of the rest."""
    digest = hashlib.sha256()
    for name in model.files:
        with Path(name).open("rb") as file:
            size = file.seek(0, 2)
            digest.update(size.to_bytes(8, "little"))
            file.seek(0)
            digest.update(file.read(_BEGINNING))
            for number in range(_SAMPLES):
                file.seek(size * number // _SAMPLES)
                digest.update(file.read(_SAMPLE_BYTES))
    return digest.hexdigest()
