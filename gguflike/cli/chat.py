"""gguflike chat [MODEL]"""

from __future__ import annotations

import argparse
import sys
from contextlib import nullcontext
from typing import TYPE_CHECKING

from gguflike.cli import interrupts
from gguflike.cli.generation import Drafter, add_model_arguments, add_sampling_arguments, load, sampling_of
from gguflike.cli.output import print_json
from gguflike.cli.screen import is_colored
from gguflike.cli.settings import CHATTING, CONVERSATION, SHOWN, SYSTEM, add_settings
from gguflike.cli.streams import need_input, say
from gguflike.cli.usage import UsageError

if TYPE_CHECKING:
    from gguflike.runner import Model


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.usage = "gguflike chat [MODEL] [options]"
    parser.epilog = (
        "/help lists what can be said to the program. From a pipe, each line is a message, empty lines are none, and "
        'several lines stand between two of """. $GGUFLIKE_THREADS and others, and a file, set what is not given: '
        "spec/cli.md."
    )
    add_model_arguments(parser, by_flag=True)
    add_settings(parser, (*SYSTEM, *CONVERSATION))
    parser.add_argument("--special", action="store_true", help="markup in messages such as <|im_end|> is no text")
    add_sampling_arguments(parser, tokens=1024, temperature=0.7)
    add_settings(parser, SHOWN)
    parser.add_argument("--json", action="store_true", help="one JSON document at the end of what is piped in")
    parser.set_defaults(settled=CHATTING)


def run(args: argparse.Namespace) -> int:
    need_input("a conversation is read from it")
    if args.json and sys.stdin.isatty():
        raise UsageError("--json is for a conversation that is piped in")
    sampling_of(args)  # values that cannot be are said at once
    return converse(args)


def converse(args: argparse.Namespace, *, is_plain: bool = False) -> int:
    """Load the model and talk to it, or where it ``is_plain``, go on with a text together. UsageError where nothing is
    said."""
    from gguflike.chat.template import keep_ready
    from gguflike.cli.talk import loop
    from gguflike.cli.talk.conversation import Conversation
    from gguflike.cli.talk.keyboard import kept, screen
    from gguflike.cli.talk.piped import Piped
    from gguflike.cli.talk.session import Session

    with kept(), load(args) as model, Drafter(args) as drafter:
        if not is_plain:
            _check_template(model, args)
        drafter.options(model)  # what is wrong with it is said at once
        source: loop.Source
        if sys.stdin.isatty() and screen() is not None:
            from gguflike.cli.talk.editor import Editor

            _greet(model, is_plain)
            source = Editor(keeps=args.history is not False, colors=is_colored(args, sys.stderr))
        else:
            source = Piped()
        ready = nullcontext() if is_plain else keep_ready()  # each answer renders what was said
        with ready, interrupts.held() if source.is_typed else nullcontext():
            conversation = Conversation(model, args, drafter, is_plain=is_plain)
            session = Session(conversation, is_typed=source.is_typed, is_silent=args.json)
            said = loop.converse(session, source)
    if not (said or source.is_typed):
        raise UsageError("standard input is empty, so there is nothing to answer")
    if args.json:
        print_json({"messages": conversation.messages, "answers": session.documents})
    return 0


def _check_template(model: Model, args: argparse.Namespace) -> None:
    """Say what can be done with a model that cannot be talked to."""
    from gguflike.errors import UnsupportedError

    if not model.conversations.has_template:
        name = args.file or args.model or model.path
        raise UnsupportedError(
            "the file holds no chat template: this is a base model, which continues texts",
            path=model.path,
            field="tokenizer.chat_template",
            remedy=f"gguflike run {name} continues one",
        )


def _greet(model: Model, is_plain: bool) -> None:
    leave = "Ctrl-D leaves, /help says more"
    if not is_plain:
        say(f"Say something. {leave}.")
        return
    hint = "; `gguflike chat` talks to this model" if model.conversations.has_template else ""
    say(f"Begin a text, which the model continues; Enter goes on. {leave}{hint}.")
