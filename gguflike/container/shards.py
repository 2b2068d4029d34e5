"""A model split into several files as llama.cpp does (`model-00001-of-00003.gguf`), opened as one."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from gguflike.container import places
from gguflike.container.layout import TensorInfo
from gguflike.container.metadata import Metadata
from gguflike.container.reader import GGUFFile, original_shape
from gguflike.container.values import INTEGERS
from gguflike.container.view import Lazy
from gguflike.errors import GGUFError, counted
from gguflike.tensor import QuantizedTensor

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

PREFIX = "split."
NUMBER_KEY = "split.no"
COUNT_KEY = "split.count"
TENSORS_KEY = "split.tensors.count"
MAX_SHARDS = 65535  # split.count is a UINT16 in llama.cpp's own files
_NAME = re.compile(r"(?P<stem>.*)-(?P<number>\d{5,})-of-(?P<count>\d{5,})\.gguf", re.DOTALL)


def open(path: str | os.PathLike[str], *, shards: bool = True) -> GGUFFile:
    """Open a GGUF file. A shard of a split model opens the whole model, unless ``shards`` is false.

    GGUFError names the field, the byte and the rule that the file breaks; OSError where it cannot be opened,
    UnsupportedError where that is because ``path`` is a URL (`gguflike.open` fetches what one stands for).
    """
    return open_with(GGUFFile, path, shards=shards)


def open_with(
    opener: Callable[[str | os.PathLike[str]], GGUFFile], path: str | os.PathLike[str], *, shards: bool = True
) -> GGUFFile:
    """What `open` does, of files that ``opener`` opens by their paths."""
    file = opener(path)
    try:
        if not shards or _number(file, COUNT_KEY, 1) <= 1:
            return file
        return ShardedFile(file, opener)
    except BaseException:
        file.close()
        raise


class ShardedFile(GGUFFile):
    """All shards of a model behind the interface of one file.

    Metadata, version, byte order, alignment and data offset are those of the first shard (without its ``split.`` keys);
    ``infos`` say in ``shard`` which of ``paths`` a tensor stands in, offsets are absolute in that file;
    ``file_bytes`` is the sum.
    """

    def __init__(self, member: GGUFFile, opener: Callable[[str], GGUFFile] = GGUFFile) -> None:
        opened = [member]
        try:
            self._shards = _siblings(member, opened, opener)
            self._owner = _owners(self._shards)
            _check_total(self._shards, len(self._owner))
        except BaseException:
            for file in opened:
                file.close()
            raise
        first = self._shards[0]
        self.path, self.version, self.byteorder = first.path, first.version, first.byteorder
        self.alignment, self.data_offset, self.header_bytes = first.alignment, first.data_offset, first.header_bytes
        self.file_bytes = sum(file.file_bytes for file in self._shards)
        self.metadata: Metadata = first.metadata.without(PREFIX)
        self.infos: Mapping[str, TensorInfo] = Lazy(self._owner, self._info)
        self.tensors: Mapping[str, QuantizedTensor] = Lazy(self._owner, self._tensor)

    def __del__(self) -> None:
        """Each shard closes itself when nobody has it any more, which may be later."""

    @property
    def shards(self) -> list[GGUFFile]:
        return self._shards

    @property
    def paths(self) -> tuple[str, ...]:
        return tuple(file.path for file in self._shards)

    @property
    def fetched(self) -> int:
        return sum(file.fetched for file in self._shards)

    def close(self) -> None:
        for file in self._shards:
            file.close()

    def read_into(self, name: str, start: int, data: npt.NDArray[np.uint8]) -> None:
        self._shards[self._owner[name]].read_into(name, start, data)

    def _info(self, name: str) -> TensorInfo:
        number = self._owner[name]
        info = self._shards[number].infos[name]
        return TensorInfo(info.name, info.shape, info.format, info.offset, info.nbytes, number)

    def _tensor(self, name: str) -> QuantizedTensor:
        tensor = self._shards[self._owner[name]].tensors[name]
        original = original_shape(self, self._info(name))
        return tensor if original is None else QuantizedTensor(name, tensor.format, tensor.shape, tensor.data, original)


def _number(file: GGUFFile, key: str, default: int | None = None) -> int:
    """A ``split.`` value: a non-negative integer of any width."""
    if key not in file.metadata and default is not None:
        return default
    if key not in file.metadata or file.metadata.type_of(key) not in INTEGERS or file.metadata[key] < 0:
        raise GGUFError(
            "shard is not described properly",
            path=file.path,
            offset=file.metadata.entry(key).start if key in file.metadata else None,
            field=key,
            rule="C-027",
            expected="a non-negative integer",
            got=file.metadata.shown(key) if key in file.metadata else "no such key",
        )
    return int(file.metadata[key])


def _siblings(member: GGUFFile, opened: list[GGUFFile], opener: Callable[[str], GGUFFile]) -> list[GGUFFile]:
    """All shards in order. Their names come from the name of the one that was opened, never from metadata."""
    count = _number(member, COUNT_KEY)
    _check_alone(member)
    filename = os.path.basename(member.path)
    folder = member.path[: len(member.path) - len(filename)]
    match = _NAME.fullmatch(filename)
    if match is None or count > MAX_SHARDS or int(match["count"]) != count:
        raise GGUFError(
            "this is one shard of a model, and its name does not say which",
            path=member.path,
            field=COUNT_KEY,
            rule="C-027",
            expected=f"a name that ends in -<number>-of-{count:05}.gguf, at most {MAX_SHARDS} shards",
            got=filename,
            remedy="give all shards their original names, in one folder",
        )
    own = int(match["number"]) - 1
    files = []
    for number in range(count):
        if number == own:
            file = member
        else:
            file = _open_sibling(f"{folder}{match['stem']}-{number + 1:05}-of-{count:05}.gguf", opener)
            opened.append(file)
        stated = (_number(file, NUMBER_KEY), _number(file, COUNT_KEY))
        if stated != (number, count):
            raise GGUFError(
                "shard does not belong here",
                path=file.path,
                field=NUMBER_KEY,
                rule="C-027",
                expected=f"shard {number} of {count}",
                got=f"shard {stated[0]} of {stated[1]}",
                remedy="get the shard again; do not rename shards",
            )
        files.append(file)
    return files


def _check_alone(member: GGUFFile) -> None:
    """GGUFError for a shard behind which others stand in the same file."""
    place = places.next_file(member)
    if place is not None:
        raise GGUFError(
            "several shards are joined with cat, which makes no model of them",
            path=member.path,
            offset=place,
            rule="C-027",
            expected="one GGUF file",
            got="another one behind it",
            remedy="get the shards by themselves; `gguflike merge` makes one file of them",
        )


def _open_sibling(path: str, opener: Callable[[str], GGUFFile]) -> GGUFFile:
    try:
        return opener(path)
    except OSError as error:
        raise GGUFError(
            "a shard of the model is missing",
            path=path,
            rule="C-027",
            got=error.strerror,
            remedy="put all shards in one folder",
        ) from error


def _owners(files: list[GGUFFile]) -> dict[str, int]:
    """Which shard each tensor stands in, in file order."""
    owner: dict[str, int] = {}
    for number, file in enumerate(files):
        for name in file.infos:
            if name in owner:
                raise GGUFError(
                    "tensor stands in two shards",
                    path=file.path,
                    tensor=name,
                    rule="C-027",
                    got=f"also in {files[owner[name]].path}",
                )
            owner[name] = number
    return owner


def _check_total(files: list[GGUFFile], found: int) -> None:
    for file in files:
        stated = _number(file, TENSORS_KEY, found)
        if stated != found:
            raise GGUFError(
                "shards do not add up",
                path=file.path,
                field=TENSORS_KEY,
                rule="C-027",
                expected=f"{counted(stated, 'tensor')} in all shards",
                got=found,
                remedy="get all shards of the same model again",
            )
