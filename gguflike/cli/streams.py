"""The standard streams as a command needs them, however the process was started: closed, full, not in UTF-8."""

from __future__ import annotations

import io
import os
import sys
from contextlib import suppress

from gguflike.cli.output import broken
from gguflike.cli.usage import UsageError

WAITING = 2.0  # seconds after which one says that one waits


def prepare() -> None:
    """Make the three streams usable.

    Where one is closed (a service, a cron job, ``>&-``), its descriptor is opened on the null device: else the next
    file that is opened, such as the one being written, would get that number, and with it what is meant for the stream.
    What is written to a closed stream is lost. Bytes of standard input that are not in its encoding, and characters
    that standard output's lacks, do not end in an exception.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # takes the lowest free number, which is this one
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115, PTH123 - as long as the process
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="surrogateescape")  # as for arguments: the tokenizer writes "?" for such a byte
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def need_input(purpose: str) -> None:
    """UsageError where standard input was closed when the process was started."""
    if sys.stdin is None:
        raise UsageError(f"standard input is closed, and {purpose}")


def say(line: str) -> None:
    """One line on standard error, if that can be written; on a terminal, as many as it takes."""
    with suppress(OSError, ValueError):
        print(broken(line), file=sys.stderr)


def check_output() -> None:
    """Drop what standard output did not take (a full disk), of which Python would complain again at exit."""
    try:
        sys.stdout.flush()
    except (OSError, ValueError):
        drop_output()


def drop_output() -> None:
    """Send what is still to be written to standard output nowhere."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def read_file(path: str) -> str:
    """The text of a file that an option names. OSError where it cannot be read, UsageError where it is no UTF-8."""
    with open(path, "rb") as file:  # noqa: PTH123 - a run comes by
        data = file.read()
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: byte {error.start}: this is no UTF-8; save the file as UTF-8") from None


def is_fed() -> bool:
    """Whether standard input is a pipe, a socket or a file: whether somebody means to say something by it."""
    if sys.stdin is None or sys.stdin.isatty():
        return False
    import stat

    try:
        kind = os.fstat(sys.stdin.fileno()).st_mode
    except (OSError, ValueError):  # not a file at all
        return False
    return stat.S_ISFIFO(kind) or stat.S_ISSOCK(kind) or stat.S_ISREG(kind)


def read_all(purpose: str = "it is the prompt; end it by Ctrl-D") -> str:
    """All of standard input but the end of its last line. Where nothing comes for a while, what is waited for is said:
    it may be a pipe that somebody forgot."""
    import threading

    said = threading.Timer(WAITING, say, [f"waiting for the end of standard input: {purpose}"])
    said.daemon = True
    said.start()
    try:
        text = sys.stdin.read()
    finally:
        said.cancel()
    return text.removesuffix("\n").removesuffix("\r")
