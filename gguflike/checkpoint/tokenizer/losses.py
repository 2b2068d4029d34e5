"""What of a tokenizer a GGUF file cannot say: told in notices, or refused where ids of ordinary texts would differ."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from gguflike.errors import GGUFLikeError


class Losses:
    """Collects what is lost on the way, and keeps the source without it.

    ``notices`` are sentences for the plan. ``reference`` is the source as tokenizer.json without what the notices speak
    of: the ids that it gives are those that the file must give. ``words`` are further texts in which a difference would
    show. ``surrounded`` says whether what encoding puts around a text is kept.
    """

    def __init__(self, document: dict[str, Any], lenient: bool = False) -> None:
        self.notices: list[str] = []
        self.reference = {**document, "truncation": None, "padding": None}
        self.words: list[str] = []
        self.surrounded = True
        self.lenient = lenient

    def say(self, notice: str) -> None:
        """Tell what texts of a special kind lose."""
        self.notices.append(notice)

    def differs(self, error: GGUFLikeError) -> None:
        """Refuse what changes the ids of ordinary texts; tell of it where the caller has accepted that."""
        if not self.lenient:
            raise error
        self.notices.append(str(error))


def listed(texts: Iterable[str], most: int = 3) -> str:
    """The first of some tokens, quoted, and how many more there are."""
    shown = [repr(text) for text in texts]
    rest = len(shown) - most
    return ", ".join(shown[:most]) + (f" and {rest} more" if rest > 0 else "")
