"""What was said in a conversation, and how the next answer fits into the context. Nothing here prints."""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from typing import TYPE_CHECKING, Any

from gguflike import jsontext
from gguflike.cli.generation import begin_answer, begin_text, choices
from gguflike.cli.talk import files
from gguflike.cli.talk.files import FileError
from gguflike.errors import GGUFLikeError, UnsupportedError

if TYPE_CHECKING:
    from gguflike.cli.generation import Begun, Drafter
    from gguflike.progress import Progress
    from gguflike.runner import Model

ROOM_SHARE = 4  # of the context, one part of so many is kept free for an answer where turns are dropped


class FullError(Exception):
    """What was said does not fit into the context. ``needed`` and ``context`` are tokens."""

    def __init__(self, needed: int, context: int, is_alone: bool) -> None:
        self.needed, self.context, self.is_alone = needed, context, is_alone
        super().__init__(f"{needed} of {context} tokens")


class Conversation:
    """Messages as the chat template takes them, or where there is no template (``is_plain``), pieces of one text.

    ``chosen`` is how tokens of the last answer were chosen, and ``drafter`` has what guesses them.
    """

    def __init__(self, model: Model, args: argparse.Namespace, drafter: Drafter, *, is_plain: bool = False) -> None:
        self.model, self.args, self.drafter, self.is_plain = model, args, drafter, is_plain
        self.system: str | None = args.system
        self.turns: list[dict[str, Any]] = []  # of user and assistant, by turns
        self.chosen: dict[str, Any] = {}

    @property
    def messages(self) -> list[dict[str, Any]]:
        """All of it, the system message first."""
        system = [{"role": "system", "content": self.system}] if self.system else []
        return [*system, *self.turns]

    @property
    def last_words(self) -> str | None:
        """What the user said last."""
        return next((turn["content"] for turn in self.turns[::-1] if turn["role"] == "user"), None)

    def say(self, words: str) -> None:
        """Add what the user says."""
        self.turns.append({"role": "user", "content": words})

    def hear(self, answer: str) -> None:
        """Add what the model says."""
        self.turns.append({"role": "assistant", "content": answer})

    def undo(self) -> None:
        """Take the last words of the user back, and what was answered, if there are some."""
        while self.turns and self.turns.pop()["role"] != "user":
            pass

    def clear(self) -> None:
        """Forget all but the system message."""
        self.turns.clear()

    def begin(self, progress: Progress | None) -> Begun:
        """Begin to answer what was said last. `FullError` where it does not fit into the context."""
        self.chosen = choices(self.args) | self.drafter.options(self.model)
        return self._begun(progress)

    def _begun(self, progress: Progress | None) -> Begun:
        try:
            if self.is_plain:
                text = "".join(turn["content"] for turn in self.turns)
                return begin_text(self.model, text, self.args, self.chosen, progress)
            return begin_answer(self.model, self.messages, self.args, self.chosen, progress)
        except UnsupportedError as error:
            if isinstance(error.got, int) and error.got > self.model.context:
                raise FullError(error.got, self.model.context, self._is_one_turn) from None
            raise

    @property
    def _is_one_turn(self) -> bool:
        return [turn["role"] for turn in self.turns].count("user") <= 1

    def begin_dropping(self, progress: Progress | None) -> tuple[Begun, int]:
        """The same, where the oldest turns are forgotten until what is left fits, with room for an answer; also how
        many were. `FullError` where even the last does not fit: then, as after any other error, nothing is forgotten.
        """
        self.chosen = choices(self.args) | self.drafter.options(self.model)
        dropped, room, before = 0, self.model.context // ROOM_SHARE, self.turns[:]
        try:
            while True:
                try:
                    begun = self._begun(progress)
                except FullError as full:
                    if full.is_alone:
                        raise
                else:
                    if self._is_one_turn or begun.stream.generation.prompt_tokens + room <= self.model.context:
                        return begun, dropped
                del self.turns[0]
                while self.turns[0]["role"] != "user":
                    del self.turns[0]
                dropped += 1
        except BaseException:
            self.turns = before
            raise

    # Files

    def save(self, path: str, *, overwrite: bool) -> None:
        """Write the messages as JSON, whole or not at all. `FileError` where there is such a file already, or it cannot
        be written."""
        place = os.path.expanduser(path)  # noqa: PTH111
        files.check_replaceable(path, overwrite)
        text = json.dumps({"messages": self.messages}, indent=2, ensure_ascii=False) + "\n"
        folder = os.path.dirname(place) or "."  # noqa: PTH120
        temporary = None
        try:
            with tempfile.NamedTemporaryFile(dir=folder, prefix=".gguflike-", delete=False) as file:
                temporary = file.name
                file.write(text.encode("utf-8", "replace"))
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, place)  # noqa: PTH105
        except OSError as error:
            if temporary is not None and os.path.lexists(temporary):
                os.unlink(temporary)  # noqa: PTH108
            raise FileError(f"{path}: {error.strerror}") from None

    def load(self, path: str) -> None:
        """Take the messages of a file in place of these. `FileError` where they are none that can be gone on with."""
        try:
            found = jsontext.parsed(files.read(path).decode())
        except ValueError as error:
            raise FileError(f"{path} is no JSON: {error}") from None
        messages = found.get("messages") if isinstance(found, dict) else found
        self.system, self.turns = self._checked(path, messages)

    def _checked(self, path: str, messages: Any) -> tuple[str | None, list[dict[str, Any]]]:
        from gguflike.chat.messages import check_messages

        try:
            check_messages(messages)
        except GGUFLikeError as error:
            raise FileError(f"{path}: {error}") from None
        texts = [message.get("content") for message in messages]
        roles = [message["role"] for message in messages]
        system = texts[0] if roles[:1] == ["system"] else None
        turns = roles[1:] if roles[:1] == ["system"] else roles
        if not all(isinstance(text, str) for text in texts) or not {"user", "assistant"}.issuperset(turns):
            raise FileError(f"{path}: expected messages of user and assistant that are text; got {', '.join(roles)}")
        if turns[:1] == ["assistant"]:
            raise FileError(f"{path}: expected that the user speaks first; got {', '.join(roles)}")
        kept = [{"role": role, "content": text} for role, text in zip(roles, texts, strict=True)]
        return system, kept[len(roles) - len(turns) :]
