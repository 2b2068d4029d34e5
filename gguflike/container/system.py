"""File calls that not every system has, and what does the same where they are missing (Windows, older macOS).

A writer's temporary entries are locked for as long as it lives. With ``fcntl`` that is an advisory lock on the open
entry. Without it (Windows) it is enough that the entry is open: there nobody can remove or rename an open file, not
even its writer, who closes it first.
"""

from __future__ import annotations

import errno
import os
import stat
import struct
import threading
from contextlib import suppress
from typing import Any

try:
    import fcntl
except ImportError:
    fcntl = None  # type: ignore[assignment]

StrPath = str | os.PathLike[str]

#: What begins and ends at multiples of this, in memory and in the file, can be written past the cache of files: it is
#: the largest block that disks have.
DIRECT_BLOCK = 1 << 12
#: What begins at multiples of this in two files can be shared by them, where the file system does that: the blocks of
#: most that do are no larger.
SHARED_BLOCK = 1 << 12
#: Open entries can be neither removed nor renamed: being open is the lock.
OPEN_IS_LOCKED = fcntl is None

#: Files that the system does not copy from or to by itself.
_NO_COPY = (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM, errno.EBADF)

#: FICLONERANGE of Linux, which Python names from 3.13 on; None on other systems, which lack O_TMPFILE as well.
_CLONE_RANGE = getattr(fcntl, "FICLONERANGE", 0x4020940D if hasattr(os, "O_TMPFILE") else None)

FOLDER_LOCK = ".writing"  # the file that is open in a folder where folders cannot be opened themselves
_position = threading.Lock()  # a descriptor has one position, which threads share
_locked: set[int] = set()  # descriptors that forked processes must not keep


def open_file(path: StrPath, flags: int, *more: str) -> int:
    """A descriptor, as ``os.open`` gives it: of bytes, not text. ``more`` names flags that some systems lack. OSError
    also for what is no name on any system."""
    for name in ("O_BINARY", *more):
        flags |= getattr(os, name, 0)
    try:
        return os.open(path, flags, 0o666)
    except ValueError as error:  # a null byte, or half of a surrogate pair
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), path) from error


def open_direct(path: StrPath) -> int:
    """A second descriptor of a file, whose writes go past the system's cache; -1 where the system or the file system
    has no such thing."""
    try:
        return open_file(path, os.O_WRONLY | os.O_DIRECT, "O_NOFOLLOW") if hasattr(os, "O_DIRECT") else -1
    except OSError:
        return -1


def open_folder(path: StrPath) -> int:
    """A descriptor that can be locked and synced for a folder of ours; ``release_folder`` before it is renamed."""
    if hasattr(os, "O_DIRECTORY"):
        return os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    return open_file(os.path.join(path, FOLDER_LOCK), os.O_RDWR | os.O_CREAT | os.O_EXCL)  # noqa: PTH118


def release_folder(path: StrPath) -> None:
    """Remove what ``open_folder`` has made in the folder. OSError while its writer has it open."""
    with suppress(FileNotFoundError):
        os.unlink(os.path.join(path, FOLDER_LOCK))  # noqa: PTH108, PTH118


def lock(descriptor: int) -> None:
    """Lock an open entry for as long as it is open. OSError where another process has locked it."""
    if fcntl is not None:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _locked.add(descriptor)


def locked(descriptor: int) -> int:
    """An entry that was just opened, locked. OSError where another process has locked it: then it is closed."""
    try:
        lock(descriptor)
    except OSError:
        close(descriptor)
        raise
    return descriptor


def close(descriptor: int) -> None:
    """Close an entry that may have been locked."""
    _locked.discard(descriptor)
    os.close(descriptor)


def _close_in_child() -> None:
    """Locks live as long as any process has the entry open, and workers can outlive the writer that forked them."""
    for descriptor in _locked:
        with suppress(OSError):
            os.close(descriptor)
    _locked.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_in_child)


def read_at(descriptor: int, view: memoryview, offset: int) -> int:
    """Read into ``view`` from ``offset`` on; how many bytes, 0 at the end of the file. May be less than asked for."""
    if hasattr(os, "preadv"):
        return os.preadv(descriptor, [view], offset)
    with _position:
        os.lseek(descriptor, offset, os.SEEK_SET)
        data = os.read(descriptor, len(view))
    view[: len(data)] = data
    return len(data)


