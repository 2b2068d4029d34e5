"""Types of command-line values, with their limits."""

from __future__ import annotations

import argparse

#: Help on an argument that `gguflike.locate` takes.
MODEL = "GGUF file; or one of the Hub, org/repo[:TYPE] or hf://org/repo/file.gguf; or a URL"
SEEDS = 1 << 64
SHOWN = 60  # characters of a value that is none


def whole(text: str) -> int:
    """A whole number."""
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"not a whole number: {text[:SHOWN]!r}") from None


def number(text: str) -> float:
    """A number, which may be whole."""
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"not a number: {text[:SHOWN]!r}") from None


def positive(text: str) -> int:
    """A count of at least 1."""
    return _at_least(1, text)


def count(text: str) -> int:
    """A count of at least 0."""
    return _at_least(0, text)


def _at_least(low: int, text: str) -> int:
    value = whole(text)
    if not low <= value < 1 << 31:
        limits = f"{low} or more" if value < low else f"below {1 << 31}"
        raise argparse.ArgumentTypeError(f"{text[:SHOWN]} is not {limits}")
    return value


def seed(text: str) -> int:
    """A seed of random numbers; -1 stands for one that is drawn."""
    value = whole(text)
    if not -1 <= value < SEEDS:
        raise argparse.ArgumentTypeError(f"{text[:SHOWN]} is no seed: 0 to {SEEDS - 1}, or -1 for another each time")
    return value


def switch(text: str) -> bool:
    """Yes or no."""
    words = {"on": True, "yes": True, "true": True, "1": True, "off": False, "no": False, "false": False, "0": False}
    if text.casefold() not in words:
        raise argparse.ArgumentTypeError(f"{text[:SHOWN]!r} is neither on nor off")
    return words[text.casefold()]
