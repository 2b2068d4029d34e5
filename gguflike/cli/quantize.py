"""gguflike quantize IN.gguf OUT.gguf -t TYPE"""

from __future__ import annotations

import argparse

from gguflike.cli.output import clean, print_json, progress_bar
from gguflike.cli.recipes import add_recipe_arguments, check, plan_document


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
    options = {"tensor_types": args.tensor_type, "imatrix": args.imatrix}
    if not args.json:
        plan = quantize_file(args.source, args.out, args.type, dry_run=True, **options)
        print("\n".join(map(clean, str(plan).splitlines())), flush=True)
    if args.json or not args.dry_run:
        with progress_bar() as progress:
            plan = quantize_file(
                args.source,
                args.out,
                args.type,
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
