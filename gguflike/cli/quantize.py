"""gguflike quantize IN.gguf OUT.gguf -t TYPE"""

from __future__ import annotations

import argparse

from gguflike.cli.recipes import add_recipe_arguments, check, plan_and_run


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="IN", help="GGUF file")
    parser.add_argument("out", metavar="OUT", nargs="?", help="GGUF file to write (not needed with --dry-run)")
    add_recipe_arguments(parser, None)


def run(args: argparse.Namespace) -> int:
    from gguflike.cli import UsageError
    from gguflike.convert import quantize_file

    if args.out is None and not args.dry_run:
        raise UsageError("OUT is required without --dry-run")
    check(args)
    return plan_and_run(args, quantize_file)
