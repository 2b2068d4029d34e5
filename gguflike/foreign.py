"""What a file is that was taken for another, told by its first bytes: a pointer, an error page, another format."""

from __future__ import annotations

from typing import NamedTuple

SAMPLE = 512  # bytes from the start that tell

_AGAIN = "download the file itself"
_UNPACK = "unpack it first"
_FROM_ORIGINAL = "convert the model again from its original checkpoint"


class Foreign(NamedTuple):
    """What a file is, and what to do."""

    what: str
    remedy: str


_LFS = Foreign("a git-lfs pointer", "fetch it with `git lfs pull`, or download it again")
_XET = Foreign("a git-xet pointer", "download the file again")
_PAGE = Foreign("a web page (HTML or XML), perhaps an error or login page", _AGAIN)
_ANSWER = Foreign("an error message of a server, in text or JSON", _AGAIN)
_PICKLE = Foreign("a pickle (a PyTorch checkpoint)", "convert the checkpoint")
_TAR = Foreign("a tar archive", _UNPACK)
_SAFETENSORS = Foreign("a safetensors file", "convert its folder with `gguflike convert`")
_SWAPPED = Foreign("a file whose magic is byte-swapped", "make it again: the magic reads GGUF in both byte orders")
_GGUF = Foreign("a GGUF file", "`gguflike quantize` writes it in another type")
_EMPTY = Foreign("file is empty", "get the file again")
_ZEROS = Foreign("file begins with zeros: it was never written to the end", "get or make the file again")

# First bytes, behind white space and a byte order mark, and what begins so.
_STARTS = (
    (b"version https://git-lfs", _LFS),
    (b"# xet version", _XET),
    (b"<", _PAGE),
    *((text, _ANSWER) for text in (b"Entry not found", b"Repository not found", b"Invalid username", b"HTTP/1.")),
    *((text, _ANSWER) for text in (b"Access to model", b"Not Found", b'{"error"', b"Unauthorized", b"Forbidden")),
    (b"PK\x03\x04", Foreign("a zip archive (or a PyTorch checkpoint)", "unpack it, or convert the checkpoint")),
    *((b"\x80" + bytes([protocol]), _PICKLE) for protocol in range(2, 6)),
    (b"\x1f\x8b", Foreign("a gzip archive", _UNPACK)),
    (b"\x28\xb5\x2f\xfd", Foreign("a Zstandard archive", _UNPACK)),
    (b"\xfd7zXZ\0", Foreign("an xz archive", _UNPACK)),
    (b"7z\xbc\xaf\x27\x1c", Foreign("a 7z archive", _UNPACK)),
    (b"BZh", Foreign("a bzip2 archive", _UNPACK)),
    (b"Rar!", Foreign("a RAR archive", _UNPACK)),
    (b"lmgg", Foreign("a GGML file from before GGUF", _FROM_ORIGINAL)),
    (b"tjgg", Foreign("a GGJT file from before GGUF", _FROM_ORIGINAL)),
    (b"fmgg", Foreign("a GGMF file from before GGUF", _FROM_ORIGINAL)),
    (b"algg", Foreign("a LoRA adapter from before GGUF", _FROM_ORIGINAL)),
    (b"GGUF", _GGUF),
    (b"FUGG", _SWAPPED),
    (b"\x89HDF", Foreign("an HDF5 file (Keras)", "get the checkpoint in safetensors")),
    (b"\x93NUMPY", Foreign("a NumPy array", "get the checkpoint in safetensors")),
    (b"PAR1", Foreign("a Parquet file", "write its texts as lines of JSON")),
    (b"%PDF", Foreign("a PDF document", _AGAIN)),
    (b"\x7fELF", Foreign("a program", _AGAIN)),
    (b"{", Foreign("a JSON document", "download the file itself, or convert the checkpoint it belongs to")),
)


def describe(start: bytes, wanted: str) -> Foreign | None:
    """What is wrong with a file that begins with ``start`` (SAMPLE bytes of it, or all) and is not of the format
    ``wanted``, in a clause; None where that does not tell."""
    if not start:
        return _EMPTY
    if not start.strip(b"\0"):
        return _ZEROS
    found = _kind(start)
    if found is None or found.what == f"a {wanted} file":
        return None
    return found._replace(what=f"this is {found.what}, not {wanted}")


def is_pointer(start: bytes) -> bool:
    """Whether a file holds, in place of its content, where a tool of git would get it."""
    return _kind(start) in (_LFS, _XET)


def _kind(start: bytes) -> Foreign | None:
    if start[257:262] == b"ustar":
        return _TAR
    if len(start) > 8 and start[8:9] == b"{" and int.from_bytes(start[:8], "little") < 1 << 32:
        return _SAFETENSORS
    text = start.removeprefix(b"\xef\xbb\xbf").lstrip()
    return next((found for first, found in _STARTS if text.startswith(first)), None)
