"""gguflike export FILE DIR"""

from __future__ import annotations

import argparse

from gguflike.cli.output import clean, print_json, progress_bar


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", help="GGUF file")
    parser.add_argument("folder", metavar="DIR", help="folder to create")
    parser.add_argument(
        "--dtype",
        choices=("auto", "f32", "f16", "bf16"),
        default="auto",
        help="of the tensors written; auto loses nothing (default)",
    )
    parser.add_argument("--dry-run", action="store_true", help="print the plan, write nothing")
    parser.add_argument("--json", action="store_true", help="the plan as one JSON document")


def run(args: argparse.Namespace) -> int:
    from gguflike.convert import export

    with progress_bar() as progress:
        plan = export(args.file, args.folder, args.dtype, progress=progress, dry_run=args.dry_run)
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
        print("\n".join(map(clean, str(plan).splitlines())))
    return 0
