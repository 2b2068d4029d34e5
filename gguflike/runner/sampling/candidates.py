"""The tokens that may still be chosen.

At first that is the whole vocabulary, as an array of logits; the first step that leaves few makes it a list of ids.
Vocabularies have up to 262,144 tokens, of which sorting takes 7 ms and `argpartition` 5 ms: as long as a small model
takes to compute them. So the few best of many are found by a bound instead: the maxima of so many columns of logits are
so many different tokens, hence the k-th best of the maxima is no better than the k-th best token, and tokens below it
need not be looked at.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from gguflike.runner.sampling import shares
from gguflike.runner.sampling.sampler import masked_logits

if TYPE_CHECKING:
    import numpy.typing as npt

    Floats = npt.NDArray[np.floating]
    Ids = npt.NDArray[np.int64]

_COLUMNS = 1024
_SORTED = 2048  # candidates that a share may leave in the order of their keys


class Candidates:
    """Logits of tokens. Until one of the methods below leaves fewer, ``whole``: token i's is ``logits[i]``.

    ``logits`` of the whole vocabulary are float32, of a list float64; ``ids`` are in the same order. One of minus
    infinity cannot be drawn.
    """

    def __init__(self, logits: npt.NDArray[np.float32]) -> None:
        """``logits`` (vocab,) are never changed; what changes some works on a copy."""
        self.logits: Floats = logits
        self._ids: Ids | None = None
        self._own = False
        self._sorted = False

    @property
    def whole(self) -> bool:
        return self._ids is None

    @property
    def ids(self) -> Ids:
        if self._ids is None:
            self._ids = np.arange(len(self.logits))
            self.logits, self._own = self.logits.astype(np.float64), True
        return self._ids

    def __len__(self) -> int:
        return len(self.logits)

    @property
    def most(self) -> float:
        """The greatest logit."""
        return float(self.logits[0] if self._sorted else self.logits.max())

    def keep(self, places: Ids, is_sorted: bool = False) -> None:
        """Leave only the candidates at ``places``."""
        self._ids = places if self._ids is None else self._ids[places]
        self.logits, self._own = self.logits[places].astype(np.float64), True
        self._sorted = is_sorted

    def keep_best(self, count: int) -> None:
        """Leave the ``count`` greatest logits, the lower id among equals."""
        if count < len(self):
            self.keep(best(self.logits, count) if count > 1 else np.array([self.logits.argmax()]))

    def keep_from(self, least: float) -> None:
        """Leave logits of at least ``least``; the greatest in any case."""
        kept = self.logits >= min(least, self.most)
        self._leave(kept, int(np.count_nonzero(kept)))

    def sort(self) -> None:
        """Order them, the greatest logit first, the lower id among equals."""
        if not self._sorted:
            ids = self.ids
            self.keep(np.lexsort((ids, -self.logits)), True)

    def keep_likeliest(self, share: float) -> None:
        """Leave the likeliest, as few as together have at least the ``share`` (below 1) of the probability; a list is
        in the order of their logits."""
        weights, total = self.weights()
        floor = self.most + math.log(self._negligible(share, total))
        self._sorted = self._keep_first(self.logits, weights, share, total, floor)

    def keep_typical(self, share: float) -> None:
        """The same of those whose surprise, -log p, is nearest to its mean; a list is in the order of that distance."""
        weights, total = self.weights()
        kind = self.logits.dtype.type
        surprise = kind(self.most + math.log(total)) - self.logits
        entropy = float(np.dot(weights, np.minimum(surprise, 1e30))) / total  # 0 times infinity is no number
        surprise -= kind(entropy)
        keys = np.negative(np.abs(surprise, out=surprise), out=surprise)
        floor = -abs(math.log(total / self._negligible(share, total)) - entropy)
        self._keep_first(keys, weights, share, total, floor)

    def _negligible(self, share: float, total: float) -> float:
        """A weight so low that all that are lower have less than what is left of ``share`` together."""
        return (1 - share) * total / len(self)

    def _keep_first(self, keys: Floats, weights: Floats, share: float, total: float, floor: float) -> bool:
        """Leave the fewest of the greatest ``keys`` whose weights have the share, and tell whether they are in the
        order of their keys, which few are. Where few are no less than ``floor``, only these are looked at if they are
        enough."""
        last = _end_above(keys, weights, share * total, floor) or shares.end(keys, weights, share * total, total)
        kept = keys >= last.key
        if last.taken < last.equal:
            kept[np.flatnonzero(keys == last.key)[last.taken :]] = False
        count = int(np.count_nonzero(kept))
        is_list = 0 < count <= _SORTED
        if is_list:
            self.keep(in_order(keys, np.flatnonzero(kept)))
        elif count:  # none where keys are no numbers
            self._leave(kept, count)
        return is_list

    def _leave(self, kept: npt.NDArray[np.bool_], count: int) -> None:
        """Leave the ``count`` candidates that are flagged, in the order in which they are."""
        if count == len(self):
            return
        if self.whole and count > len(self) // 8:  # a list of so many would only be slower
            self.logits, self._own, self._sorted = masked_logits(self.logits, kept), True, False
        else:
            self.keep(np.flatnonzero(kept), self._sorted)

    def change(self, places: Ids, logits: Floats) -> None:
        """Set the logits of the candidates at ``places``."""
        if not self._own:
            self.logits, self._own = self.logits.copy(), True
        with np.errstate(over="ignore"):  # too low for float32 is as good as forbidden
            self.logits[places] = logits
        self._sorted = False

    def scale(self, factor: float) -> None:
        """Multiply all differences of logits by ``factor``, which is above 0; the greatest becomes 0."""
        logits = self.logits - self.logits.dtype.type(self.most)
        with np.errstate(over="ignore"):
            logits *= min(
                max(factor, 1e-30), 1e30
            )  # beyond which nothing changes, but that 0 times infinity is no number
        self.logits, self._own = logits, True

    def places(self, ids: Ids) -> tuple[Ids, Ids]:
        """Which of ``ids`` (distinct) are candidates: their places in ``ids``, and their places here."""
        if self._ids is None:
            among = np.flatnonzero(ids < len(self))
            return among, ids[among]
        _, among, here = np.intersect1d(ids, self._ids, assume_unique=True, return_indices=True)
        return among, here

    def token_ids(self, places: Ids) -> Ids:
        """The ids of the candidates at ``places``."""
        return places if self._ids is None else self._ids[places]

    def weights(self) -> tuple[Floats, float]:
        """Numbers in proportion to the probabilities, the greatest 1, and their sum."""
        weights = self._weights()
        return weights, float(_sums(weights).sum())

    def _weights(self) -> Floats:
        most = self.most
        return np.exp(self.logits - self.logits.dtype.type(most) if most else self.logits)

    def draw(self, uniform: float) -> tuple[int, float]:
        """The token at the share ``uniform`` (0 to below 1) of the probability, and its own probability.

        Of a vocabulary, shares are counted column by column, so that only one has to be summed up one by one.
        """
        weights = self._weights()
        sums = np.cumsum(_sums(weights))
        column = min(int(np.searchsorted(sums, uniform * sums[-1], side="right")), len(sums) - 1)
        place = column
        if len(sums) < len(weights):
            inside = np.cumsum(weights[column :: len(sums)], dtype=np.float64)
            share = uniform * float(sums[-1]) - (float(sums[column - 1]) if column else 0.0)
            place += len(sums) * min(int(np.searchsorted(inside, share, side="right")), len(inside) - 1)
        if weights[place] == 0:  # rounding went past the last that can be drawn
            place = int(weights.argmax())
        token = place if self._ids is None else int(self._ids[place])
        return token, float(weights[place] / sums[-1])


def _sums(values: Floats) -> npt.NDArray[np.float64]:
    """The values themselves, or the sums of ``_COLUMNS`` columns of many; value i is of column i modulo that."""
    if len(values) <= 2 * _COLUMNS:
        return values.astype(np.float64, copy=False)
    whole = len(values) // _COLUMNS * _COLUMNS
    sums: npt.NDArray[np.float64] = values[:whole].reshape(-1, _COLUMNS).sum(axis=0).astype(np.float64)
    sums[: len(values) - whole] += values[whole:]
    return sums


def best(keys: Floats, count: int) -> Ids:
    """The places of the ``count`` greatest, in no order; the first among equals. Those of minus infinity may lack."""
    size, columns = len(keys), _COLUMNS
    if count >= size:
        return np.arange(size)
    while columns < 2 * count:
        columns *= 2
    if size < 8 * columns:
        bound = np.partition(keys, size - count)[size - count]
        places = np.flatnonzero(keys >= bound if bound > -np.inf else keys > bound)
    else:
        places = _from_columns(keys, count, columns)
    if len(places) > 8 * count:  # equal ones, of which only the first need to be sorted
        some = keys[places]
        least = np.partition(some, len(some) - count)[len(some) - count]
        above = some > least
        above[np.flatnonzero(some == least)[: count - int(np.count_nonzero(above))]] = True
        places = places[above]
    if len(places) > count:
        places = places[np.argsort(-keys[places], kind="stable")[:count]]
    return places


def _from_columns(keys: Floats, count: int, columns: int) -> Ids:
    """The places, in order, of all keys that are no less than the ``count``-th best maximum of a column."""
    whole = len(keys) // columns * columns
    table = keys[:whole].reshape(-1, columns)
    maxima = table.max(axis=0)
    bound = np.partition(maxima, columns - count)[columns - count]
    if bound == -np.inf:
        return np.flatnonzero(keys > bound)
    hits = np.flatnonzero(maxima >= bound)
    rows, which = np.nonzero(table[:, hits] >= bound)
    places = columns * rows + hits[which]
    return np.concatenate([places, whole + np.flatnonzero(keys[whole:] >= bound)])


def _end_above(keys: Floats, weights: Floats, wanted: float, floor: float) -> shares.End | None:
    """Where a share ends, by the keys that are no less than ``floor``; None where these are many or not enough."""
    if len(keys) <= _SORTED:
        return None
    above = keys >= floor
    if not 0 < np.count_nonzero(above) <= len(keys) // 8:
        return None
    keys, weights = keys[above], weights[above]
    total = float(weights.sum(dtype=np.float64))
    return shares.end(keys, weights, wanted, total) if total >= wanted else None


def in_order(keys: Floats, places: Ids) -> Ids:
    """``places`` in the order of their keys, the greatest first, the first among equals."""
    some = keys[places]
    if some.dtype != np.float32:
        return places[np.lexsort((places, -some))]
    # As whole numbers, which are sorted 10 times as fast: the key above, and the place below.
    bits = (0 - some).view(np.int32)  # of which no zero is negative
    upper = np.where(bits < 0, bits ^ 0x7FFFFFFF, bits).astype(np.int64)
    return np.sort((upper << 32) | places) & 0xFFFFFFFF
