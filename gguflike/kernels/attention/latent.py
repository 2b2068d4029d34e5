"""What multi-head latent attention caches of a token: its rotated key and its latent, side by side.

The rotation comes first, since attention's ops rotate the first dimensions of a head.
"""

from __future__ import annotations

import numpy as np

from gguflike.kernels.attention.latent_args import KEYS
from gguflike.kernels.engine.atomics import load_args
from gguflike.kernels.engine.jit import op
from gguflike.kernels.vector.lanes import fma, reduce_add, splat
from gguflike.kernels.vector.memory import load_f32x16, store_f32x16
from gguflike.kernels.vector.types import Address
from gguflike.kernels.vector.unpack import f32_of

ZERO, ONE = np.float32(0), np.float32(1)


@op("attention.latent:keys")
def keys(args: Address, state: Address, start: int, stop: int) -> None:
    """Write the key to be rotated and ``latent / sqrt(mean(latent**2) + eps) * weight`` of each token, and zeros
    behind.

    Items are tokens; words: ``KEYS``.
    """
    a = load_args(KEYS, args)
    for token in range(start, stop):
        latent, out = a.x + 4 * (a.kv_rank + a.rope_dim) * token, a.out + 4 * a.padded * token
        for i in range(0, a.rope_dim, 16):
            store_f32x16(out + 4 * i, load_f32x16(latent + 4 * (a.kv_rank + i)))
        total = splat(ZERO)
        for i in range(0, a.kv_rank, 16):
            v = load_f32x16(latent + 4 * i)
            total = fma(v, v, total)
        mean = np.float32(reduce_add(total) / np.float32(a.kv_rank))
        factor = splat(np.float32(ONE / np.sqrt(np.float32(mean + f32_of(a.eps)))))
        for i in range(0, a.kv_rank, 16):
            v = load_f32x16(latent + 4 * i) * factor * load_f32x16(a.weight + 4 * i)
            store_f32x16(out + 4 * (a.rope_dim + i), v)
        for i in range(a.rope_dim + a.kv_rank, a.padded, 16):
            store_f32x16(out + 4 * i, splat(ZERO))
