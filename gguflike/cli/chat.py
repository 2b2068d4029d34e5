"""gguflike chat FILE"""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from gguflike.cli.arguments import positive
from gguflike.cli.generation import add_model_arguments, add_sampling_arguments, load, say_why_it_ended, settings
from gguflike.cli.output import terminal
from gguflike.cli.streams import need_input

if TYPE_CHECKING:
    from gguflike.runner import Model


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model_arguments(parser, by_flag=True)
    parser.add_argument("--system", metavar="TEXT", help="system message")
    parser.add_argument("-n", "--tokens", type=positive, default=1024, metavar="N", help="per answer (%(default)s)")
    add_sampling_arguments(parser, 0.7)


def run(args: argparse.Namespace) -> int:
    need_input("a conversation is read from it")
    messages = [{"role": "system", "content": args.system}] if args.system else []
    with load(args) as model:
        if sys.stdin.isatty():
            print("An empty line or Ctrl-D ends the conversation.", file=sys.stderr)
        while words := _ask():
            messages.append({"role": "user", "content": words})
            messages.append({"role": "assistant", "content": _answer(model, messages, args)})
    return 0


def _answer(model: Model, messages: list[dict[str, str]], args: argparse.Namespace) -> str:
    """Print the answer as it comes. Ctrl-C in a terminal stops the answer, not the conversation."""
    pieces = []
    stream = model.chat(messages, args.tokens, **settings(args))
    try:
        for piece in stream:
            print(terminal(piece.text), end="", flush=True)
            pieces.append(piece.text)
    except KeyboardInterrupt:
        if not sys.stdin.isatty():
            raise
    print()
    say_why_it_ended(model, stream.generation)
    return "".join(pieces)


def _ask() -> str:
    try:
        return input("> " if sys.stdin.isatty() else "").strip()
    except EOFError:
        return ""
