"""What convert and quantize share: the options of a recipe, and how a plan is shown and carried out."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from gguflike.cli.arguments import positive
from gguflike.cli.output import clean, print_json, progress_bar

if TYPE_CHECKING:
    from gguflike.convert import ConversionPlan


def add_recipe_arguments(parser: argparse.ArgumentParser, default_type: str | None) -> None:
    parser.add_argument(
        "-t",
        "--type",
        default=default_type,
        required=default_type is None,
        metavar="TYPE",
        help="recipe, such as Q8_0, Q4_K_M or F16" + (f" (default: {default_type})" if default_type else ""),
    )
    parser.add_argument("--imatrix", metavar="F", help="importance matrix: columns that matter more")
    parser.add_argument(
        "--tensor-type",
        action="append",
        default=[],
        metavar="REGEX=TYPE",
        help="type for the tensors whose names match; may be given several times",
    )
    parser.add_argument("--threads", type=positive, help="threads for encoding (default: all CPUs)")
    add_split_arguments(parser)
    parser.add_argument(
        "--no-resume",
        action="store_true",
        help="begin anew where an earlier run was cut off, and leave nothing if this is",
    )
    parser.add_argument("--dry-run", action="store_true", help="print the plan, read and write no tensor")
    parser.add_argument("--no-overwrite", action="store_true", help="fail where the target exists")
    parser.add_argument("--json", action="store_true", help="the plan as one JSON document")


def add_split_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--split-max-size", metavar="N", help="begin another file at so many bytes, such as 4G or 500M")
    parser.add_argument("--split-max-tensors", type=positive, metavar="N", help="begin another file at so many tensors")
    parser.add_argument("--no-tensor-first-split", action="store_true", help="only metadata in the first of the files")


def check(args: argparse.Namespace) -> None:
    """UsageError for a type or override that does not exist, before anything is opened."""
    from gguflike.cli import UsageError
    from gguflike.convert import recipe
    from gguflike.errors import ArgumentError

    try:
        recipe.by_name(args.type)
        recipe.overrides(args.tensor_type)
    except ArgumentError as error:
        raise UsageError(str(error)) from error


def plan_and_run(args: argparse.Namespace, command: Callable[..., ConversionPlan], **options: Any) -> int:
    """Show the plan of ``command(source, out, type, ...)``, carry it out unless it is a dry run, and report."""
    call = [args.source, args.out, args.type]
    options |= {
        "tensor_types": args.tensor_type,
        "imatrix": args.imatrix,
        "resume": not args.no_resume,
        "split_max_size": args.split_max_size,
        "split_max_tensors": args.split_max_tensors,
        "no_tensor_first_split": args.no_tensor_first_split,
    }
    if not args.json:
        plan = command(*call, dry_run=True, **options)
        print("\n".join(map(clean, str(plan).splitlines())), flush=True)
    if args.json or not args.dry_run:
        with progress_bar() as progress:
            plan = command(
                *call,
                progress=progress,
                dry_run=args.dry_run,
                threads=args.threads,
                overwrite=not args.no_overwrite,
                **options,
            )
    if args.json:
        print_json(plan_document(plan, args.dry_run))
    elif not args.dry_run:
        first, *others = plan.paths
        print(f"wrote {clean(first)}" + (f" and {len(others)} more" if others else ""))
    return 0


def plan_document(plan: ConversionPlan, dry_run: bool) -> dict[str, Any]:
    """The plan as JSON."""
    return {
        "source": plan.source,
        "target": None if plan.target is None else str(plan.target),
        "type": plan.recipe.name,
        "written": not dry_run,
        "files": list(plan.paths),
        "parameters": plan.parameters,
        "file_bytes": plan.file_bytes,
        "bits_per_weight": plan.bits_per_weight,
        "substitutions": [
            {"name": tensor.name, "wanted": tensor.wanted.name, "type": tensor.format.name}
            for tensor in plan.substitutions
        ],
        "notices": list(plan.notices),
        "tensors": [
            {
                "name": info.name,
                "shape": list(info.shape),
                "type": info.format.name,
                "bytes": info.nbytes,
                "offset": info.offset,
                "shard": shard,
            }
            for shard, file in enumerate(plan.files)
            for info in file.tensors
        ],
    }
