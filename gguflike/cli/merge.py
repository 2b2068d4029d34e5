"""gguflike merge SHARD OUT"""

from __future__ import annotations

import argparse

from gguflike.cli.paths import add_path_arguments, take_out
from gguflike.cli.progress import progress_bar
from gguflike.cli.split import add_copy_arguments, report


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_path_arguments(parser, "SHARD", "any file of a model in several", "OUT", "GGUF file to write")
    parser.usage = "gguflike merge SHARD OUT [options]"
    add_copy_arguments(parser)


def run(args: argparse.Namespace) -> int:
    from gguflike.convert import merge

    take_out(args, "OUT is required: the GGUF file to write")
    with progress_bar() as progress:
        plan = merge(
            args.source,
            args.out,
            progress=progress,
            dry_run=args.dry_run,
            overwrite=args.overwrite,
            resume=not args.no_resume,
        )
    report(args, plan)
    return 0
