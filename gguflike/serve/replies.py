"""An answer put together, for those who take it whole."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import TYPE_CHECKING

from gguflike.chat.calls import Called
from gguflike.serve.speaking import Answer, Ended, Spoken

if TYPE_CHECKING:
    from gguflike.engine import Token
    from gguflike.runner import Generation


class Reply:
    """One choice: text, reasoning, calls, the tokens it was said by, and why it ended."""

    generation: Generation

    def __init__(self) -> None:
        self.text = self.reasoning = ""
        self.calls: list[Called] = []
        self.tokens: list[Token] = []
        self.reason, self.reasoning_tokens = "stop", 0

    def take(self, piece: Spoken | Ended) -> None:
        if isinstance(piece, Ended):
            self.reason, self.generation, self.reasoning_tokens = piece
            return
        self.tokens += piece.tokens
        for said in piece.said:
            if isinstance(said, Called):
                self.calls.append(said)
            elif said.reasoning:
                self.reasoning += said.text
            else:
                self.text += said.text


async def whole(making: Awaitable[Answer], choices: int = 1) -> tuple[Answer, list[Reply]]:
    """An answer when it is complete, with all its choices. It is closed."""
    made = await making
    replies = [Reply() for _ in range(choices)]
    try:
        async for pieces in made.spoken():
            for index, piece in pieces:
                if isinstance(piece, Spoken | Ended):
                    replies[index].take(piece)
    finally:
        made.close()
    return made, replies
