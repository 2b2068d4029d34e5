"""Types of command-line values, with their limits."""

from __future__ import annotations

import argparse

#: Help on an argument that `gguflike.locate` takes.
MODEL = "GGUF file; or one of the Hub, org/repo[:TYPE] or hf://org/repo/file.gguf; or a URL"


def _number(text: str, low: float, high: float, whole: bool) -> float:
    try:
        number = int(text) if whole else float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"not a number: {text!r}") from None
    if not low <= number <= high:
        limits = f"{low} to {high}" if whole else f"{low:g} to {high:g}"
        raise argparse.ArgumentTypeError(f"{text} is not from {limits}")
    return number


def positive(text: str) -> int:
    return int(_number(text, 1, 1 << 31, True))


def count(text: str) -> int:
    return int(_number(text, 0, 1 << 31, True))


def seed(text: str) -> int:
    try:
        return int(_number(text, 0, (1 << 64) - 1, True))
    except argparse.ArgumentTypeError as error:
        raise argparse.ArgumentTypeError(f"{error}; leave --seed out for another text each time") from None


def at_least_zero(text: str) -> float:
    return _number(text, 0, 1e6, False)


def share(text: str) -> float:
    return _number(text, 0, 1, False)
