"""What each field of ``Sampling`` may be: a function for each, which gives the value or says what is wrong with it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from gguflike.errors import (
    ArgumentError,
    ArgumentTypeError,
    check_integer,
    check_number,
    check_text,
)

#: Magnitudes that float32 logits can bear being added or multiplied.
_MOST = 1e6


def _number(expected: str, fits: Callable[[float], bool]) -> Callable[[str, Any], float]:
    def check(name: str, value: Any) -> float:
        check_number(name, value, expected, fits)
        return float(value)

    return check


def _integer(low: int, remedy: str | None = None) -> Callable[[str, Any], int]:
    return lambda name, value: check_integer(name, value, low, None, remedy)


def _mirostat(name: str, value: Any) -> int:
    number = check_integer(name, value, 0)
    if number not in (0, 2):
        remedy = "2 is the second version, which replaces the first" if number == 1 else None
        raise ArgumentError("out of range", field=name, expected="0 or 2", got=number, remedy=remedy)
    return number


def _texts(name: str, value: Any) -> tuple[str, ...]:
    if isinstance(value, str | bytes | Mapping) or not isinstance(value, Iterable):
        raise ArgumentTypeError("not a list of texts", field=name, expected="a list of str", got=repr(value)[:60])
    texts = tuple(value)
    for text in texts:
        check_text(name, text)
    return texts


def _breakers(name: str, value: Any) -> tuple[str, ...]:
    texts = _texts(name, value)
    if "" in texts:
        raise ArgumentError("an empty text", field=name, remedy="leave it out")
    return texts


def _bias(name: str, value: Any) -> dict[int, float]:
    if not isinstance(value, Mapping):
        raise ArgumentTypeError("not a mapping", field=name, expected="{token id: number}", got=repr(value)[:60])
    made = {}
    for token, number in value.items():
        field = f"{name}[{token!r}]"
        token = check_integer(name, token, 0)
        if not (isinstance(number, float) and number == float("-inf")):  # which forbids the token
            check_number(field, number, "-1e6 to 1e6, or minus infinity", lambda x: abs(x) <= _MOST)
        made[token] = float(number)
    return made


def _seed(name: str, value: Any) -> int | None:
    return None if value is None else check_integer(name, value, 0, None, "leave it out for another text each time")


_not_negative = _number("0 or more, finite", lambda x: x >= 0)
_share = _number("0 to 1", lambda x: 0 <= x <= 1)
_cut = _number("above 0, at most 1", lambda x: 0 < x <= 1)
_penalty = _number("-1e6 to 1e6", lambda x: abs(x) <= _MOST)
_last = _integer(-1, "0 looks at no tokens, -1 at all")

CHECKS: dict[str, Callable[[str, Any], Any]] = {
    "temperature": _not_negative,
    "top_k": _integer(0),
    "top_p": _cut,
    "min_p": _number("at least 0, below 1", lambda x: 0 <= x < 1),
    "typical_p": _cut,
    "top_n_sigma": _not_negative,
    "xtc_probability": _share,
    "xtc_threshold": _share,
    "dry_multiplier": _number("0 to 1e6", lambda x: 0 <= x <= _MOST),
    "dry_base": _number("1 to 1e6", lambda x: 1 <= x <= _MOST),
    "dry_allowed_length": _integer(1),
    "dry_penalty_last_n": _last,
    "dry_sequence_breakers": _breakers,
    "mirostat": _mirostat,
    "mirostat_tau": _not_negative,
    "mirostat_eta": _not_negative,
    "repetition_penalty": _number("1e-6 to 1e6", lambda x: 1e-6 <= x <= _MOST),
    "frequency_penalty": _penalty,
    "presence_penalty": _penalty,
    "penalty_last_n": _last,
    "logit_bias": _bias,
    "order": _texts,
    "seed": _seed,
}
