"""Files that are named in a conversation. Nothing here prints."""

from __future__ import annotations

import os
import stat

from gguflike.cli.output import clean

MOST_READ = 64 << 20  # bytes: more than any context takes


class FileError(Exception):
    """A file cannot be read or written, and why."""


def read(path: str) -> bytes:
    """All of a file. `FileError` where it is longer than `MOST_READ`, or is none: what a pipe or a device has to say
    may come never, or have no end."""
    try:
        # Without waiting for who might write to a pipe.
        descriptor = os.open(
            os.path.expanduser(path),  # noqa: PTH111
            os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0) | getattr(os, "O_BINARY", 0),
        )
        try:
            mode = os.fstat(descriptor).st_mode
            if not stat.S_ISREG(mode):
                raise FileError(f"{clean(path)} is {'a folder' if stat.S_ISDIR(mode) else 'no regular file'}")
            data = bytearray()
            while piece := os.read(descriptor, MOST_READ + 1 - len(data)):
                data += piece
        finally:
            os.close(descriptor)
    except (OSError, ValueError) as error:  # a name with a byte that is 0
        raise FileError(f"{clean(path)}: {getattr(error, 'strerror', None) or error}") from None
    if len(data) > MOST_READ:
        raise FileError(f"{clean(path)} is longer than {MOST_READ >> 20} MiB")
    return bytes(data)


def check_replaceable(path: str, overwrite: bool) -> None:
    """`FileError` where there is something that is no file, or a file that is not to be replaced."""
    try:
        mode = os.lstat(os.path.expanduser(path)).st_mode  # noqa: PTH111
    except OSError:
        return
    if not (stat.S_ISREG(mode) or stat.S_ISLNK(mode)):
        raise FileError(f"{clean(path)} is no regular file; choose another name")
    if not overwrite:
        raise FileError(f"{clean(path)} is there already; /save --overwrite {clean(path)} replaces it")
