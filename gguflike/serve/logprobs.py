"""How likely tokens were, as chat and as completions tell it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gguflike.engine import Token
    from gguflike.runner.tokenizer import Tokenizer

#: What stands for minus infinity, which JSON does not have.
LEAST = -9999.0


def _finite(logprob: float | None) -> float:
    return LEAST if logprob is None or not math.isfinite(logprob) else float(logprob)


def _bytes(tokenizer: Tokenizer, token: int) -> bytes:
    """What a token stands for; of special ones their markup, of rows without a token nothing."""
    return tokenizer.token_bytes(token) if token < tokenizer.vocab_size else b""


def _one(tokenizer: Tokenizer, token: int, logprob: float | None) -> dict[str, Any]:
    data = _bytes(tokenizer, token)
    return {"token": data.decode("utf-8", "replace"), "logprob": _finite(logprob), "bytes": list(data)}


def chat(tokenizer: Tokenizer, tokens: Sequence[Token]) -> list[dict[str, Any]]:
    """OpenAI's ``logprobs.content``, an object for each token."""
    return [
        {
            **_one(tokenizer, token.id, token.logprob),
            "top_logprobs": [_one(tokenizer, *each) for each in token.alternatives.items()],
        }
        for token in tokens
        if token.id is not None
    ]


def completion(tokenizer: Tokenizer, tokens: Sequence[Token], offset: int) -> dict[str, Any]:
    """The older form: four lists in parallel. ``offset``: where in the text these tokens begin."""
    made: dict[str, Any] = {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}
    for token in tokens:
        if token.id is None:
            continue
        text = _bytes(tokenizer, token.id).decode("utf-8", "replace")
        made["tokens"].append(text)
        made["token_logprobs"].append(_finite(token.logprob))
        made["top_logprobs"].append(
            {
                _bytes(tokenizer, each).decode("utf-8", "replace"): _finite(logprob)
                for each, logprob in token.alternatives.items()
            }
        )
        made["text_offset"].append(offset)
        offset += len(text)
    return made
