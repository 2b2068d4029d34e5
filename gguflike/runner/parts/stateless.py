"""What the modules of parts that keep nothing from token to token take for their state."""

from __future__ import annotations

from typing import Any


def new_state(part: Any, context: int, cache_type: str) -> None:
    """None: nothing is kept."""


def bytes_per_position(part: Any, cache_type: str) -> int:  # noqa: ARG001 - as of those that keep something
    """Bytes that are kept for one more position: 0."""
    return 0
