"""A matrix on points of a codebook (IQ1, IQ2, IQ3) while it is trained, as `trained` does it for scalar levels.

A weight is ``v = s * p`` with p a coordinate of the point of its octet and s = unit * d * (2 k + 1). Codes that move
are those of the point nearest to the real weights w, whose slope is 1; that of s is then p - w / s, and p where w lies
outside of all levels. Deltas (of IQ1) stay.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from gguflike.blocks import BlockFormat
from gguflike.calibrate.codebook import values_of
from gguflike.calibrate.trained import HEADROOM, Moves, scaled, summed
from gguflike.frozen import frozen
from gguflike.kernels.engine.threads import run_rows
from gguflike.kernels.rounding.nearest import nearest_points
from gguflike.kernels.rounding.octets import Blocks
from gguflike.kernels.rounding.storage import Storage, pack, unpack
from gguflike.kernels.rounding.tree import OCTET

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]


@frozen
class Codebook:
    """A codebook type and its blocks as numbers: for it what `Grid` is for types of scalar levels."""

    kind: Storage

    @property
    def format(self) -> BlockFormat:
        return self.kind.format

    def parse(self, data: Bytes) -> Blocks:
        """The numbers of rows of blocks, ``data`` uint8 (n, row bytes)."""
        return unpack(self.kind, data)

    def pack(self, numbers: Blocks) -> Bytes:
        """The blocks that hold ``numbers``: uint8 (n, row bytes)."""
        return pack(self.kind, numbers)

    def values(self, numbers: Blocks) -> Floats:
        """The weights, float32 (n, k): bit for bit what the blocks decode to."""
        return values_of(self.kind, numbers, None)


class TrainedPoints:
    """``numbers`` of a ``form``, of which move: super-scales, with "integers" also integer scales, with "codes" all.

    ``parameters`` as of `trained.Trained`.
    """

    def __init__(self, form: Codebook, numbers: Blocks, moves: Moves, floats: Floats | None = None) -> None:
        self.form, self._start = form, numbers
        self.parameters: dict[str, Floats] = {"d": np.zeros_like(numbers.d)}
        if moves != "scales" and form.kind.scale.most > 0:
            self.parameters["scales"] = numbers.k.astype(np.float32)
        self.distance = float(self._scales(numbers).mean()) / form.kind.tree.per_step
        """Of neighbouring levels, in weights, on average."""
        if moves == "codes":
            assert floats is not None, "codes move from the float weights"
            self.parameters["weights"] = self._near(floats)

    def _near(self, floats: Floats) -> Floats:
        """Weights on the way from the values to ``floats``, as far as they have the codes that they begin with."""
        values = self.form.values(self._start)
        step: Floats = floats - values
        near: Floats = values.copy()
        left = np.ones((len(values), values.shape[1] // OCTET), bool)
        for share in (1.0, 0.5, 0.25, 0.125):
            found = self._nearest(self._start, values + np.float32(share) * step)
            stays = (found == self._start.codes).reshape(*left.shape, OCTET).all(axis=2) & left
            each = np.repeat(stays, OCTET, axis=1)
            near[each] += np.float32(2 * HEADROOM * share) * step[each]
            left &= ~stays
        return near

    def _nearest(self, numbers: Blocks, weights: Floats) -> Bytes:
        codes: Bytes = np.empty(numbers.codes.shape, np.uint8)
        of = self.form.kind
        run_rows(nearest_points, len(codes), of.tree, of.scale, numbers, weights, codes)
        return codes

    def _units(self, numbers: Blocks) -> Floats:
        """What the scale of each sub-block is odd multiples of, float32 (n, k / size)."""
        per = numbers.k.shape[1] // numbers.d.shape[1]
        units: Floats = np.repeat(numbers.d, per, axis=1) * np.float32(self.form.kind.scale.unit)
        return units

    def _scales(self, numbers: Blocks) -> Floats:
        """Those of each sub-block, float32 (n, k / size)."""
        scales: Floats = self._units(numbers) * (2 * numbers.k.astype(np.float32) + 1)
        return scales

    def numbers(self) -> Blocks:
        """The parameters as a file holds them."""
        moved, found = self.parameters, self._start._replace(d=scaled(self._start.d, self.parameters["d"]))
        if "scales" in moved:
            k = np.rint(np.clip(moved["scales"], 0, self.form.kind.scale.most)).astype(np.uint8)
            found = found._replace(k=k)
        if "weights" in moved:
            found = found._replace(codes=self._nearest(found, moved["weights"]))
        return found

    def pull(self, numbers: Blocks, gradient: Floats) -> dict[str, Floats]:
        """The gradient by each parameter, from that by the values (n, k) of ``numbers``, which the parameters gave."""
        kind, found = self.form.kind, dict[str, Floats]()
        tree, size, scales = kind.tree, kind.scale.size, self._scales(numbers)
        points = tree.levels.astype(np.float32)[numbers.codes]
        points += np.repeat(tree.deltas.astype(np.float32)[numbers.deltas], OCTET, axis=1)
        by_scale = gradient * points
        if "weights" in self.parameters:
            with np.errstate(divide="ignore", invalid="ignore"):
                real = np.nan_to_num(self.parameters["weights"] / np.repeat(scales, size, axis=1), nan=0.0)
            inside = (real >= tree.levels[0] + tree.deltas.min()) & (real <= tree.levels[-1] + tree.deltas.max())
            found["weights"] = gradient * inside
            by_scale -= found["weights"] * np.where(inside, real, 0)
        by_scale = summed(by_scale, size)
        found["d"] = summed(by_scale * scales, scales.shape[1] // numbers.d.shape[1])
        if "scales" in self.parameters:
            moved = self.parameters["scales"]
            within = (moved >= 0) & (moved <= kind.scale.most)
            found["scales"] = by_scale * (2 * self._units(numbers)) * within
        return found
