"""The tokens that may still be chosen.

At first that is the whole vocabulary, as an array of logits; the first step that leaves few makes it a list of ids.
Vocabularies have up to 262,144 tokens, of which sorting takes 7 ms and `argpartition` 5 ms: as long as a small model
takes to compute them. So the few best of many are found by a bound instead: the maxima of so many columns of logits are
so many different tokens, hence the k-th best of the maxima is no better than the k-th best token, and tokens below it
need not be looked at.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from gguflike.runner.sampling import shares
from gguflike.runner.sampling.weights import flagged, masked, mean_below, weigh

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
        self._most: float | None = None  # where it is known
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
        if self._most is None:
            self._most = float(self.logits[0] if self._sorted else self.logits.max())
        return self._most

    def keep(self, places: Ids, is_sorted: bool = False) -> None:
        """Leave only the candidates at ``places``."""
        self._ids = places if self._ids is None else self._ids[places]
        self.logits, self._own = self.logits[places].astype(np.float64), True
        self._most, self._sorted = None, is_sorted

    def keep_best(self, count: int) -> None:
        """Leave the ``count`` greatest logits, the lower id among equals."""
        if count < len(self):
            self.keep(best(self.logits, count) if count > 1 else np.array([self.logits.argmax()]))

    def keep_from(self, least: float) -> None:
        """Leave logits of at least ``least``; the greatest in any case."""
        most = self.most
        kept = self.logits >= min(least, most)
        self._leave(kept, int(np.count_nonzero(kept)))
        self._most = most

    def sort(self) -> None:
        """Order them, the greatest logit first, the lower id among equals."""
        if not self._sorted:
            ids = self.ids
            self.keep(np.lexsort((ids, -self.logits)), True)

    def keep_likeliest(self, share: float) -> None:
        """Leave the likeliest, as few as together have at least the ``share`` (below 1) of the probability; a list is
        in the order of their logits."""
        most = self.most
        self._sorted = self._keep_nearest(share, None)
        self._most = most

    def keep_typical(self, share: float) -> None:
        """The same of those whose surprise, -log p, is nearest to its mean, which are those whose logit is nearest to
        the mean logit; a list is in the order of that distance."""
        self._keep_nearest(share, self.most + mean_below(self.logits, self.most))

    def _keep_nearest(self, share: float, centre: float | None) -> bool:
        """Leave what `shares.nearest` says, and tell whether it is in the order of that, as a short list is."""
        kept = shares.nearest(self.logits, self.most, share, centre)
        count = int(np.count_nonzero(kept))
        if count > _SORTED:
            self._leave(kept, count)
            return False
        places = np.flatnonzero(kept)
        self.keep(places[shares.order_of(self.logits[places], centre)])
        return True

    def _leave(self, kept: npt.NDArray[np.bool_], count: int) -> None:
        """Leave the ``count`` candidates that are flagged, in the order in which they are."""
        if count == len(self):
            return
        if self.whole and count > len(self) // 8:  # a list of so many would only be slower
            self.logits, self._own = masked(self.logits, kept), True
            self._most, self._sorted = None, False
        else:
            self.keep(flagged(kept, count), self._sorted)

    def change(self, places: Ids, logits: Floats) -> None:
        """Set the logits of the candidates at ``places``."""
        if not self._own:
            self.logits, self._own = self.logits.copy(), True
        with np.errstate(over="ignore"):  # too low for float32 is as good as forbidden
            self.logits[places] = logits
        self._most, self._sorted = None, False

    def forbid(self, flags: npt.NDArray[np.bool_]) -> None:
        """Set the logits of the candidates that are flagged to minus infinity."""
        if self.whole:
            self.logits = masked(self.logits, ~flags)
        else:
            self.logits = np.where(flags, -np.inf, self.logits)
        self._own, self._most, self._sorted = True, None, False

    def scale(self, factor: float) -> None:
        """Multiply all differences of logits by ``factor``, which is above 0; the greatest becomes 0."""
        logits = self.logits - self.logits.dtype.type(self.most)
        factor = min(max(factor, 1e-30), 1e30)  # beyond which nothing changes, but that 0 times infinity is no number
        with np.errstate(over="ignore"):
            logits *= factor
        self.logits, self._own, self._most = logits, True, 0.0

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
        """Numbers in proportion to the probabilities, the greatest 1, and their sum. They hold until the thread weighs
        again."""
        weights, columns = weigh(self.logits, self.most)
        return weights, float(columns.sum())

    def draw(self, uniform: float) -> tuple[int, float]:
        """The token at the share ``uniform`` (0 to below 1) of the probability, and its own probability.

        Of a vocabulary, shares are counted column by column, so that only one has to be summed up one by one.
        """
        weights, columns = weigh(self.logits, self.most)
        ends = np.cumsum(columns)
        column = min(int(np.searchsorted(ends, uniform * ends[-1], side="right")), len(ends) - 1)
        place = column
        if len(ends) < len(weights):
            inside = np.cumsum(weights[column :: len(ends)], dtype=np.float64)
            share = uniform * float(ends[-1]) - (float(ends[column - 1]) if column else 0.0)
            place += len(ends) * min(int(np.searchsorted(inside, share, side="right")), len(inside) - 1)
        if weights[place] == 0:  # rounding went past the last that can be drawn
            place = int(weights.argmax())
        token = place if self._ids is None else int(self._ids[place])
        return token, float(weights[place] / ends[-1])


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
        bound = _bound(keys, count, columns)
        kept = keys >= bound if bound > -np.inf else keys > bound
        among = int(np.count_nonzero(kept))
        if among > 8 * count:  # equal ones, of which only the first need to be looked at
            return _first_best(keys, count, bound)
        places = flagged(kept, among)
    if len(places) > count:
        places = places[np.argsort(-keys[places], kind="stable")[:count]]
    return places


def _bound(keys: Floats, count: int, columns: int) -> np.floating:
    """The ``count``-th best maximum of a column, than which as many keys are no less."""
    maxima = keys[: len(keys) // columns * columns].reshape(-1, columns).max(axis=0)
    bound: np.floating = np.partition(maxima, columns - count)[columns - count]
    return bound


def _first_best(keys: Floats, count: int, bound: np.floating) -> Ids:
    """The places, in order, of the ``count`` greatest keys, the first among equals, where ``bound`` is as of
    `_bound`."""
    kept = keys > bound
    above = flagged(kept, int(np.count_nonzero(kept)))
    if len(above) > count:
        return np.sort(above[best(keys[above], count)])
    missing, first = count - len(above), 8 * count
    while len(equal := np.flatnonzero(keys[:first] == bound)) < missing and first < len(keys):
        first *= 4
    return np.sort(np.concatenate([above, equal[:missing]]))
