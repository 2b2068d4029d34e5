"""Fixed ranges of activations, in the words of a file's metadata (spec/metadata.md).

What a matrix multiplies becomes 8 bits by a step that is known before: ``clip / 127``. Tokens of which a value is
beyond ``massive`` are rounded by what they hold, as all are without ranges.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from gguflike.container import Typed, ValueType
from gguflike.errors import GGUFError, UnsupportedError

PREFIX = "gguflike.activations."


class Fixed(NamedTuple):
    """The range of what a matrix multiplies: the largest magnitude that codes reach, and that from which on a token is
    rounded by what it holds."""

    clip: float
    massive: float


def values(
    ranges: Mapping[str, Fixed], hybrid: Collection[str], observer: str, texts: Sequence[str], sha256: str, tokens: int
) -> dict[str, Typed]:
    """The metadata: ``ranges`` by names of matrices, for which of them ``hybrid`` uses them, and how they were found:
    by which ``observer``, on how many ``tokens`` of ``texts``, whose SHA-256 all together is ``sha256``, in hex."""
    made = {
        "matrices": Typed(list(ranges), ValueType.ARRAY, ValueType.STRING),
        "clip": Typed([each.clip for each in ranges.values()], ValueType.ARRAY, ValueType.FLOAT32),
        "massive": Typed([each.massive for each in ranges.values()], ValueType.ARRAY, ValueType.FLOAT32),
        "hybrid": Typed([name in hybrid for name in ranges], ValueType.ARRAY, ValueType.BOOL),
        "observer": Typed(observer, ValueType.STRING),
        "texts": Typed(list(texts), ValueType.ARRAY, ValueType.STRING),
        "sha256": Typed(sha256, ValueType.STRING),
        "tokens": Typed(tokens, ValueType.UINT64),
    }
    return {PREFIX + name: value for name, value in made.items()}


def fixed(metadata: Mapping[str, Any], mode: str, path: str) -> dict[str, Fixed]:
    """The ranges by names of matrices that ``mode`` ("static" or "hybrid") uses; of "hybrid" there may be none.

    UnsupportedError where the file at ``path`` has none, GGUFError where what it says of them makes no sense.
    """
    columns = {name: metadata.get(PREFIX + name) for name in ("matrices", "clip", "massive", "hybrid")}
    if all(each is None for each in columns.values()):
        raise UnsupportedError(
            f"the file says no ranges of activations, so that they cannot be {mode}",
            path=path,
            field=f"{PREFIX}clip",
            remedy=f"`gguflike calibrate {path} --activations` measures them and writes them into the file",
        )
    listed = [list(each) if isinstance(each, Iterable) else [] for each in columns.values()]
    if len(set(map(len, listed))) != 1 or not listed[0] or not all(map(_is_valid, *listed)):
        raise GGUFError(
            "ranges of activations make no sense",
            path=path,
            field=PREFIX.rstrip("."),
            expected="arrays of one length: names, positive clip and massive, and whether hybrid uses them",
            got={name: None if each is None else str(each)[:60] for name, each in columns.items()},
            remedy=f"`gguflike calibrate {path} --activations` writes them anew",
        )
    return {
        name: Fixed(float(clip), float(massive))
        for name, clip, massive, hybrid in zip(*listed, strict=True)
        if mode == "static" or hybrid
    }


def _is_valid(name: Any, clip: Any, massive: Any, hybrid: Any) -> bool:
    try:
        numbers = float(clip), float(massive)
    except (TypeError, ValueError):
        return False
    return isinstance(name, str) and all(math.isfinite(each) and each > 0 for each in numbers) and hybrid in (0, 1)
