"""gguflike run [MODEL] [PROMPT ...]"""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from gguflike.cli.answer import document, say_how_it_went, show
from gguflike.cli.bounds import add_bound_arguments
from gguflike.cli.generation import (
    Drafter,
    add_model_arguments,
    add_sampling_arguments,
    begin_answer,
    begin_text,
    choices,
    load,
    name_of_model,
)
from gguflike.cli.output import print_json
from gguflike.cli.screen import Screen
from gguflike.cli.settings import CONVERSATION, RUNNING, SHOWN, SYSTEM, add_settings
from gguflike.cli.streams import is_fed, need_input, read_all
from gguflike.cli.usage import UsageError

if TYPE_CHECKING:
    from gguflike.cli.generation import Begun
    from gguflike.progress import Progress


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.usage = "gguflike run [MODEL] [PROMPT ...] [options]"
    parser.epilog = (
        "What is piped in goes before PROMPT. Without either, prompts are typed. `gguflike chat` talks to a model. "
        "$GGUFLIKE_THREADS and others, and a file, set what is not given: spec/cli.md."
    )
    add_model_arguments(parser, by_flag=True)
    parser.add_argument("words", metavar="PROMPT", nargs="*", help="text to continue")
    parser.add_argument("-p", "--prompt", metavar="TEXT", help="the same; - is all of standard input")
    parser.add_argument("--chat", action="store_true", help="put the prompt through the file's chat template")
    add_settings(parser.add_argument_group("with --chat"), SYSTEM)
    parser.add_argument("--special", action="store_true", help="markup in the prompt such as <|im_end|> is no text")
    add_sampling_arguments(parser, tokens=128, temperature=0.0)
    add_bound_arguments(parser)
    add_settings(parser, SHOWN)
    add_settings(parser.add_argument_group("where prompts are typed"), CONVERSATION)
    parser.add_argument("--json", action="store_true", help="one JSON document at the end instead of text as it comes")
    parser.set_defaults(listed="words", settled=RUNNING)


def run(args: argparse.Namespace) -> int:
    for name, flag in (("system", "--system"), ("think", "--think")):
        if getattr(args, name) is not None and not args.chat:
            raise UsageError(f"{flag} is for --chat, or for gguflike chat")
    if args.model is not None and args.file is not None:  # then it is the first word of the prompt
        args.words.insert(0, args.file)
        args.file = None
    name_of_model(args)  # before anything is read
    prompt = _prompt(args)
    chosen = choices(args)
    if prompt is None:
        from gguflike.cli.chat import converse

        if args.json:
            raise UsageError("--json is for a prompt that is given, or piped in")
        return converse(args, is_plain=not args.chat)
    with load(args) as model, Drafter(args) as drafter:
        chosen |= drafter.options(model)

        def begin(progress: Progress) -> Begun:
            if not args.chat:
                return begin_text(model, prompt, args, chosen, progress)
            system = [{"role": "system", "content": args.system}] if args.system is not None else []
            return begin_answer(model, [*system, {"role": "user", "content": prompt}], args, chosen, progress)

        screen = None if args.json else Screen(args)
        answer = show(begin, args, screen)
        if screen is None:
            print_json(document(model, answer, chosen))
            return 0
        if screen.is_empty and answer.result.finish_reason != "context":
            print()
        say_how_it_went(model, answer, args, chosen)
    return 0


def _prompt(args: argparse.Namespace) -> str | None:
    """What is to be continued; None where it is to be typed. UsageError where there are two prompts, or none."""
    words = " ".join(args.words) if args.words else None
    if words is not None and args.prompt is not None:
        raise UsageError(f"two prompts: -p and {words!r}")
    if "-" in (words, args.prompt):
        need_input("the prompt is to be read from it; give it behind the model")
        return read_all()
    if args.prompt is not None:
        return str(args.prompt)
    if words is not None:
        piped = read_all("it goes before the prompt; < /dev/null if there is none") if is_fed() else ""
        return f"{piped}\n{words}" if piped else words
    need_input("no prompt is given; give it behind the model")
    if sys.stdin.isatty():
        return None
    if not (piped := read_all()):
        raise UsageError("no prompt: standard input is empty; give a prompt behind the model")
    return piped
