"""What the commands share: JSON, tables, sizes, and names from files made safe to print."""

from __future__ import annotations

import os
import sys
import unicodedata
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TextIO

from gguflike.errors import in_flags

if TYPE_CHECKING:
    import argparse


MOST_TEXT = 20_000  # characters of a value that a terminal is given
LONGEST_NAME = 120  # characters of a name from a file that are shown
SHORTEST_NAME = 24  # characters of it for which a row may be wider than the terminal


def print_json(document: Any) -> None:
    """One JSON document on stdout, in which what would steer a terminal or cannot be seen is escaped."""
    import json  # few commands print it
    import re

    def seen(found: re.Match[str]) -> str:
        text = found[0]
        return text if text.isprintable() else "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in text)

    text = json.dumps(document, indent=2, ensure_ascii=not _utf8(), allow_nan=False)
    print(re.sub(r"[^\n -~]+", seen, text))


def _utf8() -> bool:
    return (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"


def clean(text: str, limit: int = 0) -> str:
    """Text from a file for a terminal: control characters escaped, and cut at ``limit`` characters if given."""
    if limit and len(text) > limit:
        text = text[: limit - 1] + "…"
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode() for c in text)


def named(text: str) -> str:
    """A name from a file for a terminal, which is as long as whoever wrote the file liked."""
    return clean(text, LONGEST_NAME)


def show(args: argparse.Namespace, text: str) -> None:
    """Print lines of the library for a terminal, arguments that they name as the command's flags."""
    flags = flags_of(args)
    tell("\n".join(clean(in_flags(line, flags)) for line in text.splitlines()))


def flags_of(args: argparse.Namespace) -> dict[str, str]:
    """How the command spells the arguments that the library knows by name: {"overwrite": "--overwrite", ...}, or where
    their values are from. Of several flags that stand for values of one argument, it is the one that was given."""
    flags: dict[str, str] = {}
    for action in args.parser._actions:  # argparse has no other way to ask
        long = [text for text in action.option_strings if text.startswith("--")]
        if action.dest in flags and isinstance(action.const, str) and getattr(args, action.dest) != action.const:
            continue
        flags[action.dest] = long[0] if long else str(action.metavar or action.dest)
    return flags | getattr(args, "sources", {})


def terminal(text: str) -> str:
    """What a model writes, for stdout: where that is a terminal, control characters but line ends and tabs escaped."""
    if not sys.stdout.isatty():
        return text
    return "".join(c if c in "\n\t" or unicodedata.category(c) != "Cc" else clean(c) for c in text)


def columns(stream: TextIO | None = None) -> int:
    """Columns of the terminal that ``stream`` writes to (default: standard output), or what the environment says that
    they are; 80 where there is none."""
    said = os.environ.get("COLUMNS", "")
    if said.isdecimal() and int(said):
        return int(said)
    try:
        return os.get_terminal_size((stream or sys.__stdout__ or sys.stdout).fileno()).columns or 80
    except (OSError, ValueError, AttributeError):  # no terminal, or no file
        return 80


def broken(text: str, stream: TextIO | None = None) -> str:
    """Lines for ``stream`` (default: standard error), broken at words where that is a terminal. Rows of tables stay as
    they are, and so do lines in colours, and long words: who copies a path needs it in one piece."""
    stream = stream or sys.stderr
    if stream is None or not stream.isatty():
        return text
    wide = columns(stream)

    def fill(line: str) -> str:
        if len(line) <= wide or line.startswith("  ") or "\x1b" in line:
            return line
        import textwrap

        return textwrap.fill(line, wide, break_on_hyphens=False, break_long_words=False)

    return "\n".join(map(fill, text.split("\n")))


def tell(text: str) -> None:
    """Lines on standard output, broken at words where that is a terminal, and at once."""
    print(broken(text, sys.stdout), flush=True)


def table(rows: Sequence[Sequence[str]], right: Sequence[int] = (), cut: int | None = None) -> str:
    """Columns in line; those numbered in ``right`` are set flush right. On a terminal, the column ``cut`` is so narrow
    that a row fits, if it can be: names of others have any length."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    if cut is not None and sys.stdout.isatty():
        over = sum(widths) + 2 * (len(widths) - 1) - columns()
        widths[cut] = min(widths[cut], max(widths[cut] - over, SHORTEST_NAME))
    lines = []
    for row in rows:
        shown = [c if len(c) <= w else c[: w - 1] + "…" for c, w in zip(row, widths, strict=True)]
        cells = [c.rjust(w) if i in right else c.ljust(w) for i, (c, w) in enumerate(zip(shown, widths, strict=True))]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)