def read_bytes(descriptor: int, count: int, offset: int) -> bytes:
    """Up to ``count`` bytes from ``offset`` on, fewer where the file ends before."""
    data = os.pread(descriptor, count, offset) if hasattr(os, "pread") else b""
    if len(data) < count:  # the system takes two gigabytes at a time, and may be interrupted
        more = bytearray(count - len(data))
        data += bytes(memoryview(more)[: fill(descriptor, memoryview(more), offset + len(data))])
    return data


def fill(descriptor: int, view: memoryview, offset: int) -> int:
    """Read into all of ``view`` from ``offset`` on; how many bytes, which are fewer where the file ends before."""
    done = 0
    while done < len(view) and (count := read_at(descriptor, view[done:], offset + done)):
        done += count
    return done


def write_at(descriptor: int, data: Any, offset: int) -> None:
    """Write all of ``data`` at ``offset``; the system may take it in pieces."""
    view = memoryview(data)
    while len(view):
        if hasattr(os, "pwrite"):
            count = os.pwrite(descriptor, view, offset)
        else:
            with _position:
                os.lseek(descriptor, offset, os.SEEK_SET)
                count = os.write(descriptor, view)
        view, offset = view[count:], offset + count


def share(source: int, target: int, count: int, offset: int, to: int) -> bool:
    """Let the blocks of ``count`` bytes from ``offset`` in one file stand at ``to`` in another, too, until either is
    written to: nothing is copied. Whether the system and the file system do that.

    Both places are multiples of SHARED_BLOCK, and so is ``count``, unless the source ends there.
    """
    if _CLONE_RANGE is None:
        return False
    try:
        fcntl.ioctl(target, _CLONE_RANGE, struct.pack("=qQQQ", source, offset, count, to))
    except OSError:  # of any kind: who copies instead hears of what is wrong with the disk
        return False
    return True


def can_share(source: int, folder: StrPath) -> bool:
    """Whether a file in the folder could share blocks with an open one that has some, which is tried on a file that
    has no name."""
    try:
        target = os.open(folder, os.O_RDWR | os.O_TMPFILE, 0o600) if hasattr(os, "O_TMPFILE") else -1
    except OSError:
        return False
    if target < 0:
        return False
    try:
        return share(source, target, SHARED_BLOCK, 0, 0)
    finally:
        os.close(target)


def copy(source: int, target: int, count: int, offset: int, to: int) -> int:
    """Copy ``count`` bytes from ``offset`` in one file to ``to`` in another, where the system can, by itself; how many,
    which are fewer where the source ends."""
    done = 0
    while done < count and hasattr(os, "copy_file_range"):
        try:
            part = os.copy_file_range(source, target, min(count - done, 1 << 30), offset + done, to + done)
        except OSError as error:
            if error.errno not in _NO_COPY:
                raise
            break
        if not part:
            return done
        done += part
    buffer = memoryview(bytearray(min(count - done, 1 << 24)))
    while done < count and (part := read_at(source, buffer[: count - done], offset + done)):
        write_at(target, buffer[:part], to + done)
        done += part
    return done


def copy_mode(source: StrPath, target: int) -> None:
    """Let an open file be for whom another is, where the system and the file system know such things."""
    if hasattr(os, "fchmod"):
        with suppress(OSError):
            os.fchmod(target, stat.S_IMODE(os.stat(source).st_mode))  # noqa: PTH116 - text


def sync(descriptor: int) -> None:
    """Wait until what was written is on the disk itself; macOS needs to be told that the disk's cache counts, too."""
    full = getattr(fcntl, "F_FULLFSYNC", None)
    if full is not None:
        with suppress(OSError):  # a file system that does not know it
            fcntl.fcntl(descriptor, full)
            return
    os.fsync(descriptor)


def flush(descriptor: int) -> None:
    """Wait until what was written so far is on its way to the disk, where the system has a call for that alone."""
    if hasattr(os, "fdatasync"):
        os.fdatasync(descriptor)


def sync_folder(folder: StrPath) -> None:
    """Make the names in a folder durable, where folders can be opened for that; Windows does it by itself."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    descriptor = open_folder(folder)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def allocated_bytes(descriptor: int) -> int:
    """Bytes that an open file takes on the disk; 0 where the system does not say. Those never written take none."""
    return 512 * int(getattr(os.fstat(descriptor), "st_blocks", 0))


def free_bytes(folder: StrPath) -> int:
    """Bytes that the user may still write to the file system of a folder."""
    import shutil  # every start of a model would wait for it

    return shutil.disk_usage(folder).free
