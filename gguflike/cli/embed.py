"""gguflike embed FILE [TEXT ...]"""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from gguflike.cli.generation import add_model_arguments, load
from gguflike.cli.output import print_json
from gguflike.cli.streams import need_input

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model_arguments(parser)
    parser.add_argument("texts", metavar="TEXT", nargs="*", help="texts (default: each line of standard input is one)")
    parser.add_argument(
        "--pooling",
        choices=("mean", "cls", "last"),
        help="how vectors of tokens become one (default: as the file says)",
    )
    parser.add_argument("--raw", action="store_true", help="vectors as the model gives them, not of length 1")
    add_truncate(parser)
    parser.set_defaults(listed="texts")
    parser.add_argument("--json", action="store_true", help="one JSON document instead of a line of numbers for each")


def add_truncate(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--truncate", action="store_true", help="cut texts that are longer than the context")


def lines(given: list[str], what: str) -> list[str]:
    """The texts of the command line, or where there are none, the lines of standard input."""
    if given:
        return given
    need_input(f"the {what} are to be read from it, one on each line")
    return [line.rstrip("\r\n") for line in sys.stdin]


def numbers(vector: npt.NDArray[np.float32]) -> list[float]:
    """The shortest decimals that stand for these float32 values."""
    return [float(str(value)) for value in vector]


def run(args: argparse.Namespace) -> int:
    texts = lines(args.texts, "texts")
    with load(args) as model:
        vectors = model.embed(texts, pooling=args.pooling, normalize=not args.raw, truncate=args.truncate)
    if args.json:
        print_json({"dimensions": vectors.shape[1], "vectors": [numbers(vector) for vector in vectors]})
    else:
        for vector in vectors:
            print(*numbers(vector))
    return 0
