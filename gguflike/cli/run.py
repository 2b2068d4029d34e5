"""gguflike run FILE -p PROMPT"""

from __future__ import annotations

import argparse
import sys

from gguflike.cli.arguments import count
from gguflike.cli.generation import add_model_arguments, add_sampling_arguments, load, say_why_it_ended, settings
from gguflike.cli.output import print_json, terminal
from gguflike.cli.streams import need_input


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model_arguments(parser, by_flag=True)
    parser.add_argument("-p", "--prompt", required=True, help="text to continue; - reads it from standard input")
    parser.add_argument(
        "-n", "--tokens", "--predict", type=count, default=128, metavar="N", help="tokens at most (%(default)s)"
    )
    add_sampling_arguments(parser, 0.0)
    parser.add_argument("--chat", action="store_true", help="put the prompt through the file's chat template")
    parser.add_argument("--json", action="store_true", help="one JSON document at the end instead of text as it comes")


def run(args: argparse.Namespace) -> int:
    if args.prompt == "-":
        need_input("the prompt is to be read from it; give it with -p TEXT")
    prompt = sys.stdin.read() if args.prompt == "-" else args.prompt
    with load(args) as model:
        if args.chat:
            stream = model.chat([{"role": "user", "content": prompt}], args.tokens, **settings(args))
        else:
            stream = model.generate(prompt, args.tokens, **settings(args))
        if not args.json:
            for piece in stream:
                print(terminal(piece.text), end="", flush=True)
            result = stream.result()
            if result.text or result.finish_reason != "context":
                print()
            say_why_it_ended(model, result)
            return 0
        result = stream.result()
    print_json(
        {
            "text": result.text,
            "prompt_tokens": result.prompt_tokens,
            "tokens": result.tokens,
            "finish_reason": result.finish_reason,
            "prefill_tokens_per_s": result.prefill_tokens_per_s,
            "decode_tokens_per_s": result.decode_tokens_per_s,
        }
    )
    return 0
