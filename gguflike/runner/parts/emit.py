"""The functions that every kind of mixer implements, by the type of the part."""

from __future__ import annotations

from functools import singledispatch
from typing import Any

from gguflike.errors import UnsupportedError
from gguflike.families.parts import Norm
from gguflike.runner.schedule import Schedule
from gguflike.runner.state import State
from gguflike.runner.weights import LayerWeights


@singledispatch
def check(mixer: Any) -> None:
    """UnsupportedError where the ops cannot compute the mixer, or not with its sizes."""
    raise UnsupportedError(f"no ops for {type(mixer).__name__} in this version", got=mixer)


@singledispatch
def new_state(mixer: Any, context: int, cache_type: str) -> State | None:  # noqa: ARG001 - for those that keep one
    """What the mixer keeps from token to token, for up to ``context`` positions; None where it keeps nothing."""
    return None


@singledispatch
def bytes_per_position(mixer: Any, cache_type: str) -> int:  # noqa: ARG001 - for those that keep something
    """Bytes that the mixer's state takes for one more position."""
    return 0


@singledispatch
def emit(mixer: Any, s: Schedule, weights: LayerWeights, state: Any, norm: Norm, x: int) -> None:
    """Add ``x + mixer(norm(x))`` for float32 (tokens, n_embd) at the address ``x``."""
    raise NotImplementedError(type(mixer).__name__)


def multiple(name: str, value: int, step: int) -> None:
    """UnsupportedError where a size is no multiple of what the ops work on."""
    if value % step:
        raise UnsupportedError(f"{name} of this model", expected=f"a multiple of {step}", got=value)
