"""gguflike convert SRC -o OUT -t TYPE"""

from __future__ import annotations

import argparse

from gguflike.cli.output import clean, print_json, progress_bar
from gguflike.cli.recipes import add_recipe_arguments, check, plan_document


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
    options = {
        "type": args.type,
        "tensor_types": args.tensor_type,
        "imatrix": args.imatrix,
        "name": args.name,
        "revision": args.revision,
        "ignore_config": args.ignore_config,
    }
    if not args.json:
        plan = convert(args.source, args.out, dry_run=True, **options)
        print("\n".join(map(clean, str(plan).splitlines())), flush=True)
    if args.json or not args.dry_run:
        with progress_bar() as progress:
            plan = convert(
                args.source,
                args.out,
                progress=progress,
                dry_run=args.dry_run,
                threads=args.threads,
                overwrite=not args.no_overwrite,
                **options,
            )
    if args.json:
        print_json(plan_document(plan, args.dry_run))
    elif not args.dry_run:
        print(f"wrote {clean(args.out)}")
    return 0
