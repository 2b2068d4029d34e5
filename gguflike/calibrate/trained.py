"""A matrix on the grid of its block type while it is trained: what is moved are real numbers behind its super-scales,
integers and codes, and what the model computes with is, at every step, what the blocks would decode to.

Gradients go straight through rounding (arXiv 1308.3432), to scales as LSQ says (arXiv 1902.08153): a weight is
``v = s * level - b``, and where its level is chosen anew as the nearest to ``t = (w + b) / s``, the slope of v by s is
``level - t``, by b 0 and by w 1, unless t lies outside of all levels, where these are ``level``, -1 and 0.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from gguflike.calibrate.grids import Grid, Numbers

Floats = npt.NDArray[np.float32]
Moves = Literal["scales", "integers", "codes"]
MOVES: tuple[Moves, ...] = ("scales", "integers", "codes")

HEADROOM = 0.45
"""How far a weight starts from its level, in distances of levels: so no code changes before the first step."""
_MOST = np.float32(65504)  # of float16


class Trained:
    """``numbers`` on a ``grid``, of which move: super-scales, with "integers" also integer scales and minima, with
    "codes" all.

    ``parameters`` are what is trained, by name; they are changed in place. "d" and "m" are logarithms of factors of the
    super-scales, so that signs stay; "scales" and "minima" are positions in the grid's tables; "weights" are the real
    weights behind the codes, which begin near ``floats``, the float matrix (n, k).
    """

    def __init__(self, grid: Grid, numbers: Numbers, moves: Moves, floats: Floats | None = None) -> None:
        self.grid, self._start = grid, numbers
        self.parameters: dict[str, Floats] = {}
        if grid.d_at.size:
            self.parameters["d"] = np.zeros_like(numbers.d)
        if grid.m_at.size:
            self.parameters["m"] = np.zeros_like(numbers.m)
        if moves != "scales" and grid.scales_at.size and linear_step(grid.scales):
            self.parameters["scales"] = numbers.scales.astype(np.float32)
        if moves != "scales" and grid.minima_at.size and linear_step(grid.minima):
            self.parameters["minima"] = numbers.minima.astype(np.float32)
        self.distance = float(np.abs(grid.factors(numbers)[0]).mean()) * float(np.diff(grid.levels).min())
        """Of neighbouring levels, in weights, on average."""
        if moves == "codes":
            assert floats is not None, "codes move from the float weights"
            self.parameters["weights"] = self._near(floats)

    def _near(self, floats: Floats) -> Floats:
        values, (factor, _) = self.grid.values(self._start), self.grid.factors(self._start)
        room = np.repeat(np.abs(factor), self.grid.size, axis=1)
        room *= np.float32(HEADROOM * np.diff(self.grid.levels).min())
        near: Floats = values + np.clip(floats - values, -room, room)
        return near

    def numbers(self) -> Numbers:
        """The parameters as a file holds them."""
        start, moved = self._start, self.parameters
        d = scaled(start.d, moved.get("d"))
        m = scaled(start.m, moved.get("m"))
        scales = _rounded(moved["scales"], self.grid.scales) if "scales" in moved else start.scales
        minima = _rounded(moved["minima"], self.grid.minima) if "minima" in moved else start.minima
        numbers = Numbers(start.codes, scales, minima, d, m)
        if "weights" not in moved:
            return numbers
        real, factor = self._real(numbers)
        return numbers._replace(codes=np.where(factor == 0, start.codes, _nearest(self.grid, real)))

    def _real(self, numbers: Numbers) -> tuple[Floats, Floats]:
        """The real levels ``t`` of the weights, and the factor of each."""
        factor, shift = (np.repeat(each, self.grid.size, axis=1) for each in self.grid.factors(numbers))
        with np.errstate(divide="ignore", invalid="ignore"):
            real = (self.parameters["weights"] + shift) / factor
        return np.nan_to_num(real, nan=0.0), factor

    def pull(self, numbers: Numbers, gradient: Floats) -> dict[str, Floats]:
        """The gradient by each parameter, from that by the values (n, k) of ``numbers``, which the parameters gave."""
        grid, found = self.grid, dict[str, Floats]()
        by_factor, by_shift = gradient * grid.levels[numbers.codes], -gradient
        if "weights" in self.parameters:
            real, _ = self._real(numbers)
            inside = (real >= grid.levels[0]) & (real <= grid.levels[-1])
            found["weights"] = gradient * inside
            by_factor -= found["weights"] * np.where(inside, real, 0)
            by_shift += found["weights"]
        by_factor, by_shift = summed(by_factor, grid.size), summed(by_shift, grid.size)
        per = grid.block // grid.size
        for name, integers, by, table, factors, positions in (
            ("d", "scales", by_factor, grid.scales, numbers.d, numbers.scales),
            ("m", "minima", by_shift, grid.minima, numbers.m, numbers.minima),
        ):
            if name in self.parameters:
                found[name] = summed(by * table[positions], per) * factors
            if integers in self.parameters:
                moved = self.parameters[integers]
                within = (moved >= 0) & (moved <= len(table) - 1)
                found[integers] = by * np.repeat(factors, per, axis=1) * np.float32(linear_step(table)) * within
        return found


def linear_step(table: Floats) -> float:
    """The distance of neighbouring entries where all are equally far apart, else 0."""
    steps = np.diff(table)
    return float(steps[0]) if len(steps) and (steps == steps[0]).all() else 0.0


def scaled(values: Floats, logarithm: Floats | None) -> Floats:
    """Super-scales times factors of which these are the logarithms, as float16 holds them."""
    if logarithm is None:
        return values
    scaled = np.clip(values * np.exp(logarithm), -_MOST, _MOST)
    return scaled.astype(np.float16).astype(np.float32)


def _rounded(positions: Floats, table: Floats) -> npt.NDArray[np.uint8]:
    return np.asarray(np.rint(np.clip(positions, 0, len(table) - 1)).astype(np.uint8))


def _nearest(grid: Grid, real: Floats) -> npt.NDArray[np.uint8]:
    """The positions of the levels nearest to ``real``."""
    if grid.step:
        positions = np.rint((real - grid.levels[0]) / np.float32(grid.step))
        return np.asarray(np.clip(positions, 0, len(grid.levels) - 1).astype(np.uint8))
    between = (grid.levels[1:] + grid.levels[:-1]) / 2
    return np.asarray(np.searchsorted(between, real), np.uint8)


def summed(x: Any, size: int) -> Floats:
    """Sums over each ``size`` neighbouring columns."""
    summed: Floats = x.reshape(len(x), -1, size).sum(axis=2)
    return summed
