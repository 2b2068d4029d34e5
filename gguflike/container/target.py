"""The file that is being written: a hidden temporary one beside the target, moved there only when it is complete."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from gguflike.container import system
from gguflike.container.publish import check_space, make_temporary, output_errors, sweep
from gguflike.errors import OutputError

StrPath = str | os.PathLike[str]


def check_target(target: StrPath, sources: Iterable[StrPath]) -> None:
    """OutputError when ``target`` names a folder, or is one of the files read from, by name or through a link."""
    _refuse_folder(target)
    for source in sources:
        same = os.path.realpath(source) == os.path.realpath(target)
        with suppress(OSError):
            same = same or Path(source).samefile(target)
        if same:
            raise OutputError(
                "the target is also a source",
                path=target,
                got=os.fspath(source),
                remedy="write to another name and rename it afterwards",
            )


def _refuse_folder(target: StrPath) -> None:
    text = os.fsdecode(target)
    if os.path.basename(text) in ("", ".", "..") or os.path.isdir(text):  # noqa: PTH112, PTH119 - a Path drops the slash
        raise OutputError(
            "the target is a folder", path=text or "''", remedy="name a file, such as model.gguf in that folder"
        )


class Target:
    """The temporary file. ``create`` makes it, then exactly one of ``commit`` or ``discard`` ends it."""

    def __init__(self, path: StrPath, overwrite: bool) -> None:
        self.path = os.path.realpath(path)  # through a link, to the file itself
        self.overwrite = overwrite
        self.folder = Path(self.path).parent
        self.temporary = ""
        self.descriptor = -1

    def create(self, size: int) -> None:
        """Remove dead writers' files, check the space, make a file of ``size`` zero bytes."""
        self._check_target()
        with output_errors(self.path):
            sweep(self.path)
            check_space(self.path, size)
            self.temporary, self.descriptor = make_temporary(self.path, _make)
            os.ftruncate(self.descriptor, size)  # unwritten bytes read as zero: padding costs nothing

    def commit(self) -> None:
        """Make it durable, then visible under the target's name at once, then make the name durable."""
        with output_errors(self.path):
            system.sync(self.descriptor)
            if system.OPEN_IS_LOCKED:
                self._close()
            if self.overwrite:
                os.replace(self.temporary, self.path)  # noqa: PTH105
            else:
                self._link()
            self._close()
            system.sync_folder(self.folder)

    def discard(self) -> None:
        """Remove the temporary file, if it has not become the target."""
        if system.OPEN_IS_LOCKED:
            self._close()
        if self.temporary:
            with suppress(OSError):
                Path(self.temporary).unlink()
        self._close()

    def _close(self) -> None:
        descriptor, self.descriptor = self.descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def _check_target(self) -> None:
        try:
            mode = os.lstat(self.path).st_mode
        except OSError:
            return
        if not stat.S_ISREG(mode):
            raise OutputError("the target is not a regular file", path=self.path, remedy="choose another name")
        if not self.overwrite:
            raise OutputError("the target exists", path=self.path, remedy="choose another name, or allow overwriting")

    def _link(self) -> None:
        """Give the file the target's name only if that is free."""
        try:
            os.link(self.temporary, self.path)
        except FileExistsError as error:
            raise OutputError("the target exists", path=self.path, remedy="choose another name") from error
        Path(self.temporary).unlink()


def _make(path: str) -> int:
    return system.open_file(path, os.O_RDWR | os.O_CREAT | os.O_EXCL)
