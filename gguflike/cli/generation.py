"""What run and chat share: the options of sampling and of loading a model."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from gguflike.cli.output import progress_bar

if TYPE_CHECKING:
    from gguflike.runner import Model


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", help="GGUF file")
    parser.add_argument("--threads", type=_positive, help="threads (default: all CPUs)")
    parser.add_argument("--context", type=_positive, metavar="N", help="tokens to remember (default: the model's own)")


def add_sampling_arguments(parser: argparse.ArgumentParser, temperature: float) -> None:
    parser.add_argument("--temp", type=_at_least_zero, default=temperature, help="0 takes the likeliest (%(default)s)")
    parser.add_argument("--top-k", type=_count, default=0, metavar="K", help="sample from the K likeliest; 0: all")
    parser.add_argument(
        "--top-p", type=_share, default=1.0, metavar="P", help="sample from the likeliest that sum to P"
    )
    parser.add_argument(
        "--min-p", type=_share, default=0.0, metavar="P", help="drop what is P times less likely than the best"
    )
    parser.add_argument("--seed", type=int, help="make sampling repeatable")


def load(args: argparse.Namespace) -> Model:
    from gguflike import runner

    with progress_bar() as progress:
        return runner.load(args.file, threads=args.threads, context=args.context, progress=progress)


def settings(args: argparse.Namespace) -> dict[str, Any]:
    """Keyword arguments of ``Model.generate``."""
    return {
        "temperature": args.temp,
        "top_k": args.top_k,
        "top_p": args.top_p,
        "min_p": args.min_p,
        "seed": args.seed,
    }


def _number(text: str, low: float, high: float, whole: bool) -> float:
    try:
        number = int(text) if whole else float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"not a number: {text!r}") from None
    if not low <= number <= high:
        raise argparse.ArgumentTypeError(f"{text} is not from {low:g} to {high:g}")
    return number


def _positive(text: str) -> int:
    return int(_number(text, 1, 1 << 31, True))


def _count(text: str) -> int:
    return int(_number(text, 0, 1 << 31, True))


def _at_least_zero(text: str) -> float:
    return _number(text, 0, 1e6, False)


def _share(text: str) -> float:
    return _number(text, 0, 1, False)
