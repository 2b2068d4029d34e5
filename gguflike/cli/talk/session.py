"""One sitting: a message or a command is read, answered or done, and whatever goes wrong, the next is read."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any, Protocol

from gguflike.cli import interrupts
from gguflike.cli.answer import Answer, document, figures, say_how_it_went, show
from gguflike.cli.output import broken, flags_of
from gguflike.cli.screen import DIM, PLAIN, Screen, is_colored
from gguflike.cli.streams import say
from gguflike.cli.talk import commands
from gguflike.cli.talk.conversation import Conversation, FileError, FullError
from gguflike.errors import GGUFLikeError, TemplateError, counted

if TYPE_CHECKING:
    from gguflike.runner import Model


HOW_TO_LEAVE = "Ctrl-D or /bye leaves"


class Source(Protocol):
    """Where messages come from. ``is_typed``: somebody sits there, who can be asked again."""

    is_typed: bool

    def ask(self, begun: str) -> str | None:
        """The next message, which may already be ``begun``; None where there will be no more."""


class Session:
    """A conversation and where its messages come from. ``begun`` is what the next message begins with, ``is_over``
    whether somebody said goodbye, ``documents`` all answers. Where it ``is_silent``, they are not shown."""

    def __init__(self, conversation: Conversation, source: Source, *, is_silent: bool = False) -> None:
        self.conversation, self._source, self._is_silent = conversation, source, is_silent
        self.documents: list[dict[str, Any]] = []
        self.begun, self.is_over = "", False
        self._last: Answer | None = None

    @property
    def model(self) -> Model:
        return self.conversation.model

    @property
    def args(self) -> argparse.Namespace:
        return self.conversation.args

    @property
    def is_typed(self) -> bool:
        return self._source.is_typed

    def run(self) -> int:
        """Until it is over. Returns how many messages and commands there were."""
        count = 0
        while not self.is_over:
            begun, self.begun = self.begun, ""
            if interrupts.clear():
                say(HOW_TO_LEAVE)
            words = self._source.ask(begun)
            if words is None:
                break
            if not words.strip() and not (self.conversation.is_plain and self.conversation.turns):
                continue
            count += 1
            try:
                if commands.is_command(words.strip()):
                    commands.do(self, words.strip())
                else:
                    self.answer(commands.message(words))
            except (commands.Mistake, FileError) as error:
                say(broken(str(error)))
            except KeyboardInterrupt:  # while a file is read, or a long prompt
                if not self.is_typed:
                    raise
                interrupts.clear()
                say("stopped")
        return count

    def tell(self, text: str) -> None:
        """Say something of the program's, which is no answer of the model: on standard error."""
        text = broken(text)
        if is_colored(self.args, sys.stderr):
            text = f"{DIM}{text}{PLAIN}"
        say(text)

    def answer(self, words: str) -> None:
        """Have the model answer, unless that cannot be: then the words are taken back, and it is said why."""
        conversation = self.conversation
        conversation.say(words)
        try:
            answer = self._answered()
        except FullError as full:
            conversation.undo()
            self._say_full(full)
        except TemplateError as error:
            conversation.undo()
            say(broken(f"{error}; the message is taken back"))
        except KeyboardInterrupt:
            conversation.undo()
            raise
        except GGUFLikeError as error:
            conversation.undo()
            if not self.is_typed:
                raise
            say(broken(error.for_command(flags_of(self.args))))
        else:
            conversation.hear(answer.text)
            self._last = answer
            self.documents.append(document(self.model, answer, conversation.chosen))
            say_how_it_went(self.model, answer, self.args, conversation.chosen)
            if answer.result.finish_reason == "context" and not answer.is_stopped:
                self._say_cut()

    def _answered(self) -> Answer:
        """The answer to what was said last, shown as it comes."""
        conversation, drops = self.conversation, self.args.on_full == "drop"
        if drops and (dropped := conversation.drop()):
            self.tell(f"the context is full: dropped the oldest {counted(dropped, 'turn')}")
        screen = None if self._is_silent else Screen(self.args)
        return show(conversation.begin, self.args, screen, stoppable=self.is_typed)

    def _say_full(self, full: FullError) -> None:
        ways = ["/undo takes the last turn back", "/clear begins anew", "/set on-full drop forgets the oldest turns"]
        if full.is_alone:
            ways = ["say less"]
        what = "this message alone" if full.is_alone else "the conversation"
        context = counted(full.context, "token")
        text = f"the context of {context} is full: {what} takes {full.needed}, and the message is taken back"
        say(broken(f"{text}; {', '.join(ways)}, --context N sets a larger one"))

    def _say_cut(self) -> None:
        if self.args.on_full != "drop":
            self.tell("the answer is cut there; /clear begins anew, /set on-full drop forgets the oldest turns")

    def tell_stats(self) -> None:
        """Figures of the last answer, and of what was said."""
        if self._last is None:
            self.tell("nothing was answered yet")
            return
        self.tell(figures(self.model, self._last, self.args, self.conversation.chosen))
        turns = sum(turn["role"] == "user" for turn in self.conversation.turns)
        self.tell(f"{counted(turns, 'turn')}; {self.model.threads} threads, {self.model.path}")
