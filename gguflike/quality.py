"""How well a model does, in the words of its file's metadata: keys, types and what they mean (spec/metadata.md).

All values have a width that is known before anything is measured, so that a header can be laid out first and filled in
at the end. Numbers are rounded to four digits, which is less than what their errors leave open: so the same conversion
gives the same header wherever it is measured, but for a figure that lies on the edge between two.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from gguflike.container import Typed, ValueType

PREFIX = "gguflike.quality."
DIGITS = 4
#: What is said of each text, each an array of FLOAT64 with a number for each text.
FIGURES = (*("perplexity", "reference_perplexity", "kl", "kl_error", "kl_median", "kl_99", "kl_999", "same_top"),)


class Protocol(NamedTuple):
    """What is measured, and how: beside which ``reference``, in chunks of so many tokens of ``context``, with which of
    them ``scored`` ("half" or "all"), on ``texts``: SHA-256 in hex by name."""

    reference: str
    context: int
    scored: str
    texts: Mapping[str, str]


def values(
    protocol: Protocol, tokens: Sequence[int], figures: Sequence[Mapping[str, float | None]]
) -> dict[str, Typed]:
    """The metadata. ``tokens`` were scored of each text; ``figures`` by name, NaN for what is None."""
    numbers = {name: [rounded(each[name]) for each in figures] for name in FIGURES}
    made = {
        "reference": Typed(protocol.reference, ValueType.STRING),
        "context": Typed(protocol.context, ValueType.UINT32),
        "scored": Typed(protocol.scored, ValueType.STRING),
        "texts": Typed(list(protocol.texts), ValueType.ARRAY, ValueType.STRING),
        "texts.sha256": Typed(list(protocol.texts.values()), ValueType.ARRAY, ValueType.STRING),
        "tokens": Typed(list(tokens), ValueType.ARRAY, ValueType.UINT64),
        **{name: Typed(each, ValueType.ARRAY, ValueType.FLOAT64) for name, each in numbers.items()},
    }
    return {PREFIX + name: value for name, value in made.items()}


def blank(protocol: Protocol) -> dict[str, Typed]:
    """The same before anything is measured: as many bytes."""
    count = len(protocol.texts)
    return values(protocol, [0] * count, [dict.fromkeys(FIGURES)] * count)


def rounded(value: float | None) -> float:
    """A number to four digits; NaN for None."""
    return math.nan if value is None or math.isnan(value) else float(f"{value:.{DIGITS}g}")


def rows(metadata: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What a file says of itself: for each text its name as ``text``, the scored ``tokens``, and the figures by name,
    None for those that are not known. Empty where it says nothing, or nothing that makes sense."""
    keys = {"text": "texts", "tokens": "tokens", **{name: name for name in FIGURES}}
    columns = {name: metadata.get(PREFIX + key) for name, key in keys.items()}
    listed = {name: list(each) for name, each in columns.items() if each is not None and hasattr(each, "__len__")}
    if len(listed) < len(columns) or len(set(map(len, listed.values()))) != 1:
        return []
    found = [dict(zip(listed, row, strict=True)) for row in zip(*listed.values(), strict=True)]
    return [{name: _plain(value) for name, value in row.items()} for row in found]


def _plain(value: Any) -> Any:
    value = value.item() if hasattr(value, "item") else value
    if isinstance(value, bytes):
        return value.decode(errors="backslashreplace")
    return None if isinstance(value, float) and not math.isfinite(value) else value
