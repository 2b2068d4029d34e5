"""Signatures of files: who wrote a file, where digests only say that it is the one that was written.

Ed25519 (RFC 8032) over the SHA-256 of the header, which covers the SHA-256 of every tensor (spec/metadata.md). A file
holds the signature and the public key that fits it; whom that key belongs to it cannot say, so a signature is checked
with a key that one has from elsewhere. Keys are PEM files, as `openssl genpkey -algorithm ed25519` makes them. The
arithmetic is that of the package cryptography.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from gguflike import container
from gguflike.container import FilePlan, Typed, ValueType, reheader
from gguflike.container.digest import SIGNATURE_PREFIX, WIDTH, Recorded, header_digest, patch, recorded
from gguflike.container.findings import Finding
from gguflike.container.plan import with_values
from gguflike.container.restate import digests_of, layout, rewrite
from gguflike.errors import ArgumentError, GGUFError, UnsupportedError

if TYPE_CHECKING:
    from gguflike.container import GGUFFile

SIGNATURE_KEY = SIGNATURE_PREFIX + "ed25519"
PUBLIC_KEY = SIGNATURE_PREFIX + "key"
CONTEXT = b"gguflike signature 1\n"  # before the header's digest in what is signed: no other message is like it
BLANK = "0" * 128


class Signed(NamedTuple):
    """What a file says: the signature and the public key in hexadecimal digits, and the byte where the signature's
    stand."""

    signature: str
    key: str
    place: int


def sign(path: str | os.PathLike[str], key: str | os.PathLike[str]) -> str:
    """Sign a file, or all files of a split model, with the private key in the PEM file ``key``; the public key that
    fits it, in hexadecimal digits.

    A file that has a signature gets the new one in its place, with the data as they are. Of any other all data are read
    and compared with the digests, which it gets where it has none; then they are shared with the new file, where the
    file system can and they stand in order, and else copied. Either takes the old one's place when it is complete.
    DigestError where a tensor or the header is not what the file says; ArgumentError for a file that is no such key,
    UnsupportedError where the package cryptography is missing.
    """
    private, public = _private(key)
    with container.open(path) as file:
        for each in file.shards:
            _sign(each, private, public)
    return public


def _sign(file: GGUFFile, private: Any, public: str) -> None:
    stated = recorded(file.metadata, list(file.infos))
    tensors = digests_of(file) if stated is None else stated.tensors
    metadata = {key: file.metadata.typed(key) for key in file.metadata if not key.startswith(SIGNATURE_PREFIX)}
    blank = {PUBLIC_KEY: Typed(public, ValueType.STRING), SIGNATURE_KEY: Typed(BLANK, ValueType.STRING)}
    planned = layout(file, {**metadata, **blank}, signature=True)
    assert planned.digests is not None
    texts = [tensors[info.name] for info in planned.tensors]
    unsigned = patch(planned.header, planned.digests, texts)
    digest = unsigned[planned.digests.header :][:WIDTH].decode()
    signature = private.sign(CONTEXT + digest.encode()).hex()
    planned = with_values(planned, blank, {**blank, SIGNATURE_KEY: Typed(signature, ValueType.STRING)})
    if not _reheadered(file, planned, texts):
        rewrite(file, planned, tensors)


def _reheadered(file: GGUFFile, planned: FilePlan, texts: list[str]) -> bool:
    """Give the file another header alone, where only the signature, its key and the header's digest differ."""
    assert planned.digests is not None
    wanted = patch(planned.header, planned.digests, texts)
    there = bytearray(len(wanted))
    if file.fill(memoryview(there), 0) < len(wanted) or not _alike(there, wanted, planned, file):
        return False
    if there != wanted:
        reheader.write(file, reheader.Header(wanted, file.file_bytes), file.path, overwrite=True)
    return True


def _alike(there: bytearray, wanted: bytes, planned: FilePlan, file: GGUFFile) -> bool:
    """Whether two headers differ in the signature, its key and the header's digest alone."""
    found = signed(file)
    if found is None or planned.digests is None or file.data_offset != len(wanted):
        return False
    places = ((found.place, 128), (file.metadata.entry(PUBLIC_KEY).start, 64), (planned.digests.header, WIDTH))
    left, right = bytearray(there), bytearray(wanted)
    for start, count in places:
        left[start : start + count] = right[start : start + count] = bytes(count)
    return left == right


