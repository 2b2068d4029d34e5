"""What commands that run a model share: the options of loading it and of sampling."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from gguflike.cli.arguments import MODEL, at_least_zero, count, positive, seed, share
from gguflike.cli.progress import progress_bar
from gguflike.cli.streams import say
from gguflike.errors import counted

if TYPE_CHECKING:
    from gguflike.runner import Generation, Model


def add_model_arguments(parser: argparse.ArgumentParser, *, by_flag: bool = False) -> None:
    """``by_flag``: the model may also be given as to llama.cpp's programs, by -m or -hf."""
    parser.add_argument("file", metavar="FILE", nargs="?" if by_flag else None, help=MODEL)
    if by_flag:
        parser.add_argument("-m", "--model", "-hf", "--hf-repo", metavar="FILE", help="the same, as llama.cpp has it")
    parser.add_argument("-t", "--threads", type=positive, metavar="N", help="threads (default: all CPUs)")
    parser.add_argument(
        *("-c", "--context", "--ctx-size"),
        type=positive,
        metavar="N",
        help="tokens to remember (default: the model's own)",
    )
    add_activations_argument(parser)


def add_activations_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--activations",
        choices=("dynamic", "adaptive", "static", "hybrid"),
        default="dynamic",
        help="how activations become 8 bits: adaptive does so twice where a few are far larger than the others, for "
        "about half the error; static by ranges in the file (calibrate --activations), hybrid by those that cost "
        "nothing (default: dynamic)",
    )


def add_sampling_arguments(parser: argparse.ArgumentParser, temperature: float) -> None:
    parser.add_argument("--temp", type=at_least_zero, default=temperature, help="0 takes the likeliest (%(default)s)")
    parser.add_argument("--top-k", type=count, default=0, metavar="K", help="sample from the K likeliest; 0: all")
    parser.add_argument("--top-p", type=share, default=1.0, metavar="P", help="sample from the likeliest that sum to P")
    parser.add_argument(
        "--min-p", type=share, default=0.0, metavar="P", help="drop what is P times less likely than the best"
    )
    parser.add_argument("--seed", type=seed, metavar="N", help="make sampling repeatable; 0 or more")


def load(args: argparse.Namespace) -> Model:
    from gguflike import runner
    from gguflike.cli import UsageError

    given = [each for each in (args.file, getattr(args, "model", None)) if each is not None]
    if len(given) != 1:
        raise UsageError("FILE is required: the model" if not given else f"two models: {' and '.join(given)}")
    with progress_bar() as progress:
        return runner.load(
            given[0], threads=args.threads, context=args.context, activations=args.activations, progress=progress
        )


def say_why_it_ended(model: Model, result: Generation) -> None:
    """A line on standard error where a text ends because nothing more fits."""
    if result.finish_reason == "context":
        context = counted(model.context, "token")
        say(f"the context of {context} is full: nothing more fits; --context N sets a larger one")


def settings(args: argparse.Namespace) -> dict[str, Any]:
    """Keyword arguments of ``Model.generate``."""
    return {
        "temperature": args.temp,
        "top_k": args.top_k,
        "top_p": args.top_p,
        "min_p": args.min_p,
        "seed": args.seed,
    }
