"""JSON that others have written: a value, or a ValueError that says why it is none, whatever is in it.

Python's own reader takes NaN and Infinity, makes infinity of 1e999, and fails in a way of its own at a thousand
brackets. What it gives then is no JSON any more, and fails where it is written again, far from whoever wrote it. Of an
object that has a key twice it takes the last value without a word.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any, NoReturn

#: Half of a surrogate pair as JSON escapes it, or one of a whole pair: what no UTF-8 can hold, if it is alone.
HALF = re.compile(r"\\u[dD][89a-fA-F]")
_INFINITE = {"Infinity": math.inf, "-Infinity": -math.inf}


def parsed(text: str, *, unique: bool = False, infinite: bool = False) -> Any:
    """The value of a text.

    ``unique``: no key of an object may stand twice. ``infinite``: the same, and Infinity and -Infinity are numbers, as
    Python writes them, and what 1e999 is to it. ValueError where the text is no JSON, has a number that no float64 can
    hold, or is nested too deeply to be read.
    """
    if text.startswith("\ufeff"):
        raise ValueError("it begins with a byte order mark (BOM)")
    try:
        return (_INFINITE_TOO if infinite else _UNIQUE if unique else _DECODER).decode(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except ValueError as error:
        raise _of_json(error) from None


def first(text: str, place: int) -> tuple[Any, int]:
    """The value that begins at ``place`` and the place behind it. ValueError as of `parsed`."""
    try:
        return _DECODER.raw_decode(text, place)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except ValueError as error:
        raise _of_json(error) from None


def _of_json(error: ValueError) -> ValueError:
    """The same without Python's advice for a number of thousands of digits, which is for who writes programs."""
    return ValueError("a whole number of thousands of digits") if "set_int_max_str_digits" in str(error) else error


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _infinite(name: str) -> float:
    return _INFINITE[name] if name in _INFINITE else _no_number(name)


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:40]} is beyond what numbers are here")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise ValueError(f"duplicate key {key[:80]!r}")
            seen.add(key)
    return table


_DECODER = json.JSONDecoder(parse_constant=_no_number, parse_float=_finite)
_UNIQUE = json.JSONDecoder(parse_constant=_no_number, parse_float=_finite, object_pairs_hook=_unique)
_INFINITE_TOO = json.JSONDecoder(parse_constant=_infinite, object_pairs_hook=_unique)
