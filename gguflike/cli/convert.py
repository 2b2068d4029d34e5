"""gguflike convert SRC -o OUT -t TYPE"""

from __future__ import annotations

import argparse

from gguflike.cli.recipes import add_recipe_arguments, check, plan_and_run


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="SRC", help="folder with config.json and safetensors, or a Hub id (org/name)")
    parser.add_argument("-o", "--out", metavar="OUT", help="GGUF file to write (not needed with --dry-run)")
    parser.add_argument("--revision", metavar="REV", help="revision of a Hub id")
    parser.add_argument("--name", help="general.name to write")
    parser.add_argument(
        "--ignore-config",
        action="append",
        default=[],
        metavar="KEY",
        help="accept a config.json key that is not handled",
    )
    add_recipe_arguments(parser, "Q4_K_M")


def run(args: argparse.Namespace) -> int:
    from gguflike.cli import UsageError
    from gguflike.convert import convert

    if args.out is None and not args.dry_run:
        raise UsageError("-o OUT is required without --dry-run")
    check(args)
    return plan_and_run(args, convert, name=args.name, revision=args.revision, ignore_config=args.ignore_config)
