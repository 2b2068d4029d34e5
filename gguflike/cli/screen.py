"""Text of a model on standard output as it comes: what is there stays as it is, and nothing in it steers a terminal."""

from __future__ import annotations

import argparse
import os
import sys
import unicodedata
from contextlib import suppress
from typing import TextIO

from gguflike.cli.output import columns, terminal

DIM, PLAIN = "\x1b[2m", "\x1b[0m"
FENCE = "```"


def aside(text: str) -> None:
    """Write what is thought where standard output takes answers alone: on standard error."""
    with suppress(OSError, ValueError):
        sys.stderr.write(text)
        sys.stderr.flush()


def is_colored(args: argparse.Namespace, stream: TextIO | None) -> bool:
    """Whether what is written to the stream may have colours: as --color says, else on a terminal that has them, unless
    NO_COLOR is set (https://no-color.org)."""
    color = getattr(args, "color", None)
    if color in ("always", "never"):
        return bool(color == "always")
    return (
        stream is not None and stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    )


class Screen:
    """Writes text piece by piece, broken at words where standard output is a terminal.

    A word is held back until it is whole, since what is written cannot be taken back. Lines between fences of three
    backquotes are code, which is left as it is.
    """

    def __init__(self, args: argparse.Namespace) -> None:
        self._is_terminal = sys.stdout.isatty()
        self._wraps = self._is_terminal and args.wrap is not False
        self._colors = is_colored(args, sys.stdout)
        self._column = 0
        self._word = ""
        self._goes_on = False  # the word that is held back with what was written last
        self._line = ""  # its beginning, as far as a fence is long
        self._is_code = False
        self._is_dim = False
        self._ends_line = True
        self.is_empty = True

    def write(self, text: str, dim: bool = False) -> None:
        """Show more text. ``dim``: not what the model says, but what it thinks before."""
        if not text:
            return
        if dim and not self._is_terminal:
            aside(text)
            return
        if dim != self._is_dim:
            self._switch(dim)
        self.is_empty = False
        self._ends_line = text.endswith("\n")
        text = terminal(text)
        if not self._wraps:
            self._put(text)
        else:
            for character in text:
                self._take(character)
        sys.stdout.flush()

    def _switch(self, dim: bool) -> None:
        """Begin what is thought, or what is said, on a line of its own."""
        self._flush()
        if not (self.is_empty or self._ends_line):
            self._put("\n")
        if self._colors:
            self._put(DIM if dim else PLAIN + "\n")
        else:
            self._put(f"[{'thinking' if dim else 'answer'}]\n")
        self._is_dim, self._column, self._line, self._goes_on = dim, 0, "", False

    def end(self) -> None:
        """No more comes: show what is held back, and end the line."""
        self._flush()
        if self._is_dim and self._colors:
            self._put(PLAIN)
        self._is_dim = False
        if not (self.is_empty or self._ends_line):
            self._put("\n")
        sys.stdout.flush()

    def _take(self, character: str) -> None:
        if character == "\n":
            self._flush()
            self._put("\n")
            self._is_code ^= self._line.lstrip().startswith(FENCE)
            self._column, self._line, self._goes_on = 0, "", False
            return
        if len(self._line.lstrip()) < len(FENCE):
            self._line += character
        if self._is_code or self._line.lstrip()[:3] == FENCE:
            self._flush()
            self._put(character)
        elif character in " \t":
            self._flush()
            self._goes_on = False
            self._space(character)
        else:
            self._word += character
            if width(character) > 1:  # a script without spaces
                self._flush()
                self._goes_on = False
            elif width(self._word) >= columns():  # no word at all, which the terminal breaks
                self._flush()

    def _space(self, character: str) -> None:
        wide = 8 - self._column % 8 if character == "\t" else 1
        if self._column + wide >= columns():
            self._put("\n")
            self._column = 0
        else:
            self._put(character)
            self._column += wide

    def _flush(self) -> None:
        """Write the word that is held back, on the next line if this one has no room for it."""
        wide, line = width(self._word), columns()
        if self._column and self._column + wide > line and not self._goes_on:
            self._put("\n")
            self._column = 0
        self._put(self._word)
        self._column += wide
        if self._column > line:
            self._column = (self._column - 1) % line + 1
        self._goes_on = self._goes_on or bool(self._word)
        self._word = ""

    def _put(self, text: str) -> None:
        sys.stdout.write(text)


def width(text: str) -> int:
    """How many columns a text takes: two for wide characters of East Asia and pictures, none for what combines."""
    if text.isascii():
        return len(text)
    return sum(_width(character) for character in text)


def _width(character: str) -> int:
    if unicodedata.east_asian_width(character) in "WF":
        return 2
    return 0 if unicodedata.category(character) in ("Mn", "Me", "Cf") else 1
