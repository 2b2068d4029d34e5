"""What an engine is asked for."""

from __future__ import annotations

from collections.abc import Container, Sequence
from typing import Any

from gguflike.errors import ArgumentError, check_integer, check_texts
from gguflike.frozen import frozen
from gguflike.runner.sampling import Grammar, Sampling
from gguflike.runner.tokenizer import token_ids


@frozen
class Request:
    """One text to continue. ArgumentError and ArgumentTypeError name a field that is wrong.

    ``prompt``: token ids. ``max_tokens``: None goes on until an end token or until the context is full. ``stop``: the
    text ends before the first of these. ``logprobs``: how many of the likeliest tokens to tell beside the chosen one's
    logprob; None tells nothing. ``lookup``: tokens to guess at a time from what the text repeats. ``ignore_end``: end
    tokens are never chosen. ``cache``: what was computed of other texts may be used, and what is computed of this one
    kept for others. ``shown``: special tokens that are part of the text (`chat.Prompt.shown`).
    """

    prompt: Sequence[int]
    max_tokens: int | None = None
    sampling: Sampling = Sampling()
    stop: Sequence[str] = ()
    grammar: Grammar | None = None
    logprobs: int | None = None
    lookup: int = 0
    ignore_end: bool = False
    cache: bool = True
    shown: Container[int] = frozenset()

    def __post_init__(self) -> None:
        if not isinstance(self.sampling, Sampling):
            raise ArgumentError("no sampling", field="sampling", expected="a Sampling", got=repr(self.sampling)[:60])
        changed: dict[str, Any] = {
            "prompt": tuple(token_ids(self.prompt)),
            "stop": tuple(check_texts("stop", self.stop)),
            "lookup": check_integer("lookup", self.lookup, 0),
        }
        for name in ("max_tokens", "logprobs"):
            if getattr(self, name) is not None:
                changed[name] = check_integer(name, getattr(self, name), 0)
        self.__dict__.update(changed)


__all__ = ["Grammar", "Request"]
