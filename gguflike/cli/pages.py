"""Writing the page of a file: `inspect --html` and `diff --html`."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from gguflike.amounts import size
from gguflike.cli import facts
from gguflike.cli.output import clean
from gguflike.cli.progress import progress_bar
from gguflike.cli.streams import say

if TYPE_CHECKING:
    from gguflike.container import GGUFFile


def check(args: argparse.Namespace, file: GGUFFile, beside: Iterable[str | os.PathLike[str]] = ()) -> None:
    """OutputError where ``args.html`` cannot be written: before anything is read for it. ``beside``: what else is."""
    from gguflike.container.publish import check_folder
    from gguflike.container.target import check_free, check_target

    check_target(args.html, [*file.paths, *beside])
    check_free(args.html, args.overwrite)
    check_folder(args.html)


def write(
    args: argparse.Namespace,
    file: GGUFFile,
    name: str,
    errors: Mapping[str, float] | None = None,
    beside: str | None = None,
    changes: Sequence[tuple[str, str, str]] = (),
) -> None:
    """Write the page of ``file``, which the command line calls ``name``; the rest as of `report.gather`."""
    from gguflike.container.publish import made_folder
    from gguflike.container.target import write_bytes
    from gguflike.report import gather, page

    title = os.path.basename(name)  # noqa: PTH119 - a name may be a URL
    with progress_bar("tensors") as progress:
        gathered = gather(file, title, errors=errors, beside=beside, changes=changes, progress=progress)
    made = page(gathered, facts.of_file(dict(gathered.summary), name)).encode()
    with made_folder(os.path.dirname(args.html) or "."):  # noqa: PTH120 - text
        write_bytes(args.html, [made], args.overwrite)
    say(f"wrote {clean(args.html)}, {size(len(made))}")
