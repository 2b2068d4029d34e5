"""gguflike convert SRC OUT -t TYPE"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from gguflike.cli.paths import add_path_arguments
from gguflike.cli.progress import progress_bar
from gguflike.cli.recipes import add_recipe_arguments, plan_and_run, take

if TYPE_CHECKING:
    from gguflike.convert import ConversionPlan


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_path_arguments(
        parser,
        "SRC",
        "folder with config.json and safetensors, or a Hub id: org/name[@revision]",
        "OUT",
        "GGUF file to write, or a folder for FOLDER/NAME-TYPE.gguf (default: the folder SRC, or this one)",
    )
    parser.usage = "gguflike convert SRC [OUT] [-t TYPE] [options]"
    parser.add_argument("--revision", metavar="REV", help="revision of a Hub id")
    parser.add_argument(
        "--cache",
        action="store_true",
        help="keep the weights of a Hub id in the Hub's cache, instead of streaming them",
    )
    parser.add_argument("--name", "--model-name", metavar="NAME", help="general.name to write")
    parser.add_argument(
        "--ignore-config",
        action="extend",
        type=lambda text: text.split(","),
        default=[],
        metavar="KEY[,KEY...]",
        help="accept config.json keys that are not handled",
    )
    parser.add_argument(
        "--tokenizer-proof",
        choices=("error", "warn"),
        default="error",
        help="what to do where the file's tokenizer gives other ids than the source's (default: error)",
    )
    parser.add_argument(
        "--lora",
        action="append",
        default=[],
        metavar="ADAPTER[:SCALE]",
        help="merge a LoRA adapter of PEFT; may be given several times",
    )
    parser.add_argument(
        "--base", metavar="B", help="of an adapter as SRC: folder or Hub id with its model's config.json"
    )
    parser.add_argument(
        "--generic",
        action="store_true",
        help="any network: SRC is a file of safetensors, or a folder of them; names and shapes are kept",
    )
    parser.add_argument("--arch", metavar="NAME", help="general.architecture of a generic file, such as flux")
    add_recipe_arguments(
        parser, "recipe, such as Q8_0, Q4_K_M or F16, or auto for the checkpoint's own 16 bits (default: Q4_K_M)"
    )


def run(args: argparse.Namespace) -> int:
    options = take(args, "Q4_K_M")
    from gguflike.convert.from_checkpoint import plan_conversion
    from gguflike.convert.lora import parse

    lora = [parse(each) for each in args.lora]

    def plan(source: str, out: str | None, type: str, **options: Any) -> ConversionPlan:
        """`plan_conversion`, which shows what it downloads."""
        with progress_bar() as progress:
            options |= {"cache": args.cache, "lora": lora, "base": args.base}
            options |= {"generic": args.generic, "arch": args.arch}
            return plan_conversion(source, out, type, progress=progress, **options)

    return plan_and_run(
        args,
        plan,
        name=args.name,
        revision=args.revision,
        ignore_config=args.ignore_config,
        tokenizer_proof=args.tokenizer_proof,
        **options,
    )
