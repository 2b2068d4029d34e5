"""What the checks of several parts ask."""

from __future__ import annotations

from gguflike.errors import UnsupportedError


def multiple(name: str, value: int, step: int) -> None:
    """UnsupportedError where a size is no multiple of what the ops work on."""
    if value % step:
        raise UnsupportedError(f"{name} of this model", expected=f"a multiple of {step}", got=value)
