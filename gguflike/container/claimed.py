"""Folders that one process at a time works in: beside a target, for what outlives it where it is cut off, or given.

As with temporary files (publish.py), a lock that lives as long as its process tells a dead one's folder from a living
one's. Where the file system has no locks, nobody is kept out, and nothing is gone on with.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from gguflike.container import system
from gguflike.container.publish import entries, make_temporary, output_errors, refuse_address, remove
from gguflike.errors import OutputError

_KEY = "key"
_TAKEN = (errno.EAGAIN, errno.EACCES, errno.EWOULDBLOCK)


@contextmanager
def kept_folder(
    target: str | os.PathLike[str], key: str, resume: bool, keeps: Callable[[type[BaseException]], bool]
) -> Iterator[Path]:
    """A folder beside ``target`` that no other process has: one that a dead process with the same ``key`` has left,
    where ``resume``, or a new one. Those that dead ones with other keys have left are removed.

    It is removed when the block ends, and left to the next where, with ``resume``, the block raises what it ``keeps``
    the folder for and there is something in it. OutputError where it cannot be made.
    """
    path = os.path.realpath(target)
    with output_errors(path):
        found = _taken_over(path, key) if resume else None
        sweep_folders(path)
        folder, descriptor = found or make_temporary(path, make_folder)
        if found is None:
            (Path(folder) / _KEY).write_text(key, encoding="utf-8")
    keep = False
    try:
        yield Path(folder)
    except BaseException as error:
        keep = resume and keeps(type(error)) and _holds_something(Path(folder)) and _is_lockable(descriptor)
        if keep and isinstance(error, KeyboardInterrupt) and not error.args:
            error.args = ("what is measured so far is kept: the same command goes on from there",)
        raise
    finally:
        if not system.OPEN_IS_LOCKED and not keep:
            shutil.rmtree(folder, ignore_errors=True)  # before others can take it over
        system.close(descriptor)
        if system.OPEN_IS_LOCKED:
            with suppress(OSError):
                system.release_folder(folder)
            if not keep:
                shutil.rmtree(folder, ignore_errors=True)


def _holds_something(folder: Path) -> bool:
    return any(path.name not in (_KEY, system.FOLDER_LOCK) for path in folder.iterdir())


def _is_lockable(descriptor: int) -> bool:
    """Whether the file system has the locks by which the next can tell that nobody has the folder any more."""
    try:
        system.lock(descriptor)
    except OSError:
        return False
    return True


def sweep_folders(target: str) -> None:
    """Remove temporary folders for ``target`` whose process is dead."""
    for path in entries(target):
        if path.is_dir():
            with suppress(OSError):
                descriptor = _locked(path)
                try:
                    remove(path)
                finally:
                    system.close(descriptor)


@contextmanager
def claimed(folder: Path, what: str) -> Iterator[None]:
    """A folder that no other process that asks for it has while the block runs: made with its parents, and what was
    made removed again where the block raises and leaves it empty.

    OutputError where another has it, which is at work, ``what`` says on what, or where it cannot be made.
    """
    refuse_address(folder)
    with output_errors(folder):
        made = [path for path in (folder, *folder.parents) if not path.exists()]
        descriptor = _claim(folder, what)
    try:
        yield
    except BaseException:
        for path in made:
            with suppress(OSError):  # not empty, or gone
                path.rmdir()
        raise
    finally:
        if descriptor >= 0:
            system.close(descriptor)
            if system.OPEN_IS_LOCKED:
                with suppress(OSError):
                    system.release_folder(folder)


def _claim(folder: Path, what: str) -> int:
    """A descriptor that holds the lock; -1 where there are no locks."""
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            descriptor = _locked(folder)
        except FileNotFoundError:
            continue  # removed by who was done with it
        except OSError as error:
            if error.errno not in _TAKEN:
                return -1
            raise OutputError(
                f"another process is at work, {what}",
                path=folder,
                remedy="wait until it is done, or choose another name",
            ) from None
        if _is_still(folder, descriptor):
            return descriptor
        system.close(descriptor)


def emptied(folder: Path) -> None:
    """Remove what is in a folder that is claimed, but not the folder, whose lock would go with it."""
    for path in folder.iterdir():
        if path.name != system.FOLDER_LOCK:
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()


def make_folder(path: str) -> int:
    """Make a folder, and a descriptor of it, as of `system.open_folder`."""
    Path(path).mkdir()
    try:
        return system.open_folder(path)
    except OSError:
        Path(path).rmdir()
        raise


def _taken_over(target: str, key: str) -> tuple[str, int] | None:
    for path in entries(target):
        with suppress(OSError):
            if not path.is_dir() or (path / _KEY).read_text(encoding="utf-8") != key:
                continue
            descriptor = _locked(path)
            if _is_still(path, descriptor):
                return str(path), descriptor
            system.close(descriptor)
    return None


def _locked(path: Path) -> int:
    """A descriptor of a folder that no living process has. OSError where one has it, or there are no locks."""
    if system.OPEN_IS_LOCKED:
        system.release_folder(path)
        return system.open_folder(path)
    return system.locked(system.open_folder(path))


def _is_still(path: Path, descriptor: int) -> bool:
    """Whether a name stands for an open folder: it may have been removed since."""
    if system.OPEN_IS_LOCKED:
        return True
    with suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(descriptor), path.lstat())
    return False
