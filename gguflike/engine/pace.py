"""How long a piece of a prompt may be, so that nobody waits long for it."""

from __future__ import annotations

BESIDE_SECONDS = 0.15  # that a piece may add to what others wait for their next token,
ALONE_SECONDS = 1.0  # and to what somebody new waits for a first look
LEAST = 16  # tokens: fewer are hardly faster
SETTLED = 0.25  # how much of the newest measurement counts


class Pace:
    """Measures passes, and says how many tokens of a prompt one may have. It changes when texts come, not what they
    are."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._row_seconds = 0.0  # of one token in a pass of many; 0: not known yet

    def took(self, rows: int, seconds: float) -> None:
        """A pass of so many tokens took so long."""
        if rows < LEAST:
            return
        measured = seconds / rows
        self._row_seconds += (measured - self._row_seconds) * (SETTLED if self._row_seconds else 1.0)

    def piece(self, beside: int) -> int:
        """Tokens of a piece with so many texts being continued beside it."""
        if not self._row_seconds:
            return 4 * LEAST
        seconds = BESIDE_SECONDS if beside else ALONE_SECONDS
        return max(LEAST, min(self._most, int(seconds / self._row_seconds)))
