"""gguflike export IN OUT"""

from __future__ import annotations

import argparse

from gguflike.cli.output import clean, print_json, show
from gguflike.cli.paths import add_path_arguments, fetched, take_out
from gguflike.cli.progress import progress_bar


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_path_arguments(parser, "IN", "GGUF file", "OUT", "folder to create")
    parser.usage = "gguflike export IN OUT [options]"
    parser.add_argument(
        "--dtype",
        type=str.lower,
        choices=("auto", "f32", "f16", "bf16"),
        default="auto",
        help="of the tensors written; auto loses nothing (default)",
    )
    parser.add_argument(
        "--generic",
        action=argparse.BooleanOptionalAction,
        help="only the tensors, of a network of any kind (default: as the file says)",
    )
    parser.add_argument("--dry-run", action="store_true", help="print the plan, write nothing")
    parser.add_argument("--json", action="store_true", help="the plan as one JSON document")


def run(args: argparse.Namespace) -> int:
    from gguflike.convert import export

    take_out(args, "OUT is required: a folder to create")
    args.source = fetched(args.source)
    with progress_bar() as progress:
        plan = export(
            args.source,
            args.out,
            args.dtype,
            progress=progress,
            dry_run=args.dry_run,
            overwrite=args.overwrite,
            generic=args.generic,
        )
    if args.json:
        print_json(
            {
                "source": plan.source,
                "target": str(plan.target),
                "dtype": plan.dtype,
                "written": not args.dry_run,
                "tensor_bytes": plan.tensor_bytes,
                "files": {name: len(entries) for name, entries in plan.files.items()},
            }
        )
    else:
        show(args, str(plan))
        if not args.dry_run:
            print(f"wrote {clean(str(plan.target))}")
    return 0
