"""Messages typed at a terminal: several lines, what was typed before, and a paste that is one message."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING

from prompt_toolkit import PromptSession
from prompt_toolkit.application import get_app
from prompt_toolkit.completion import Completer, Completion
from prompt_toolkit.document import Document
from prompt_toolkit.filters import Condition
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.input import create_input
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.output.color_depth import ColorDepth
from prompt_toolkit.output.vt100 import Vt100_Output

from gguflike.cli.config import state_folder
from gguflike.cli.streams import say
from gguflike.cli.talk.commands import COMMANDS
from gguflike.cli.talk.keyboard import mark_pastes, screen
from gguflike.cli.talk.loop import HOW_TO_LEAVE
from gguflike.cli.talk.piped import QUOTES

if TYPE_CHECKING:
    from prompt_toolkit.completion import CompleteEvent

PROMPT, MORE = "> ", "  "


class Editor:
    """The keyboard as a source of messages. ``keeps``: what is typed is kept for the next time."""

    is_typed = True

    def __init__(self, *, keeps: bool, colors: bool) -> None:
        terminal = screen()
        output = None if terminal is None else Vt100_Output.from_pty(terminal, os.environ.get("TERM"))
        if output is not None:
            # No question for the cursor's place: a late answer would be left to the shell as if it had been typed.
            output.enable_cpr = False
        self._session: PromptSession[str] = PromptSession(
            PROMPT,
            multiline=True,
            prompt_continuation=MORE,
            history=_history() if keeps else InMemoryHistory(),
            key_bindings=_bindings(),
            completer=_Commands(),
            complete_while_typing=False,
            enable_open_in_editor=True,
            enable_suspend=True,
            color_depth=None if colors else ColorDepth.DEPTH_1_BIT,
            input=create_input(sys.stdin),
            output=output,
        )

    def ask(self, begun: str) -> str | None:
        """The next message; None where the user leaves by Ctrl-D."""
        while True:
            try:
                words = self._session.prompt(default=begun)
            except KeyboardInterrupt:
                begun = ""
                say(HOW_TO_LEAVE)
            except EOFError:
                return None
            else:
                return _unquoted(words)
            finally:
                mark_pastes()  # also of what is pasted during an answer; the editor has switched that off


def _unquoted(words: str) -> str:
    text = words.strip()
    if text.startswith(QUOTES):
        return text.removeprefix(QUOTES).removesuffix(QUOTES).strip("\n")
    return words.strip("\n")


def _is_open(text: str) -> bool:
    """Whether a message began with three quotation marks that have not been closed."""
    text = text.strip()
    return text.startswith(QUOTES) and (len(text) < 2 * len(QUOTES) or not text.endswith(QUOTES))


def _bindings() -> KeyBindings:
    """Enter ends a message, but for one in quotation marks; with Alt or after Esc it begins another line."""
    keys = KeyBindings()
    is_open = Condition(lambda: _is_open(get_app().current_buffer.text))

    @keys.add("enter", filter=~is_open)
    def _end(event: KeyPressEvent) -> None:
        event.current_buffer.validate_and_handle()

    @keys.add("escape", "enter")
    @keys.add("c-j")
    def _line(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    @keys.add("c-c")
    def _stop(event: KeyPressEvent) -> None:
        """Ctrl-C takes back what is typed; where nothing is, `Editor.ask` says how to leave."""
        if event.current_buffer.text:
            event.current_buffer.reset()
        else:
            event.app.exit(exception=KeyboardInterrupt)

    return keys


def _history() -> History:
    """What was typed before, in a file that nobody else can read. Where it cannot be kept, that is said."""
    folder = state_folder()
    path = os.path.join(folder, "history")  # noqa: PTH118
    try:
        os.makedirs(folder, mode=0o700, exist_ok=True)  # noqa: PTH103
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600))
    except OSError as error:
        say(f"what is typed is not kept: {path}: {error.strerror}; --no-history keeps nothing without a word")
        return InMemoryHistory()
    return _File(path)


class _File(FileHistory):
    """A history in a file, whatever bytes were typed: before 3.0.53 prompt-toolkit fails at those that are no UTF-8."""

    def store_string(self, string: str) -> None:
        super().store_string(string.encode("utf-8", "replace").decode("utf-8"))


class _Commands(Completer):
    """The names of commands, at the beginning of a message."""

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:  # noqa: ARG002
        typed = document.text_before_cursor
        if typed.startswith("/") and " " not in typed:
            for name, command in COMMANDS.items():
                if name.startswith(typed[1:]):
                    yield Completion(f"/{name}", -len(typed), display_meta=command.help)
