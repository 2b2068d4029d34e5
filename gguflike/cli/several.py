"""Commands that take several files: each is looked at, whatever is wrong with another."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import Any

from gguflike.cli.output import clean, flags_of, print_json
from gguflike.cli.streams import say
from gguflike.errors import ArgumentError, GGUFLikeError


def for_each(args: argparse.Namespace, look: Callable[[str], int]) -> int:
    """Look at each of ``args.files``; the worst status. Of a single one, errors are raised; of several, they are said,
    and the others looked at."""
    if len(args.files) == 1:
        return look(args.files[0])
    worst = 0
    for name in args.files:
        try:
            worst = max(worst, look(name))
        except ArgumentError:
            raise
        except (GGUFLikeError, OSError) as error:
            if args.debug:
                raise
            if isinstance(error, GGUFLikeError):
                text = error.for_command(flags_of(args))
            else:
                text = f"{error.filename or name}: {error.strerror or error}"
            say(f"gguflike {args.command}: {clean(' '.join(text.split()))}")
            worst = max(worst, 1)
    return worst


def print_documents(files: Sequence[str], documents: Sequence[Any]) -> None:
    """What is known of the files as JSON: of a single one a document, of several a list of those there are."""
    print_json(documents[0] if len(files) == 1 else documents)
