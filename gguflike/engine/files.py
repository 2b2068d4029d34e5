"""Files of what was computed: a header, arrays, and a digest of all, checked before anything is used.

A file is a line that says what it is (``magic``), the length of the header in 8 bytes, little-endian, the header as
JSON, the arrays one behind the other as the header lists them (``states``: type and shape of each), and the SHA-256 of
all before. Files are complete or not there (`container.target`).
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np

from gguflike import __version__
from gguflike.container.target import write_bytes
from gguflike.errors import CacheError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import numpy.typing as npt

    from gguflike.runner import Model

    Arrays = Sequence[Sequence[npt.NDArray[Any]]]

_DIGEST_BYTES = hashlib.sha256().digest_size
_SAMPLES, _SAMPLE_BYTES = 64, 4096  # of a model's file, beside its beginning
_BEGINNING = 1 << 20
_LONGEST_HEADER = 1 << 28

#: The fingerprints of models in use, and of which files they were: inode, size and time of change of each.
_known: WeakKeyDictionary[Model, tuple[tuple[tuple[int, int, int], ...], str]] = WeakKeyDictionary()


class Contents(NamedTuple):
    """What a file holds."""

    header: Mapping[str, Any]
    states: list[list[npt.NDArray[Any]]]


def write(path: Path, magic: bytes, header: Mapping[str, Any], states: Arrays, *, durable: bool = True) -> int:
    """Write a file, in the place of one of that name; returns its bytes. ``durable``: it is still there should the
    machine fail. OutputError where it cannot be written."""
    arrays = [np.ascontiguousarray(array) for held in states for array in held]
    shapes = [[[str(array.dtype.str), list(array.shape)] for array in held] for held in states]
    text = json.dumps({**header, "states": shapes}).encode()
    raw = (array.reshape(-1).view(np.uint8) for array in arrays)
    parts: tuple[Any, ...] = (magic, len(text).to_bytes(8, "little"), text, *raw)
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return write_bytes(path, (*parts, digest.digest()), overwrite=True, durable=durable)


def read(path: Path, magic: bytes, about: Mapping[str, Any]) -> Contents:
    """What a file holds. CacheError where it is missing, damaged, or its header says otherwise than ``about``."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise CacheError("cannot be read", path=path, got=error.strerror) from error
    body, digest = data[:-_DIGEST_BYTES], data[-_DIGEST_BYTES:]
    if not body.startswith(magic):
        what = magic.split(b" ")[1].decode()
        raise CacheError(f"no file of a {what}", path=path, expected=repr(magic), got=repr(data[: len(magic)]))
    if hashlib.sha256(body).digest() != digest:
        raise CacheError("the file is damaged", path=path, got="another SHA-256 than it states")
    start = len(magic) + 8
    length = int.from_bytes(body[len(magic) : start], "little")
    header: dict[str, Any] = json.loads(body[start : start + length])
    for key, value in about.items():
        if header.get(key) != value:
            what = f"the file was made for another {key.replace('_', ' ')}"
            raise CacheError(what, path=path, expected=value, got=header.get(key))
    return Contents(header, list(_arrays(body, start + length, header["states"])))


def header_of(path: Path, magic: bytes) -> Mapping[str, Any] | None:
    """The header alone, not checked by the digest; None where there is none to be read."""
    try:
        with path.open("rb") as file:
            if file.read(len(magic)) != magic:
                return None
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(min(length, _LONGEST_HEADER)))
    except (OSError, ValueError):
        return None
    return header if isinstance(header, dict) else None


def _arrays(body: bytes, at: int, states: list[list[tuple[str, list[int]]]]) -> Iterator[list[npt.NDArray[Any]]]:
    for held in states:
        arrays = []
        for kind, shape in held:
            dtype, count = np.dtype(kind), int(np.prod(shape, dtype=np.int64))
            arrays.append(np.frombuffer(body, dtype, count, at).reshape(shape).copy())
            at += count * dtype.itemsize
        yield arrays


def about(model: Model) -> dict[str, Any]:
    """What the numbers that a model leaves depend on, beside the tokens."""
    return {
        "model": fingerprint(model),
        "version": __version__,
        "cache_type": model.cache_type,
        "context": model.context,
        "activations": model.activations,
        "computation": model.computation,
    }


def fingerprint(model: Model) -> str:
    """A digest of a model's files: their sizes, their beginnings, where the header is, and samples of the rest.

    They are read once for each model, and again when one of them is another file or was written to. OSError where one
    is gone.
    """
    stamps = tuple((status.st_ino, status.st_size, status.st_mtime_ns) for status in map(os.stat, model.files))
    if model not in _known or _known[model][0] != stamps:
        _known[model] = stamps, _digest(model.files)
    return _known[model][1]


def _digest(names: Sequence[str]) -> str:
    digest = hashlib.sha256()
    for name in names:
        with Path(name).open("rb") as file:
            size = file.seek(0, 2)
            digest.update(size.to_bytes(8, "little"))
            file.seek(0)
            digest.update(file.read(_BEGINNING))
            for number in range(_SAMPLES):
                file.seek(size * number // _SAMPLES)
                digest.update(file.read(_SAMPLE_BYTES))
    return digest.hexdigest()
