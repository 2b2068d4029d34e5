"""Small files of a checkpoint, read whole: what stands in their place is named where it is not the file itself."""

from __future__ import annotations

from pathlib import Path

from gguflike import foreign
from gguflike.checkpoint import elsewhere
from gguflike.errors import CheckpointError

LIMIT = 1 << 29  # bytes; the largest vocabularies fill a tenth of it


def read(path: Path) -> bytes:
    """All bytes of a file. CheckpointError where it cannot be read, is no file or too large for one that is read whole,
    or is a git-lfs pointer."""
    check(path)
    try:
        size = path.stat().st_size
        if size > LIMIT:
            raise CheckpointError("too large", path=path, expected=f"at most {LIMIT:,} bytes", got=f"{size:,}")
        data = path.read_bytes()
    except OSError as error:
        raise unreadable(path, error) from None
    pointer = not_the_file(path, data, "the file itself") if foreign.is_pointer(data[: foreign.SAMPLE]) else None
    if pointer is not None:
        raise pointer
    return data


def read_text(path: Path) -> str:
    """The text of a file in UTF-8, its lines ended by line feeds alone. CheckpointError as `read` says, and where it is
    not UTF-8."""
    try:
        text = read(path).decode("utf-8")
    except UnicodeDecodeError as error:
        raise CheckpointError("not UTF-8", path=path, offset=error.start, remedy="save it as UTF-8") from None
    return text.replace("\r\n", "\n").replace("\r", "\n")


def check(path: Path) -> None:
    """CheckpointError for what stands in the place of a file and is none: reading a pipe would wait for ever."""
    if path.exists() and not path.is_file():
        got = "a folder" if path.is_dir() else "a special file"
        raise CheckpointError("not a file", path=path, expected="a regular file", got=got)


def present(path: Path) -> bool:
    """Whether there is something of that name, on disk or elsewhere. CheckpointError for a link that points nowhere."""
    if path.exists() or elsewhere.name_of(path) is not None:
        return True
    if path.is_symlink():
        raise unreadable(path, FileNotFoundError())
    return False


def inside(folder: Path) -> list[Path]:
    """What a folder holds, on disk or elsewhere, in the order of names."""
    return sorted({*folder.iterdir(), *elsewhere.inside(folder)})


def unreadable(path: Path, error: OSError) -> CheckpointError:
    """The error for a file that the system does not let read."""
    if path.is_symlink() and not path.exists():
        return CheckpointError(
            "the link points nowhere",
            path=path,
            got=str(path.readlink()),
            remedy="what it stood for was moved or deleted; download the checkpoint again",
        )
    return CheckpointError(f"cannot be read: {error.strerror}", path=path)


def not_the_file(path: Path, start: bytes, wanted: str) -> CheckpointError | None:
    """The error for a file that begins with ``start`` and is not what is ``wanted``; None where that does not tell."""
    found = foreign.describe(start[: foreign.SAMPLE], wanted)
    return CheckpointError(found.what, path=path, remedy=found.remedy) if found else None
