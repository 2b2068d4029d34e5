"""gguflike browse FILE"""

from __future__ import annotations

import argparse
import os
import sys

from gguflike.cli.arguments import MODEL
from gguflike.cli.usage import UsageError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", help=MODEL)


def run(args: argparse.Namespace) -> int:
    from gguflike.locate import open_header

    if not (sys.stdin and sys.stdout and sys.stdin.isatty() and sys.stdout.isatty()):
        raise UsageError("browse needs a terminal; inspect prints, and inspect --html writes a page")
    try:
        from gguflike.cli.browser import Browser
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("textual", "rich"):  # which comes with it
            raise
        raise UsageError("browse needs the package textual: pip install 'gguflike[browse]'") from None
    with open_header(args.file) as file:
        Browser(file, os.fspath(args.file)).run()
    return 0
