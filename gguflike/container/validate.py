"""What can be said of a whole file by its header and its size: every rule once, without reading data.

Nobody can use a file that breaks one of REFUSED, so opening it raises the first of them. The others say what is odd
although readers take it, and what loads but will surprise who runs it. Rules about a single record are the parser's
(header.py), those about bytes of data `gguflike.verify`'s. Rules are those of spec/container.md and spec/metadata.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from gguflike.container import consistency, places
from gguflike.container.findings import Finding
from gguflike.container.view import HeaderView

Check = Callable[[HeaderView], Iterator[Finding]]

REFUSED: tuple[Check, ...] = (
    consistency.architecture,  # C-016  the architecture is a text
    places.placed,  # C-024, C-025, C-026  each tensor has bytes of its own, aligned, in the file
)
REPORTED: tuple[Check, ...] = (
    consistency.digested,  # M-001  digests are whole
    consistency.strings,  # C-104  strings are UTF-8
    consistency.byte_order,  # C-108  numbers are little-endian
    places.short_names,  # C-017  names are as short as ggml needs them
    places.ordered,  # C-106  data is in the order of the records
    places.gaps,  # C-101, C-103, C-105  nothing stands between or behind tensors, and the last is padded
    consistency.layers,  # M-010  there are as many layers as stated
    consistency.vocabulary,  # M-011  scores, types, rows and ids fit the tokens
)


def refuse(file: HeaderView) -> None:
    """Raise the first error that makes a file unusable. GGUFError."""
    for finding in refused(file):
        raise finding.error()


def refused(file: HeaderView) -> Iterator[Finding]:
    """What makes a file unusable, in the order of the rules above."""
    for check in REFUSED:
        yield from check(file)


def validate(file: HeaderView) -> Iterator[Finding]:
    """All findings about a file, in the order of the rules above."""
    for check in (*REFUSED, *REPORTED):
        yield from check(file)
