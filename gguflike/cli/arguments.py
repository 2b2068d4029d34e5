"""Types of command-line values, with their limits."""

from __future__ import annotations

import argparse


def _number(text: str, low: float, high: float, whole: bool) -> float:
    try:
        number = int(text) if whole else float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"not a number: {text!r}") from None
    if not low <= number <= high:
        raise argparse.ArgumentTypeError(f"{text} is not from {low:g} to {high:g}")
    return number


def positive(text: str) -> int:
    return int(_number(text, 1, 1 << 31, True))


def count(text: str) -> int:
    return int(_number(text, 0, 1 << 31, True))


def at_least_zero(text: str) -> float:
    return _number(text, 0, 1e6, False)


def share(text: str) -> float:
    return _number(text, 0, 1, False)
