"""Content digests: where they stand in a file and what they cover. The promise is stated in spec/metadata.md.

Two metadata values of fixed width, so that the header's size is known before the data: ``gguflike.digest.tensors``
holds one SHA-256 per tensor, in the order of the tensors, and ``gguflike.digest.header`` the SHA-256 of everything
before the data section, taken with its own 64 characters set to "0". Hexadecimal, so ``sha256sum`` can check them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from gguflike.container.metadata import Metadata
from gguflike.container.values import Typed, ValueType
from gguflike.errors import DigestError, GGUFError, counted
from gguflike.frozen import frozen

PREFIX = "gguflike.digest."
SIGNATURE_PREFIX = "gguflike.signature."  # what signs the header's digest (gguflike.verify.signature)
TENSORS_KEY = PREFIX + "tensors"
HEADER_KEY = PREFIX + "header"
WIDTH = 64
BLANK = "0" * WIDTH


@frozen
class Slots:
    """Where in the header the digests' characters stand: those of the tensors, and the header's own."""

    tensors: tuple[int, ...]
    header: int


def blank_values(tensor_count: int) -> dict[str, Typed]:
    """The metadata that reserves the digests."""
    return {
        TENSORS_KEY: Typed([BLANK] * tensor_count, ValueType.ARRAY, ValueType.STRING),
        HEADER_KEY: Typed(BLANK, ValueType.STRING),
    }


def patch(header: bytes, slots: Slots, tensors: list[str]) -> bytes:
    """The header with the tensors' digests and its own filled in."""
    patched = bytearray(header)
    for place, text in zip(slots.tensors, tensors, strict=True):
        patched[place : place + WIDTH] = text.encode()
    own = header_digest([bytes(patched)], slots.header).encode()
    patched[slots.header : slots.header + WIDTH] = own
    return bytes(patched)


def header_digest(pieces: Iterable[bytes | memoryview], place: int) -> str:
    """SHA-256 of the bytes before the data section, with the WIDTH characters at ``place`` set to "0".

    ``pieces`` are those bytes in order, cut anywhere.
    """
    import hashlib  # who only asks what digests a file states need not load OpenSSL

    digest = hashlib.sha256()
    start = 0
    for piece in pieces:
        first, last = max(place - start, 0), min(place + WIDTH - start, len(piece))
        if first < last:
            patched = bytearray(piece)
            patched[first:last] = BLANK[: last - first].encode()
            piece = bytes(patched)
        digest.update(piece)
        start += len(piece)
    return digest.hexdigest()


def check_tensor(name: str, found: str, stated: str) -> None:
    """DigestError where a tensor has not the SHA-256 that is stated for it."""
    if found != stated:
        raise DigestError(
            "the data are not those that were written",
            tensor=name,
            rule="M-004",
            expected=f"SHA-256 {stated}",
            got=found,
            remedy="the source is damaged: get it again",
        )


@frozen
class Recorded:
    """The digests a file states: of its header, where that stands, and of each tensor by name."""

    header: str
    header_at: int
    tensors: Mapping[str, str]


def recorded(metadata: Metadata, names: list[str]) -> Recorded | None:
    """The digests in a file's metadata; None where there are none. GGUFError (M-001) where they are malformed."""
    if TENSORS_KEY not in metadata and HEADER_KEY not in metadata:
        return None
    for key in (TENSORS_KEY, HEADER_KEY):
        if key not in metadata:
            raise GGUFError("only a part of the digests is there", rule="M-001", field=key, expected="both keys")
    texts, header = metadata[TENSORS_KEY], metadata[HEADER_KEY]
    if metadata.item_type_of(TENSORS_KEY) is not ValueType.STRING or len(texts) != len(names):
        raise GGUFError(
            "digests do not fit the tensors",
            rule="M-001",
            field=TENSORS_KEY,
            expected=counted(len(names), "string"),
            got=counted(metadata.count_of(TENSORS_KEY), "value"),
        )
    for key, text in [(HEADER_KEY, header), *((TENSORS_KEY, text) for text in texts)]:
        if not isinstance(text, str) or len(text) != WIDTH or text.strip("0123456789abcdef"):
            raise GGUFError(
                "digest is malformed", rule="M-001", field=key, expected=f"{WIDTH} hexadecimal digits", got=repr(text)
            )
    return Recorded(header, metadata.entry(HEADER_KEY).start, dict(zip(names, texts, strict=True)))
