"""One sitting: what was said is answered, or it is said why not."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

from gguflike.cli.answer import Answer, document, figures, say_how_it_went, show
from gguflike.cli.output import broken, flags_of
from gguflike.cli.screen import DIM, PLAIN, Screen, is_colored
from gguflike.cli.streams import say
from gguflike.cli.talk.conversation import Conversation, FullError
from gguflike.errors import GGUFLikeError, TemplateError, counted

if TYPE_CHECKING:
    from gguflike.cli.generation import Begun
    from gguflike.progress import Progress
    from gguflike.runner import Model


class Session:
    """A conversation and who holds it: where it ``is_typed``, somebody who can be asked again. ``begun`` is what the
    next message begins with, ``is_over`` whether somebody said goodbye, ``documents`` all answers. Where it
    ``is_silent``, they are not shown."""

    def __init__(self, conversation: Conversation, *, is_typed: bool, is_silent: bool = False) -> None:
        self.conversation, self.is_typed, self._is_silent = conversation, is_typed, is_silent
        self.documents: list[dict[str, Any]] = []
        self.begun, self.is_over = "", False
        self._last: Answer | None = None

    @property
    def model(self) -> Model:
        return self.conversation.model

    @property
    def args(self) -> argparse.Namespace:
        return self.conversation.args

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
        screen = None if self._is_silent else Screen(self.args)
        return show(self._begin, self.args, screen, stoppable=self.is_typed)

    def _begin(self, progress: Progress) -> Begun:
        if self.args.on_full != "drop":
            return self.conversation.begin(progress)
        begun, dropped = self.conversation.begin_dropping(progress)
        if dropped:
            self.tell(f"the context is full: dropped the oldest {counted(dropped, 'turn')}")
        return begun

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
        self.tell(f"{counted(turns, 'turn')}; {counted(self.model.threads, 'thread')}, {self.model.path}")
