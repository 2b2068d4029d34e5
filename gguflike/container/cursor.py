"""A place in a header: reads forward, and fails with the field and the byte it stands at."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any, NoReturn

from gguflike.container.layout import MAX_HEADER_BYTES
from gguflike.errors import GGUFError

CUT = "the file is truncated or damaged; get it again"


class Cursor:
    """Reads forward through a buffer and fails with the place and the field it stands at."""

    def __init__(self, buffer: Any, path: str, file_bytes: int | None = None) -> None:
        self.buffer = buffer
        self.path = path
        self.file_bytes = len(buffer) if file_bytes is None else file_bytes
        self.end = min(len(buffer), MAX_HEADER_BYTES)
        self.position = 0
        self.at: tuple[object, ...] = ("header",)  # what is being read: put into words only where that fails
        self.set_order("<")

    def set_order(self, order: str) -> None:
        """Read numbers in byte order "<" or ">" from here on."""
        self.unpack_u32, self.unpack_u64 = (
            struct.Struct(order + "I").unpack_from,
            struct.Struct(order + "Q").unpack_from,
        )

    @property
    def record(self) -> str:
        """What is being read: "header", "tensor[7]", "metadata[7] 'general.name'"."""
        kind, *more = self.at
        number = f"[{more[0]}]" if more else ""
        return f"{kind}{number} {more[1]!r}" if more[1:] else f"{kind}{number}"

    def error(self, what: str, rule: str, part: str, *, offset: int | None = None, **details: Any) -> GGUFError:
        """The error at ``part`` of the record being read."""
        place = self.position if offset is None else offset
        return GGUFError(what, path=self.path, offset=place, field=f"{self.record}.{part}", rule=rule, **details)

    def fail(self, what: str, rule: str, part: str, *, offset: int | None = None, **details: Any) -> NoReturn:
        """Raise ``error(...)``."""
        raise self.error(what, rule, part, offset=offset, **details)

    def relocate(self, error: GGUFError, part: str, offset: int, tensor: str | None = None) -> NoReturn:
        """Raise a check's error with the place it was made without."""
        raise GGUFError(
            error.what,
            path=self.path,
            offset=offset,
            tensor=tensor,
            field=f"{self.record}.{part}",
            rule=error.rule,
            expected=error.expected,
            got=error.got,
            remedy=error.remedy,
        ) from None

    def need(self, count: int, part: str) -> None:
        """Fail unless ``count`` more bytes are there."""
        if count > self.end - self.position:
            self.overrun(count, part, self.position)

    def overrun(self, count: int, part: str, offset: int) -> NoReturn:
        """Fail because the header ends, or passes the limit on its size, before ``count`` more bytes."""
        if count <= self.file_bytes - offset:
            self._too_large(part, offset)
        self.fail(
            "file ends inside the header",
            "C-005",
            part,
            offset=offset,
            expected=f"{count} more bytes",
            got=f"{self.end - offset}",
            remedy=CUT,
        )

    def read_u32(self, part: str) -> int:
        """The next UINT32."""
        at = self.position
        if self.end - at < 4:
            self.need(4, part)
        value: int = self.unpack_u32(self.buffer, at)[0]
        self.position = at + 4
        return value

    def read_u64(self, part: str) -> int:
        """The next UINT64."""
        at = self.position
        if self.end - at < 8:
            self.need(8, part)
        value: int = self.unpack_u64(self.buffer, at)[0]
        self.position = at + 8
        return value

    def read_text(self, part: str, check: Callable[[bytes], str]) -> str:
        """A string as ``check`` gives it of its bytes, or with its place the error that ``check`` raises."""
        at = self.position
        start, end = self.read_span(part)
        try:
            return check(bytes(self.buffer[start:end]))
        except GGUFError as error:
            self.relocate(error, part, at)

    def read_span(self, part: str) -> tuple[int, int]:
        """Where a string's bytes begin and end, its length checked but nothing copied."""
        start, left = self.position, self.end - self.position - 8
        if left < 0:
            self.need(8, part)
        (length,) = self.unpack_u64(self.buffer, start)
        if length > left:
            if length <= self.file_bytes - start - 8:
                self._too_large(part, start)
            self.fail(
                "string is longer than what is left of the header",
                "C-007",
                part,
                offset=start,
                expected=f"at most {left} bytes",
                got=length,
            )
        self.position = start + 8 + length
        return start + 8, self.position

    def count(self, value: int, least: int, rule: str, part: str, offset: int) -> int:
        """A declared count, refused when so many records of at least ``least`` bytes cannot follow."""
        if value * least > self.end - self.position:
            if value * least <= self.file_bytes - self.position:
                self._too_large(part, offset)
            self.fail(
                "count is larger than the file can hold",
                rule,
                part,
                offset=offset,
                expected=f"at most {(self.end - self.position) // least}",
                got=value,
                remedy=CUT,
            )
        return value

    def _too_large(self, part: str, offset: int) -> NoReturn:
        limit = f"at most {MAX_HEADER_BYTES} bytes"
        self.fail("header is larger than any model needs", "C-006", part, offset=offset, expected=limit)
