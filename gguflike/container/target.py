"""The file that is being written: a hidden temporary one beside the target, moved there only when it is complete."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np

from gguflike.container import system
from gguflike.container.publish import make_temporary, output_errors, refuse_address, sweep, take_over
from gguflike.errors import OutputError

StrPath = str | os.PathLike[str]

OCCUPIED = "choose another name, or replace it by `overwrite=True`"
_NOT_DIRECT = (errno.EINVAL, errno.EOPNOTSUPP)  # it wants larger blocks, or takes none after all
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)  # FAT, and some over networks


def check_target(target: StrPath, sources: Iterable[StrPath]) -> None:
    """OutputError when ``target`` names a folder, standard output or what lies elsewhere, or is one of the files read
    from, by name or through a link."""
    _refuse_names(target)
    real = os.path.realpath(target)
    there = os.path.exists(target)  # noqa: PTH110 - false where its folder cannot be read
    for source in sources:
        same = os.path.realpath(source) == real
        with suppress(OSError):
            same = same or (there and Path(source).samefile(target))
        if same:
            raise OutputError(
                "the target is also a source",
                path=target,
                got=os.fspath(source),
                remedy="write to another name and rename it afterwards",
            )


def _refuse_names(target: StrPath) -> None:
    text = os.fsdecode(target)
    if text == "-":
        remedy = "name a file; one that is called so is ./-"
        raise OutputError("files are not written to standard output", path=text, remedy=remedy)
    refuse_address(text)
    if os.path.basename(text) in ("", ".", "..") or os.path.isdir(text):  # noqa: PTH112, PTH119 - a Path drops the slash
        raise OutputError(
            "the target is a folder", path=text or "''", remedy="name a file, such as model.gguf in that folder"
        )


def check_free(target: StrPath, overwrite: bool) -> None:
    """OutputError when there is something at ``target`` that is no file, or a file that may not be overwritten."""
    try:
        mode = os.lstat(os.path.realpath(target)).st_mode
    except OSError:
        return
    if not stat.S_ISREG(mode):
        raise OutputError("the target is not a regular file", path=target, remedy="choose another name")
    if not overwrite:
        raise OutputError("the target exists", path=target, remedy=OCCUPIED)


class Target:
    """The temporary file. ``create`` makes it or goes on with one; then ``sync`` and ``publish`` make it the target, or
    ``discard`` removes it, or ``keep`` leaves it to the next writer."""

    def __init__(self, path: StrPath, overwrite: bool) -> None:
        self.path = os.path.realpath(path)  # through a link, to the file itself
        self.overwrite = overwrite
        self.folder = Path(self.path).parent
        self.temporary = ""
        self.descriptor = -1
        self.published = False
        self.cached = 0  # bytes that were written by way of the system's cache
        self._direct = -1

    def take_over(self, fits: Callable[[int], bool] | None) -> int:
        """Go on with a dead writer's file that ``fits(descriptor)`` if there is one, and remove the others. The number
        of bytes that it takes on the disk already."""
        check_free(self.path, self.overwrite)
        with output_errors(self.path):
            taken = take_over(self.path, fits) if fits is not None else None
            if taken is not None:
                self.temporary, self.descriptor = taken
            sweep(self.path)
            return system.allocated_bytes(self.descriptor) if taken is not None else 0

    def create(self, size: int) -> None:
        """Make a file of ``size`` zero bytes, unless one was taken over."""
        with output_errors(self.path):
            if self.descriptor < 0:
                self.temporary, self.descriptor = make_temporary(self.path, _make)
                os.ftruncate(self.descriptor, size)  # unwritten bytes read as zero: padding costs nothing

    def write_directly(self) -> None:
        """From now on, write what can be past the system's cache of files, where it lets us.

        A copy into the cache takes as much processor time as all else that is done with a large file, and what waits
        there to be written has to be waited for at the end.
        """
        self._direct = system.open_direct(self.temporary)

    def write(self, view: memoryview, offset: int) -> None:
        """Write at ``offset``. What goes past the cache are the whole blocks, where memory is aligned as they are."""
        first = -offset % system.DIRECT_BLOCK
        whole = (len(view) - first) // system.DIRECT_BLOCK * system.DIRECT_BLOCK
        blocks = view[first : first + whole] if whole > 0 and self._direct >= 0 else memoryview(b"")
        if len(blocks) and np.frombuffer(blocks, np.uint8).ctypes.data % system.DIRECT_BLOCK == 0:
            try:
                system.write_at(self._direct, blocks, offset + first)
            except OSError as error:
                if error.errno not in _NOT_DIRECT:
                    raise
                self._close_direct()
            else:
                self._write_cached(view[first + whole :], offset + first + whole)
                view = view[:first]
        self._write_cached(view, offset)

    def _write_cached(self, view: memoryview, offset: int) -> None:
        system.write_at(self.descriptor, view, offset)
        self.cached += len(view)

    def sync(self) -> None:
        """Make the contents durable."""
        with output_errors(self.path):
            system.sync(self.descriptor)

    def publish(self) -> None:
        """Make it visible under the target's name at once."""
        with output_errors(self.path):
            if system.OPEN_IS_LOCKED:
                self._close()
            if self.overwrite:
                os.replace(self.temporary, self.path)  # noqa: PTH105
                self.temporary = ""
            else:
                self._link()
            self.published = True

    def withdraw(self) -> None:
        """Remove an old file that has the target's name, if that is allowed at all."""
        if self.overwrite:
            with output_errors(self.path):
                Path(self.path).unlink(missing_ok=True)

    def retract(self) -> None:
        """Take the target back, if it is new: what was there before is as it was."""
        if self.published and not self.overwrite:
            with suppress(OSError):
                Path(self.path).unlink()

    def sync_folder(self) -> None:
        """Make the name durable."""
        self.discard()  # the other name, if it has one
        with output_errors(self.path):
            system.sync_folder(self.folder)

    def discard(self) -> None:
        """Remove the temporary file, if it has not become the target."""
        if system.OPEN_IS_LOCKED:
            self._close()
        if self.temporary:
            with suppress(OSError):
                Path(self.temporary).unlink()
            self.temporary = ""
        self._close()

    def keep(self) -> None:
        """Leave the temporary file where it is, for the next writer. OSError where the file system has no locks, by
        which that tells a dead writer's file."""
        system.lock(self.descriptor)
        self.temporary = ""
        self._close()

    def _close_direct(self) -> None:
        descriptor, self._direct = self._direct, -1
        if descriptor >= 0:
            system.close(descriptor)

    def _close(self) -> None:
        self._close_direct()
        descriptor, self.descriptor = self.descriptor, -1
        if descriptor >= 0:
            system.close(descriptor)

    def _link(self) -> None:
        """Give the file the target's name only if that is free. `discard` takes the other name away."""
        try:
            os.link(self.temporary, self.path)
        except FileExistsError as error:
            raise OutputError("the target exists", path=self.path, remedy=OCCUPIED) from error
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            check_free(self.path, overwrite=False)  # as near as such a file system comes
            os.replace(self.temporary, self.path)  # noqa: PTH105
            self.temporary = ""


@contextmanager
def whole_file(path: StrPath, size: int, overwrite: bool, *, durable: bool = True) -> Iterator[Target]:
    """A file of so many bytes, which the block writes: behind it, it is there, complete; where it raises, not at all.

    OutputError as of `check_target` and `check_free`, and where the system refuses, in the block as well. ``durable``:
    the file is still there should the machine fail.
    """
    check_target(path, ())
    target = Target(path, overwrite)
    target.take_over(None)
    try:
        target.create(size)
        with output_errors(target.path):
            yield target
        if durable:
            target.sync()
        target.publish()
        if durable:
            target.sync_folder()
    finally:
        target.discard()


def write_bytes(path: StrPath, parts: Iterable[bytes], overwrite: bool, *, durable: bool = True) -> int:
    """Write a file of ``parts``, one behind the other, as of `whole_file`; returns its bytes."""
    data = [memoryview(part) for part in parts]
    size = sum(map(len, data))
    with whole_file(path, size, overwrite, durable=durable) as target:
        at = 0
        for part in data:
            target.write(part, at)
            at += len(part)
    return size


def _make(path: str) -> int:
    return system.open_file(path, os.O_RDWR | os.O_CREAT | os.O_EXCL)
