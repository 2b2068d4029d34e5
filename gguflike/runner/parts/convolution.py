"""What the recurrent parts share: the convolution, and weights as the ops read them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from gguflike.kernels.recurrent.args import CONV

if TYPE_CHECKING:
    import numpy.typing as npt

    from gguflike.runner.recurrent import Recurrent
    from gguflike.runner.schedule import Schedule
    from gguflike.runner.weights import LayerWeights

    Floats = npt.NDArray[np.float32]


def padded(heads: int) -> int:
    """Heads rounded up to whole vectors."""
    return -(-heads // 16) * 16


def padded_heads(values: Floats) -> Floats:
    """One value for each head, with zeros behind."""
    return np.pad(values.reshape(-1), (0, padded(values.size) - values.size))


def by_token(weight: Floats) -> Floats:
    """A convolution's weight (channels, kernel) as (kernel, channels)."""
    transposed: Floats = weight.T
    return transposed


def convolve(
    s: Schedule,
    weights: LayerWeights,
    role: str,
    state: Recurrent,
    x: int,
    stride: int,
    channels: int,
    kernel: int,
    out: int,
) -> None:
    """silu(conv + bias) of ``channels`` values for each token, ``stride`` apart at the address ``x``, to float32
    (tokens, channels) at ``out``."""
    weight, bias = weights.made(f"{role}.weight", by_token), weights.optional(f"{role}.bias")
    convolve_by(s, weight, bias, state, x, stride, channels, kernel, out)


def convolve_by(
    s: Schedule, weight: int, bias: int, state: Recurrent, x: int, stride: int, channels: int, kernel: int, out: int
) -> None:
    """The same by a weight, float32 (kernel, channels), and a bias at addresses; 0: no bias."""
    words = CONV.pack(
        x=x,
        stride=stride,
        channels=channels,
        kernel=kernel,
        weight=weight,
        bias=bias,
        past=state.past,
        rows=s.rows,
        out=out,
    )
    s.share("recurrent.conv:silu", words, items=channels // 16)
