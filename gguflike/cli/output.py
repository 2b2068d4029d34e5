"""What the commands share: JSON, tables, sizes, progress, and names from files made safe to print."""

from __future__ import annotations

import json
import sys
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from gguflike.errors import in_flags
from gguflike.progress import COMPILING, FETCHING

if TYPE_CHECKING:
    import argparse

    from gguflike.progress import Progress

KERNELS_BAR = "{desc}{n} of {total} |{bar}| {elapsed}"


def print_json(document: Any) -> None:
    """One JSON document on stdout."""
    print(json.dumps(document, indent=2, ensure_ascii=not _utf8(), allow_nan=False))


def _utf8() -> bool:
    return (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"


def clean(text: str, limit: int = 0) -> str:
    """Text from a file for a terminal: control characters escaped, and cut at ``limit`` characters if given."""
    if limit and len(text) > limit:
        text = text[: limit - 1] + "…"
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode() for c in text)


def show(args: argparse.Namespace, text: str) -> None:
    """Print lines of the library for a terminal, arguments that they name as the command's flags."""
    flags = flags_of(args)
    print("\n".join(clean(in_flags(line, flags)) for line in text.splitlines()), flush=True)


def flags_of(args: argparse.Namespace) -> dict[str, str]:
    """How the command spells the arguments that the library knows by name: {"overwrite": "--overwrite", ...}."""
    flags = {}
    for action in args.parser._actions:  # argparse has no other way to ask
        long = [text for text in action.option_strings if text.startswith("--")]
        flags[action.dest] = long[0] if long else str(action.metavar or action.dest)
    return flags


def terminal(text: str) -> str:
    """What a model writes, for stdout: where that is a terminal, control characters but line ends and tabs escaped."""
    if not sys.stdout.isatty():
        return text
    return "".join(c if c in "\n\t" or unicodedata.category(c) != "Cc" else clean(c) for c in text)


def size(count: float) -> str:
    """Bytes for people: 98.9 MB."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def table(rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> str:
    """Columns in line; those numbered in ``right`` are set flush right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [c.rjust(w) if i in right else c.ljust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


@contextmanager
def progress_bar() -> Iterator[Progress]:
    """A callback for the library that draws a bar on stderr; where that is no terminal, it only tells of what may take
    long without a word: compiling, and files that are fetched."""
    if sys.stderr is None or not sys.stderr.isatty():
        yield _announcement()
        return
    from tqdm import tqdm

    with tqdm(unit="B", unit_scale=True, leave=False, file=sys.stderr, dynamic_ncols=True) as bar:
        compiling: bool | None = None

        def show(done: int, total: int, what: str) -> None:
            nonlocal compiling
            bar.set_description(clean(what, 40), refresh=False)
            if compiling != (what == COMPILING) or done < bar.n:
                compiling = what == COMPILING
                bar.bar_format = KERNELS_BAR if compiling else None
                bar.reset(total)
            bar.total = total
            bar.update(done - bar.n)
            if compiling:
                bar.refresh()  # kernels take seconds

        yield show


def _announcement() -> Progress:
    """Progress for a log file or a pipe: one line if kernels are compiled, and one for each file that is fetched."""
    said: set[str] = set()

    def announce(_: int, total: int, what: str) -> None:
        if what in said or sys.stderr is None:
            return
        if what.startswith(FETCHING):
            print(f"{clean(what)}, {size(total)}", file=sys.stderr, flush=True)
            said.add(what)
        if what == COMPILING:
            from gguflike.kernels.engine.host import cache_dir, keeps_kernels

            kept = f"kept for next time in {cache_dir()}" if keeps_kernels() else "not kept: no folder takes them"
            print(f"compiling {total} {'kernel' if total == 1 else 'kernels'}, {kept}", file=sys.stderr, flush=True)
            said.add(what)

    return announce
