"""gguflike split IN OUT_PREFIX"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from gguflike.cli.output import clean, print_json, show
from gguflike.cli.paths import add_path_arguments, take_out
from gguflike.cli.progress import progress_bar
from gguflike.cli.recipes import add_split_arguments, plan_document

if TYPE_CHECKING:
    from gguflike.convert import ConversionPlan


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_path_arguments(parser, "IN", "GGUF file", "OUT_PREFIX", "how the names of the files to write begin")
    parser.usage = "gguflike split IN OUT_PREFIX [options]"
    add_split_arguments(parser)
    add_copy_arguments(parser)


def add_copy_arguments(parser: argparse.ArgumentParser) -> None:
    """What split and merge share."""
    parser.add_argument("--no-resume", action="store_true", help="begin anew where an earlier run was cut off")
    parser.add_argument("--dry-run", action="store_true", help="print the plan, write nothing")
    parser.add_argument("--json", action="store_true", help="the plan as one JSON document")


def run(args: argparse.Namespace) -> int:
    from gguflike.convert import split

    take_out(args, "OUT_PREFIX is required: OUT_PREFIX-00001-of-00002.gguf and so on are written")
    with progress_bar() as progress:
        plan = split(
            args.source,
            args.out,
            split_max_size=args.split_max_size,
            split_max_tensors=args.split_max_tensors,
            no_tensor_first_split=args.no_tensor_first_split,
            progress=progress,
            dry_run=args.dry_run,
            overwrite=args.overwrite,
            resume=not args.no_resume,
        )
    report(args, plan)
    return 0


def report(args: argparse.Namespace, plan: ConversionPlan) -> None:
    """Say what was written, or would be."""
    if args.json:
        print_json(plan_document(plan, args.dry_run))
        return
    show(args, str(plan))
    if not args.dry_run:
        for path in plan.paths:
            print(f"wrote {clean(path)}")
