"""What the header of a file says, without a byte of its data: a file is judged by it, and opened with it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, TypeVar

from gguflike.blocks import BlockFormat, format_by_id
from gguflike.container.header import N_DIMS, NBYTES, OFFSET, TYPE, Header
from gguflike.container.layout import ARCHITECTURE_KEY, TensorInfo
from gguflike.container.metadata import Metadata
from gguflike.errors import counted

T = TypeVar("T")


class Lazy(Mapping[str, T]):
    """Names in file order; each value is made when it is asked for."""

    def __init__(self, names: Mapping[str, Any], make: Callable[[str], T]) -> None:
        self._names = names
        self._make = make

    def __getitem__(self, name: str) -> T:
        if name not in self._names:
            raise KeyError(name)
        return self._make(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __repr__(self) -> str:
        return counted(len(self), "tensor")


class HeaderView:
    """A file by its parsed ``header`` and its size in bytes. `GGUFFile`, which is one, says what the attributes are."""

    def __init__(self, path: str, header: Header, file_bytes: int) -> None:
        self.path = path
        self.header = header
        self.file_bytes = file_bytes
        self.version = header.version
        self.byteorder: Literal["little", "big"] = "little" if header.order == "<" else "big"
        self.alignment = header.alignment
        self.data_offset = header.data_offset
        self.header_bytes = header.end
        self.metadata: Metadata = header.metadata
        self.infos: Mapping[str, TensorInfo] = Lazy(header.names, self._info)

    def fill(self, view: memoryview, offset: int) -> int:  # noqa: ARG002 - there are none
        """Read the file's own bytes from ``offset`` on into ``view``. Returns how many: none of a header alone."""
        return 0

    @property
    def architecture(self) -> str | None:
        """``general.architecture``, such as "llama"."""
        return self.metadata.get(ARCHITECTURE_KEY)

    @property
    def kind(self) -> str:
        """``general.type``, such as "adapter"; "model" where the file says none, or no text."""
        stated = self.metadata.get("general.type")
        return stated if isinstance(stated, str) else "model"

    def _info(self, name: str) -> TensorInfo:
        header = self.header
        row = header.table[header.names[name]].tolist()
        fmt = _format(row[TYPE])
        shape = tuple(reversed(row[: row[N_DIMS]]))
        return TensorInfo(name, shape, fmt, header.data_offset + row[OFFSET], row[NBYTES])


def _format(type_id: int) -> BlockFormat:
    fmt = format_by_id(type_id)
    assert fmt is not None  # the parser refuses ids that are not in the table
    return fmt
