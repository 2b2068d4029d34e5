"""The plan of a file: its header and the place of every tensor, from names, shapes and types alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from gguflike.container import digest
from gguflike.container.layout import (
    ALIGNMENT_KEY,
    ARCHITECTURE_KEY,
    DEFAULT_ALIGNMENT,
    HEADER_BYTES,
    MAGIC,
    MAX_ALIGNMENT,
    MAX_DIMS,
    MAX_HEADER_BYTES,
    MAX_NAME_BYTES,
    PADDING_KEY,
    READABLE_NAME_BYTES,
    VERSION,
    TensorInfo,
    TensorSpec,
    align_up,
    check_alignment,
    check_key,
    check_name,
    tensor_bytes,
)
from gguflike.container.metadata import Metadata
from gguflike.container.values import Typed, ValueType, encode_string, encode_value, typed
from gguflike.errors import GGUFError, counted


@dataclass(frozen=True)
class FilePlan:
    """A file that could be written: ``header`` as bytes (digests blank), ``tensors`` with absolute offsets.

    ``header_bytes`` is where the data section begins, ``file_bytes`` the size of the whole file, final padding
    included. ``str(plan)`` is a table for people.
    """

    tensors: tuple[TensorInfo, ...]
    alignment: int
    file_bytes: int
    header: bytes = field(repr=False)
    digests: digest.Slots | None = field(repr=False)

    @property
    def header_bytes(self) -> int:
        """Where the data section begins."""
        return len(self.header)

    def __str__(self) -> str:
        width = max((len(info.name) for info in self.tensors), default=0)
        lines = [f"{self.file_bytes:,} bytes: header {self.header_bytes:,}, {counted(len(self.tensors), 'tensor')}"]
        for info in self.tensors:
            shape = " x ".join(map(str, info.shape)) or "scalar"
            name = info.name.ljust(width)
            lines.append(f"{info.offset:>15,}  {name}  {info.format.name:<8} {shape}  {info.nbytes:,} bytes")
        return "\n".join(lines)


def plan(
    metadata: Mapping[str, Any],
    tensors: Sequence[TensorSpec],
    *,
    alignment: int | None = None,
    digests: bool = True,
    long_names: bool = False,
    signature: bool = False,
    fill: Callable[[int], int | None] | None = None,
) -> FilePlan:
    """Lay out a file: header, then the tensors in the order given, each aligned, without holes.

    ``metadata`` holds plain values, ``Typed`` ones, or is another file's ``Metadata`` (stored types are then kept).
    ``alignment`` is by default what ``general.alignment`` in ``metadata`` says, else 32. With ``digests`` two values
    under ``gguflike.digest.`` are reserved; any that ``metadata`` holds belong to another file and are left out, and so
    is a signature, unless ``signature`` says that it is this file's.
    ``long_names``: names of tensors may have 127 bytes, not 63, and llama.cpp then refuses the file. ``fill`` says by
    the bytes of the header, its end not yet aligned, how many zeros `gguflike.padding` adds to it; None: no key.
    GGUFError with the rule that the file would break.
    """
    values = _values(metadata, alignment, signature)
    align = int(values[ALIGNMENT_KEY].value) if ALIGNMENT_KEY in values else DEFAULT_ALIGNMENT
    if digests:
        values |= digest.blank_values(len(tensors))
    sizes = _check_tensors(tensors, READABLE_NAME_BYTES if long_names else MAX_NAME_BYTES)

    head = bytearray(HEADER_BYTES)
    value_at = {}
    for key, value in values.items():
        head += encode_string(key, "key")
        value_at[key] = len(head)
        head += encode_value(value, key)

    records = bytearray()
    data_bytes = 0  # so far, always aligned
    starts = []
    for spec, size in zip(tensors, sizes, strict=True):
        starts.append(data_bytes)
        records += encode_string(spec.name, "name") + len(spec.shape).to_bytes(4, "little")
        records += b"".join(dim.to_bytes(8, "little") for dim in reversed(spec.shape))
        records += spec.format.id.to_bytes(4, "little") + data_bytes.to_bytes(8, "little")
        data_bytes = align_up(data_bytes + size, align)
    zeros = None if fill is None else fill(len(head) + len(records))
    if zeros is not None:
        head += padding(zeros)
    count = len(values) + (zeros is not None)
    head[:16] = MAGIC + VERSION.to_bytes(4, "little") + len(tensors).to_bytes(8, "little")
    head[16:HEADER_BYTES] = count.to_bytes(8, "little")
    head += records
    data_offset = align_up(len(head), align)
    if data_offset > MAX_HEADER_BYTES:
        limit = f"at most {MAX_HEADER_BYTES} bytes"
        raise GGUFError("header would be too large", rule="C-006", expected=limit, got=len(head))
    return FilePlan(
        tuple(
            TensorInfo(spec.name, tuple(spec.shape), spec.format, data_offset + start, size)
            for spec, start, size in zip(tensors, starts, sizes, strict=True)
        ),
        align,
        data_offset + data_bytes,
        bytes(head).ljust(data_offset, b"\0"),
        _slots(value_at, len(tensors)) if digests else None,
    )


def padding(zeros: int) -> bytes:
    """The record of the value that fills a header up."""
    value = Typed(np.zeros(zeros, np.uint8), ValueType.ARRAY, ValueType.UINT8)
    return encode_string(PADDING_KEY, "key") + encode_value(value, PADDING_KEY)


def with_values(file: FilePlan, before: Mapping[str, Any], after: Mapping[str, Any]) -> FilePlan:
    """The plan with other values: those of the keys in ``after``, which take as many bytes as they did ``before``."""
    header = file.header
    for key, value in after.items():
        name = encode_string(key, "key")
        old, new = (name + encode_value(typed(each), key) for each in (before[key], value))
        assert len(old) == len(new)
        header = header.replace(old, new, 1)
    return replace(file, header=header)


def _slots(value_at: dict[str, int], count: int) -> digest.Slots:
    first = value_at[digest.TENSORS_KEY] + 4 + 4 + 8  # type, item type, count
    stride = 8 + digest.WIDTH
    return digest.Slots(
        tuple(first + i * stride + 8 for i in range(count)),
        value_at[digest.HEADER_KEY] + 4 + 8,  # type, length
    )


def _values(metadata: Mapping[str, Any], alignment: int | None, signature: bool) -> dict[str, Typed]:
    """All values with their types, checked, without another file's digests and with the alignment asked for."""
    values: dict[str, Typed] = {}
    for key in metadata:
        if key.startswith(digest.PREFIX) or (key.startswith(digest.SIGNATURE_PREFIX) and not signature):
            continue
        if key == PADDING_KEY:  # of another header
            continue
        check_key(_utf8(key, "key", "C-009"))
        try:
            values[key] = metadata.typed(key) if isinstance(metadata, Metadata) else typed(metadata[key])
        except GGUFError as error:
            raise GGUFError(error.what, rule=error.rule, field=key, expected=error.expected, got=error.got,
                            remedy=error.remedy) from error  # fmt: skip
    if alignment is not None and (alignment != DEFAULT_ALIGNMENT or ALIGNMENT_KEY in values):
        values[ALIGNMENT_KEY] = Typed(alignment, ValueType.UINT32)
    stored = values.get(ALIGNMENT_KEY)
    if stored and not (stored.type is ValueType.UINT32 and check_alignment(stored.value)):
        raise GGUFError(
            "alignment is not usable",
            rule="C-015",
            field=ALIGNMENT_KEY,
            expected=f"a UINT32 that is a power of two, at most {MAX_ALIGNMENT}",
            got=stored.value,
        )
    architecture = values.get(ARCHITECTURE_KEY)
    if architecture and architecture.type is not ValueType.STRING:
        raise GGUFError("architecture is not a string", rule="C-016", field=ARCHITECTURE_KEY, got=architecture.value)
    return values


def _check_tensors(tensors: Sequence[TensorSpec], longest: int) -> list[int]:
    """Bytes of each tensor; GGUFError naming the first that breaks a rule. ``longest``: bytes of a name."""
    sizes = []
    seen: set[str] = set()
    for spec in tensors:
        try:
            check_name(_utf8(spec.name, "tensor name", "C-018"), longest)
            if spec.name in seen:
                raise GGUFError("duplicate tensor name", rule="C-019", got=repr(spec.name))
            if len(spec.shape) > MAX_DIMS:
                raise GGUFError("too many dimensions", rule="C-020", expected=f"0 to {MAX_DIMS}", got=spec.shape)
            if min(spec.shape, default=0) < 0:
                raise GGUFError("dimension is negative", rule="C-021", got=spec.shape)
            sizes.append(tensor_bytes(tuple(reversed(spec.shape)), spec.format))
        except GGUFError as error:
            raise GGUFError(error.what, tensor=spec.name, rule=error.rule, expected=error.expected, got=error.got,
                            remedy=error.remedy) from error  # fmt: skip
        seen.add(spec.name)
    return sizes


def _utf8(text: str, what: str, rule: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise GGUFError(f"{what} cannot be stored as UTF-8", rule=rule, got=repr(text)) from error
