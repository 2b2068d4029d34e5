"""Messages and commands, one after the other: whatever goes wrong with one, the next is read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from gguflike.cli import interrupts
from gguflike.cli.output import broken
from gguflike.cli.streams import say
from gguflike.cli.talk import commands
from gguflike.cli.talk.files import FileError

if TYPE_CHECKING:
    from gguflike.cli.talk.session import Session

HOW_TO_LEAVE = "Ctrl-D or /bye leaves"


class Source(Protocol):
    """Where messages come from. ``is_typed``: somebody sits there, who can be asked again."""

    is_typed: bool

    def ask(self, begun: str) -> str | None:
        """The next message, which may already be ``begun``; None where there will be no more."""


def converse(session: Session, source: Source) -> int:
    """Until it is over. Returns how many messages and commands there were."""
    count = 0
    while not session.is_over:
        begun, session.begun = session.begun, ""
        if interrupts.clear():
            say(HOW_TO_LEAVE)
        words = source.ask(begun)
        if words is None:
            break
        if not words.strip() and not (session.conversation.is_plain and session.conversation.turns):
            continue
        count += 1
        try:
            if commands.is_command(words.strip()):
                commands.do(session, words.strip())
            else:
                session.answer(commands.message(words))
        except (commands.Mistake, FileError) as error:
            say(broken(str(error)))
        except KeyboardInterrupt:  # while a file is read, or a long prompt
            if not session.is_typed:
                raise
            interrupts.clear()
            say("stopped")
    return count