def signed(file: GGUFFile) -> Signed | None:
    """The signature of a file; None where it has none. GGUFError (M-043) where it is malformed."""
    if SIGNATURE_KEY not in file.metadata and PUBLIC_KEY not in file.metadata:
        return None
    found = []
    for key, count in ((SIGNATURE_KEY, 128), (PUBLIC_KEY, 64)):
        text = file.metadata.get(key)
        if not isinstance(text, str) or len(text) != count or text.strip("0123456789abcdef"):
            expected, got = f"{count} hexadecimal digits", repr(text)[:80]
            raise GGUFError("signature is malformed", field=key, rule="M-043", expected=expected, got=got)
        found.append(text)
    return Signed(found[0], found[1], file.metadata.entry(SIGNATURE_KEY).start)


def check(file: GGUFFile, key: str | os.PathLike[str]) -> Iterator[Finding]:
    """What is wrong about the signature of one file, looked at with the public key in a PEM file. M-041: it is signed.
    M-042: by that key, and the header is the one that was signed. M-043: signature and digests are well-formed.

    The data of tensors are covered by their digests, which are in the header. Errors as of `sign`.
    """
    public = _public(key)
    try:
        found, digests = signed(file), recorded(file.metadata, list(file.infos))
    except GGUFError as error:
        yield Finding("error", "M-043", error.what, file.path, field=error.field, got=str(error.got))
        return
    if found is None:
        yield Finding("error", "M-041", "the file is not signed", file.path, field=SIGNATURE_KEY)
        return
    if digests is None:
        yield Finding("error", "M-043", "signed, and without the digests that are signed", file.path)
        return
    own, message, expected, got = _hex(public), None, None, None
    if found.key != own:
        message, expected, got = "signed with another key", f"public key {own}", found.key
    elif not _fits(public, found, _signed_digest(file, found, digests)):
        message = "the signature does not fit: the header is not the one that was signed"
    if message is not None:
        yield Finding(
            severity="error",
            rule="M-042",
            message=message,
            path=file.path,
            offset=found.place,
            tensor=None,
            field=SIGNATURE_KEY,
            expected=expected,
            got=got,
        )


def _signed_digest(file: GGUFFile, found: Signed, digests: Recorded) -> str:
    """The header's digest with the signature's digits, and its own, taken as "0"."""
    header = bytearray(file.data_offset)
    file.fill(memoryview(header), 0)
    header[found.place : found.place + len(BLANK)] = BLANK.encode()
    return header_digest([memoryview(header)], digests.header_at)


def _fits(public: Any, found: Signed, digest: str) -> bool:
    from cryptography.exceptions import InvalidSignature

    try:
        public.verify(bytes.fromhex(found.signature), CONTEXT + digest.encode())
    except InvalidSignature:
        return False
    return True


def _private(path: str | os.PathLike[str]) -> tuple[Any, str]:
    """The private key in a PEM file, and its public key in hexadecimal digits."""
    _need()
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    key = _loaded(path, lambda data: load_pem_private_key(data, password=None), Ed25519PrivateKey, "private")
    return key, _hex(key.public_key())


def _public(path: str | os.PathLike[str]) -> Any:
    _need()
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    return _loaded(path, load_pem_public_key, Ed25519PublicKey, "public")


def _loaded(path: str | os.PathLike[str], load: Any, kind: type, what: str) -> Any:
    """A key of a ``kind``. ArgumentError for any other file."""
    from cryptography.exceptions import UnsupportedAlgorithm

    with open(path, "rb") as file:  # noqa: PTH123 - text or path
        data = file.read(1 << 16)
    try:
        key = load(data)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:  # TypeError: it has a password
        raise _no_key(path, what, "a key with a password" if isinstance(error, TypeError) else _told(data)) from error
    if not isinstance(key, kind):
        raise _no_key(path, what, type(key).__name__)
    return key


def _told(data: bytes) -> str:
    """What a file is that is no such key, as far as PEM says it of itself."""
    label = re.search(rb"-----BEGIN ([A-Z0-9 ]{1,40})-----", data)
    return f"a PEM of {label[1].decode()}" if label else "no PEM" if data else "an empty file"


def _no_key(path: str | os.PathLike[str], what: str, got: str) -> ArgumentError:
    made = "openssl genpkey -algorithm ed25519 -out private.pem"
    if what == "public":
        made = "openssl pkey -in private.pem -pubout -out public.pem"
    expected = f"an Ed25519 {what} key in PEM, without a password"
    return ArgumentError(
        f"not a {what} key", path=path, field="key", expected=expected, got=got, remedy=f"{made} makes one"
    )


def _hex(public: Any) -> str:
    raw: bytes = public.public_bytes_raw()
    return raw.hex()


def _need() -> None:
    try:
        import cryptography  # noqa: F401
    except ImportError:
        remedy = "pip install 'gguflike[sign]'"
        raise UnsupportedError(
            "signatures need the package cryptography, which is not installed", remedy=remedy
        ) from None
