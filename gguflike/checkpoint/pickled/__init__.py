"""PyTorch checkpoints (pytorch_model.bin, .pth, .pt): the tensors of a state dict, without unpickling any object.

The pickle of such a file says which numbers of which storage a tensor has; the storages are records of a zip archive,
or follow the pickles in files from before PyTorch 1.6. Tensors read themselves from there.

    machine  a pickle read as a description of tensors
    opcodes  the opcodes that this needs, each a step of the machine
    archive  where each record of the archive is
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from gguflike import foreign
from gguflike.checkpoint import files
from gguflike.checkpoint.elsewhere import Extent
from gguflike.checkpoint.pickled import archive
from gguflike.checkpoint.pickled.machine import MAX_BYTES, REMEDY, SIZES, EndOfPickle, Machine, View
from gguflike.checkpoint.pickled.opcodes import load
from gguflike.checkpoint.safetensors import LazyTensor
from gguflike.errors import CheckpointError, UnsupportedError

#: Where training frameworks put the state dict among other things.
INNER = ("state_dict", "model_state_dict", "model", "module", "params", "weights")

_ZIP = b"PK\3\4"
_MAGIC, _PROTOCOL = 0x1950A86A20F9469CFC6C, 1001  # of files from before PyTorch 1.6
_FIRST = 1 << 20  # bytes of such a file that are read at first
_SPAN = 1 << 24  # bytes of a storage that are in memory for a tensor whose numbers are apart


class _Place(NamedTuple):
    """Where the bytes of a storage are."""

    offset: int
    size: int


@dataclass(frozen=True)
class Strided(LazyTensor):
    """A tensor whose numbers do not follow each other: ``strides`` apart along each axis. ``swapped``: the bytes of
    each are in the other order."""

    strides: tuple[int, ...]
    swapped: bool

    def extents(self, start: int, stop: int) -> list[Extent]:  # noqa: ARG002 - part of the interface
        return []  # all over the storage

    def read(self, start: int = 0, stop: int | None = None) -> npt.NDArray[Any]:
        stop = self.rows if stop is None else stop
        shape = (stop - start, *self.shape[1:]) if self.shape else ()
        made = np.empty(shape, self._numpy_dtype())
        self._fill(made, self.offset + (start * self.strides[0] * made.itemsize if self.shape else 0))
        return made.byteswap() if self.swapped else made

    def _fill(self, made: npt.NDArray[Any], offset: int) -> None:
        """Numbers from byte ``offset`` of the file on: at once where they are near each other, else in parts along the
        axis on which they are furthest apart."""
        if not made.size:
            return
        itemsize, strides = made.itemsize, self.strides
        reach = sum((size - 1) * stride for size, stride in zip(made.shape, strides, strict=True)) + 1
        if reach * itemsize <= _SPAN:
            span = LazyTensor(self.name, self.dtype, (reach,), self.path, offset, self.file_bytes).read()
            made[...] = np.lib.stride_tricks.as_strided(span, made.shape, [each * itemsize for each in strides])
            return
        axis = max(range(made.ndim), key=lambda each: strides[each] * (made.shape[each] - 1))
        half = made.shape[axis] // 2
        before, after = np.split(made, [half], axis)
        self._fill(before, offset)
        self._fill(after, offset + half * strides[axis] * itemsize)


def read(path: Path) -> dict[str, LazyTensor]:
    """The tensors of a file that torch.save wrote, by name.

    CheckpointError where it is malformed or holds no state dict, UnsupportedError where its pickle asks for anything
    that tensors do not need.
    """
    files.check(path)
    try:
        with path.open("rb") as file:
            start = file.read(foreign.SAMPLE)
        if start.startswith(_ZIP):
            return _of_archive(path)
        if start[:1] == b"\x80":
            return _of_stream(path)
    except OSError as error:
        raise files.unreadable(path, error) from None
    if start[257:262] == b"ustar":
        raise UnsupportedError(
            "a tar archive, as PyTorch wrote it before version 0.2", path=path, remedy="load it and save it again"
        )
    raise files.not_the_file(path, start, "a PyTorch checkpoint") or CheckpointError(
        "not a PyTorch checkpoint", path=path, expected="a zip archive, or a pickle", got=repr(start[:8])
    )


def _of_archive(path: Path) -> dict[str, LazyTensor]:
    found = archive.read(path)
    names = [name for name in found.records if name == "data.pkl" or name.endswith("/data.pkl")]
    if len(names) != 1:
        got = ", ".join(names[:3]) or "none"
        raise CheckpointError("not an archive of torch.save", path=path, expected="one record data.pkl", got=got)
    folder = names[0].removesuffix("data.pkl")
    if any(name.startswith(f"{folder}code/") or name == f"{folder}constants.pkl" for name in found.records):
        raise UnsupportedError("a program of TorchScript, not a checkpoint", path=path, remedy=REMEDY)
    machine = Machine(_bytes(found, names[0], MAX_BYTES), path)
    state = _state(load(machine), path)
    order = found.records.get(f"{folder}byteorder")
    swapped = order is not None and _bytes(found, order.name, 16) == b"big"

    made: dict[str, LazyTensor] = {}
    for name, view in state.items():
        key = f"{folder}data/{view.storage.key}"
        record = found.records.get(key)
        if record is None:
            raise CheckpointError("storage is not in the archive", path=path, tensor=name[:200], expected=key[:200])
        made[name] = _tensor(name, view, _Place(record.offset, record.size), path, found.file_bytes, swapped)
    return made


def _bytes(found: archive.Archive, name: str, most: int) -> bytes:
    record = found.records[name]
    if record.size > most:
        expected = f"at most {most} bytes"
        raise CheckpointError(f"record {name[:120]} is too long", path=found.path, expected=expected, got=record.size)
    with found.path.open("rb") as file:
        file.seek(record.offset)
        return file.read(record.size)


def _of_stream(path: Path) -> dict[str, LazyTensor]:
    """A file from before PyTorch 1.6: pickles of a magic number, a version, facts of the system, the state dict and the
    keys of the storages, which follow in that order, each behind its count of numbers."""
    size = path.stat().st_size
    for most in (_FIRST, MAX_BYTES):
        with path.open("rb") as file:
            machine = Machine(file.read(most), path)
        try:
            magic = load(machine)
            if magic != _MAGIC:
                raise UnsupportedError("a pickle that torch.save did not write", path=path, remedy=REMEDY)
            if load(machine) != _PROTOCOL:
                raise UnsupportedError("a version of torch.save's format that is not known", path=path, remedy=REMEDY)
            facts, loaded, keys = load(machine), load(machine), load(machine)
            break
        except EndOfPickle:
            if most >= min(size, MAX_BYTES):
                raise
    swapped = isinstance(facts, dict) and facts.get("little_endian") is False
    state = _state(loaded, path)
    places = _places(path, machine.at, size, keys, state)
    return {name: _tensor(name, view, places[view.storage.key], path, size, swapped) for name, view in state.items()}


def _places(path: Path, at: int, size: int, keys: Any, state: Mapping[str, View]) -> dict[str, _Place]:
    """Where the storages are, which follow each other from byte ``at`` on.

    CheckpointError for one whose size nothing says: no tensor of the state dict is of it.
    """
    widths = {view.storage.key: SIZES.get(view.storage.dtype, 1) for view in state.values()}
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys) or not widths.keys() <= set(keys):
        raise CheckpointError(
            "keys of the storages are malformed",
            path=path,
            offset=at,
            expected="a list of texts, with a storage for each tensor",
            remedy="the file is damaged: get it again",
        )
    places: dict[str, _Place] = {}
    with path.open("rb") as file:
        for key in keys:
            if key not in widths or key in places:
                raise CheckpointError(
                    "storage belongs to no tensor of the state dict", path=path, offset=at, remedy=REMEDY
                )
            file.seek(at)
            head = file.read(8)
            count = struct.unpack("<q", head)[0] if len(head) == 8 else -1
            if not 0 <= count <= (size - at - 8) // widths[key]:
                raise CheckpointError(
                    "storage reaches beyond the end of the file", path=path, offset=at, got=count if head else "nothing"
                )
            places[key] = _Place(at + 8, count * widths[key])
            at += 8 + places[key].size
    return places


def _state(loaded: Any, path: Path) -> dict[str, View]:
    """The state dict in what was saved: that, or what is under one of the usual keys."""
    if isinstance(loaded, dict):
        found = [loaded, *(loaded[key] for key in INNER if isinstance(loaded.get(key), dict))]
        for each in found:
            tensors = {name: view for name, view in each.items() if isinstance(view, View)}
            if tensors and all(isinstance(name, str) for name in tensors):
                return tensors
    keys = f" of {', '.join(str(key)[:40] for key in islice(loaded, 4))}" if isinstance(loaded, dict) else ""
    raise CheckpointError(
        "no state dict in the file",
        path=path,
        expected=f"tensors by name, or those under {', '.join(INNER)}",
        got=f"{type(loaded).__name__}{keys}",
    )


def _tensor(name: str, view: View, place: _Place, path: Path, file_bytes: int, swapped: bool) -> LazyTensor:
    itemsize = SIZES[view.dtype]
    numbers = view.storage.start + view.storage.size
    needed = numbers * itemsize if view.storage.dtype else numbers
    if needed > place.size:
        raise CheckpointError(
            "storage has fewer bytes than its tensors",
            path=path,
            tensor=name[:200],
            expected=f"{needed} bytes",
            got=f"{place.size} bytes",
        )
    offset = place.offset + (view.storage.start + view.offset) * itemsize
    described = (name, view.dtype, view.shape, str(path), offset, file_bytes)
    if not swapped and _follow(view.shape, view.strides):
        return LazyTensor(*described)
    return Strided(*described, view.strides, swapped and itemsize > 1)


def _follow(shape: tuple[int, ...], strides: tuple[int, ...]) -> bool:
    """Whether numbers follow each other in order of rows."""
    wanted = [prod(shape[axis + 1 :]) for axis in range(len(shape))]
    return all(size <= 1 or stride == want for size, stride, want in zip(shape, strides, wanted, strict=True))
