"""Q8_K: 256 codes, a float32 scale, and the sum of each 16 codes. Value = d * code.

ggml uses it for activations only. Searched as in scale.py; since the scale is as wide as the weights, all is done on
weights brought to the middle of float32's range.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from gguflike.kernels._jit import jit, run_rows
from gguflike.kernels.dispatch import register
from gguflike.kernels.encode.layout import layout, whole
from gguflike.kernels.encode.scale import best_scale, extreme, spread, squared_errors
from gguflike.kernels.encode.search import (
    groups_of,
    load_blocks,
    load_weights,
    nearest,
    normalize,
    pack,
    reciprocal,
    times_power,
    weight_tile,
)
from gguflike.kernels.lanes import (
    LANES,
    bits,
    int_lanes,
    load,
    magnitude,
    make_int_tile,
    make_tile,
    store,
    to_int,
    where,
)

Array = npt.NDArray[Any]
BLOCK, RUN = 256, 16
_TOP = np.float32(127.0)
_TARGETS = np.concatenate([spread(-127, -120, 15), spread(120, 127, 14)])


@jit
def encode_groups(start: int, stop: int, x: Any, weights: Any, out: Any, targets: Any, places: Any) -> None:
    """Encode groups of sixteen blocks; without ``targets`` by ggml's rule, the extreme value at -127."""
    blocks = len(x) // BLOCK
    tile = make_tile(BLOCK)
    wtile = weight_tile(weights, BLOCK)
    symbols = make_int_tile(BLOCK + BLOCK // RUN + 1)
    scratch = make_int_tile(1)
    starts = np.empty(LANES, np.int64)
    for group in range(start, stop):
        load_blocks(group, blocks, BLOCK, x, tile, starts)
        load_weights(group, blocks, BLOCK, weights, wtile, starts)
        lift = normalize(tile, BLOCK, magnitude(extreme(tile, 0, BLOCK)))
        top = extreme(tile, 0, BLOCK)
        d = top / -_TOP
        if len(targets) > 0:
            found = best_scale(tile, wtile, 0, BLOCK, top, targets, 1, -_TOP, _TOP, None)
            new, old = squared_errors(tile, wtile, 0, BLOCK, found, d, -_TOP, _TOP, None)
            d = where(new < old, found, d)
        inverse = reciprocal(d)
        for run in range(BLOCK // RUN):
            total = int_lanes(0)
            for j in range(run * RUN, run * RUN + RUN):
                code = to_int(nearest(load(tile, j), inverse, -_TOP, _TOP, None))
                total = total + code
                store(symbols, j, code)
            store(symbols, BLOCK + run, total)
        store(symbols, BLOCK + BLOCK // RUN, bits(times_power(d, -lift)))
        pack(group, blocks, symbols, places, out, scratch)


_PLAN = layout([whole([BLOCK + BLOCK // RUN], 4), whole(range(BLOCK)), whole(range(BLOCK, BLOCK + BLOCK // RUN), 2)])


@register("encode", "Q8_K")
def encode_q8_k(x: Array, out: Array, weights: Array | None, method: str, threads: int | None = None) -> None:
    """See the module."""
    targets = _TARGETS[:0] if method == "absmax" else _TARGETS
    args = (x.reshape(-1), weights, out.reshape(-1), targets, _PLAN)
    run_rows(encode_groups, groups_of(x.size // BLOCK), *args, threads=threads)
