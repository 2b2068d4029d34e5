"""gguflike quantize IN.gguf OUT.gguf TYPE"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from gguflike.cli.paths import add_path_arguments, fetched
from gguflike.cli.recipes import add_recipe_arguments, plan_and_run, take

if TYPE_CHECKING:
    from gguflike.convert.plan import ConversionPlan


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_path_arguments(
        parser,
        "IN",
        "GGUF file",
        "OUT",
        "GGUF file to write, or a folder for FOLDER/NAME-TYPE.gguf (default: the folder of IN)",
    )
    parser.usage = "gguflike quantize IN [OUT] TYPE [THREADS] [options]"
    add_recipe_arguments(parser, "recipe, such as Q8_0, Q4_K_M or F16, or COPY to encode nothing anew; also without -t")
    parser.add_argument("--keep-split", action="store_true", help="as many files as IN has, each with the same tensors")


def run(args: argparse.Namespace) -> int:
    options = take(args, None)
    if not args.dry_run:
        args.source = fetched(args.source)
    from gguflike.convert.quantize import plan_quantization

    def plan(source: str, *places: Any, **options: Any) -> ConversionPlan:
        """`plan_quantization`: what is not on disk is not fetched for a plan."""
        if not args.dry_run:
            return plan_quantization(source, *places, **options)
        from gguflike.locate import open_header

        with open_header(source) as file:
            return plan_quantization(file, *places, **options)

    return plan_and_run(args, plan, keep_split=args.keep_split, **options)
