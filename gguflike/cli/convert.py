"""gguflike convert SRC OUT -t TYPE"""

from __future__ import annotations

import argparse

from gguflike.cli.paths import add_path_arguments
from gguflike.cli.recipes import add_recipe_arguments, plan_and_run, take


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_path_arguments(
        parser,
        "SRC",
        "folder with config.json and safetensors, or a Hub id (org/name)",
        "OUT",
        "GGUF file to write, or a folder for FOLDER/NAME-TYPE.gguf (default: the folder SRC)",
    )
    parser.usage = "gguflike convert SRC [OUT] [-t TYPE] [options]"
    parser.add_argument("--revision", metavar="REV", help="revision of a Hub id")
    parser.add_argument("--name", "--model-name", metavar="NAME", help="general.name to write")
    parser.add_argument(
        "--ignore-config",
        action="append",
        default=[],
        metavar="KEY",
        help="accept a config.json key that is not handled",
    )
    add_recipe_arguments(
        parser, "recipe, such as Q8_0, Q4_K_M or F16, or auto for the checkpoint's own 16 bits (default: Q4_K_M)"
    )


def run(args: argparse.Namespace) -> int:
    options = take(args, "Q4_K_M")
    from gguflike.convert.from_checkpoint import plan_conversion

    return plan_and_run(
        args, plan_conversion, name=args.name, revision=args.revision, ignore_config=args.ignore_config, **options
    )
