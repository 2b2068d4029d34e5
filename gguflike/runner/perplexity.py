"""How well a model foresees a text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from gguflike.errors import ArgumentError, check_integer
from gguflike.progress import Progress
from gguflike.runner.tokenizer import token_ids

if TYPE_CHECKING:
    from gguflike.runner.model import Model


def measure(model: Model, ids: Sequence[int], window: int, progress: Progress | None) -> float:
    """As of ``Model.perplexity``."""
    check_integer("window", window, 2)
    ids = token_ids(ids)
    total, count = 0.0, 0
    for start in range(0, len(ids), window):
        part = np.asarray(ids[start : start + window], dtype=np.int64)
        if len(part) < 2:
            break
        rows = model.logits(part.tolist())[:-1].astype(np.float64)
        rows -= rows.max(axis=1, keepdims=True)
        total += float(np.log(np.exp(rows).sum(axis=1)).sum() - rows[np.arange(len(rows)), part[1:]].sum())
        count += len(rows)
        if progress is not None:
            progress(start + len(part), len(ids), "perplexity")
    if not count:
        raise ArgumentError("perplexity of too few tokens", expected="2 or more", got=len(ids))
    return float(np.exp(total / count))
