"""JSON that somebody sent, a model wrote or a user typed: a value, or a ValueError, whatever is in it.

Python's own reader takes NaN and Infinity, makes infinity of 1e999, and fails in a way of its own at a thousand
brackets. What it gives then is no JSON any more, and fails where it is written again, far from whoever wrote it.
"""

from __future__ import annotations

import json
import math
from typing import Any, NoReturn


def parsed(text: str) -> Any:
    """The value of a text. ValueError where it is no JSON, or has a number that no float64 can hold, or is nested too
    deeply to be read."""
    try:
        return _DECODER.decode(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def first(text: str, place: int) -> tuple[Any, int]:
    """The value that begins at ``place`` and the place behind it. ValueError as of `parsed`."""
    try:
        return _DECODER.raw_decode(text, place)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:40]} is beyond what numbers are here")
    return value


_DECODER = json.JSONDecoder(parse_constant=_no_number, parse_float=_finite)
