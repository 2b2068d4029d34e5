"""A text of a model shown while it is made, and in one line how that went."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from gguflike.cli import interrupts
from gguflike.cli.generation import parts, tokens_of
from gguflike.cli.progress import progress_bar
from gguflike.cli.screen import DIM, PLAIN, is_colored
from gguflike.cli.streams import say
from gguflike.errors import counted
from gguflike.frozen import frozen
from gguflike.progress import WRITING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gguflike.cli.generation import Begun
    from gguflike.cli.screen import Screen
    from gguflike.progress import Progress
    from gguflike.runner import Generation, Model


@frozen
class Answer:
    """What came of a text: what it says, what the model thought before, the outcome, whether Ctrl-C stopped it, and
    after how many seconds its first token came."""

    text: str
    thought: str
    result: Generation
    is_stopped: bool
    first_after: float


def show(
    begin: Callable[[Progress], Begun], args: argparse.Namespace, screen: Screen | None, *, stoppable: bool = False
) -> Answer:
    """Show the text that ``begin(progress)`` begins; where there is no screen, only how far it is. Where it is
    ``stoppable``, Ctrl-C ends it; elsewhere, all."""
    start = time.monotonic()
    first_after, is_stopped = 0.0, False
    pieces: dict[bool, list[str]] = {False: [], True: []}
    begun = None
    try:
        with interrupts.stoppable(), ExitStack() as bar:
            progress = bar.enter_context(progress_bar())  # of a long prompt
            begun = begin(progress)
            made = parts(begun)
            part = next(made, None)
            first_after = time.monotonic() - start
            if screen is not None:
                bar.close()
            while part is not None:
                text, is_thought = part
                pieces[is_thought].append(text)
                if screen is not None:
                    screen.write(text, dim=is_thought)
                else:
                    progress(len(begun.stream.generation.tokens), tokens_of(args), WRITING)
                part = next(made, None)
    except KeyboardInterrupt:
        if not stoppable or begun is None:
            raise
        interrupts.clear()
        is_stopped = True
    finally:
        if screen is not None:
            screen.end()
    said, thought = ("".join(pieces[kind]) for kind in (False, True))
    return Answer(said, thought, begun.stream.generation, is_stopped, first_after)


def document(model: Model, answer: Answer, chosen: Mapping[str, Any]) -> dict[str, Any]:
    """The outcome as JSON."""
    result = answer.result
    return {
        "text": answer.text,
        **({"reasoning": answer.thought} if answer.thought else {}),
        "prompt_tokens": result.prompt_tokens,
        "tokens": result.tokens,
        "finish_reason": result.finish_reason,
        **({"drafted": result.drafted, "accepted": result.accepted} if result.drafted else {}),
        "context": model.context,
        "seed": chosen.get("seed"),
        "prefill_tokens_per_s": result.prefill_tokens_per_s,
        "decode_tokens_per_s": result.decode_tokens_per_s,
    }


def say_how_it_went(model: Model, answer: Answer, args: argparse.Namespace, chosen: Mapping[str, Any]) -> None:
    """Figures on standard error, where that is a terminal and they are wanted; where the context is full, that is said
    in any case."""
    if answer.result.finish_reason == "context" and not answer.is_stopped:
        full = counted(model.context, "token")
        say(f"the context of {full} is full: nothing more fits; --context N sets a larger one")
    if sys.stderr is not None and sys.stderr.isatty() and not args.quiet:
        line = figures(model, answer, args, chosen)
        say(f"{DIM}{line}{PLAIN}" if is_colored(args, sys.stderr) else line)


def figures(model: Model, answer: Answer, args: argparse.Namespace, chosen: Mapping[str, Any]) -> str:
    """128 tokens, 41 tokens/s, guessed 60/75, first after 0.3 s, context 512/8192"""
    result = answer.result
    why = {"length": f"cut at --tokens {tokens_of(args)}", "context": "context full"}.get(result.finish_reason)
    if answer.is_stopped:
        why = "stopped"
    parts = [counted(len(result.tokens), "token") + (f" ({why})" if why else "")]
    if result.decode_tokens_per_s:
        speed = result.decode_tokens_per_s
        parts.append(f"{speed:.0f} tokens/s" if speed >= 10 else f"{speed:.1f} tokens/s")
    parts += [f"guessed {result.accepted}/{result.drafted}"] if result.drafted else []
    parts += [f"first after {answer.first_after:.1f} s"] if result.tokens else []
    parts.append(f"context {result.prompt_tokens + len(result.tokens)}/{model.context}")
    parts += [f"seed {chosen['seed']}"] if "seed" in chosen else []
    return ", ".join(parts)
