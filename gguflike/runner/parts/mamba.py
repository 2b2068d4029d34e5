"""Mamba as ops: a convolution, a scan by channels, a gate."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gguflike.families.parts import Norm
from gguflike.families.parts.recurrent import Mamba
from gguflike.kernels.engine.args import float_bits
from gguflike.kernels.recurrent.args import GATED_NORM, SCAN_CHANNELS, SLICE
from gguflike.runner.parts.checks import multiple
from gguflike.runner.parts.convolution import convolve
from gguflike.runner.parts.stateless import bytes_per_position as bytes_per_position
from gguflike.runner.recurrent import Recurrent
from gguflike.runner.schedule import Schedule, Source, Target

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from gguflike.runner.weights import LayerWeights

GATE = 32  # values that a thread opens together


def check(part: Mamba) -> None:
    multiple("inner size", part.inner, 32)


def new_state(part: Mamba, context: int, cache_type: str) -> Recurrent:  # noqa: ARG001 - of fixed size
    return Recurrent(part.kernel, part.inner, part.inner * part.d_state)


def by_block(rates: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """(inner, d_state) as (inner / 16, d_state, 16)."""
    blocks: npt.NDArray[np.float32] = rates.reshape(-1, 16, rates.shape[1]).swapaxes(1, 2)
    return blocks


def _slice(
    s: Schedule, weights: LayerWeights, norm: Norm | None, x: int, stride: int, columns: int, out: int, out_stride: int
) -> None:
    """Columns of a wide row, normalized where there is a norm."""
    words = SLICE.pack(
        x=x,
        stride=stride,
        columns=columns,
        normed=int(norm is not None),
        weight=weights.address(norm.weight_role) if norm is not None and norm.weight else 0,
        eps=float_bits(norm.eps if norm is not None else 0.0),
        out=out,
        out_stride=out_stride,
    )
    s.share("recurrent.norms:slice", words, items=1, per_tokens=1)


def emit(part: Mamba, s: Schedule, weights: LayerWeights, state: Recurrent, source: Source, target: Target) -> None:
    inner, rank, d_state = part.inner, part.dt_rank, part.d_state
    into, narrow, wide, out = (weights.matrix(f"ssm_{name}") for name in ("in", "x", "dt", "out"))
    xz, x, y = s.temp("xz", 2 * inner), s.temp("mixed", inner), s.temp("o", inner)
    s.linear(into, s.read(source, (into,)), xz)
    convolve(s, weights, "ssm_conv1d", state, xz, 2 * inner, inner, part.kernel, x)
    row = s.temp("dtbc", narrow.rows)
    b, c = row + 4 * rank, row + 4 * (rank + d_state)
    s.linear(narrow, s.handed(x, inner, (narrow,)), row)
    ranks, dt = s.temp("ranks", rank), s.temp("dt", inner)
    _slice(s, weights, part.dt_norm, row, narrow.rows, rank, ranks, rank)
    for norm, place in ((part.b_norm, b), (part.c_norm, c)):
        if norm is not None:
            _slice(s, weights, norm, place, narrow.rows, d_state, place, narrow.rows)
    s.linear(wide, s.handed(ranks, rank, (wide,)), dt)
    words = SCAN_CHANNELS.pack(
        x=x,
        dt=dt,
        b=b,
        c=c,
        stride=narrow.rows,
        inner=inner,
        d_state=d_state,
        rate=weights.made("ssm_a", by_block),
        skip=weights.optional("ssm_d"),
        matrices=state.matrices,
        rows=s.rows,
        out=y,
    )
    s.share("recurrent.scan:channels", words, items=inner // 16)
    words = GATED_NORM.pack(
        y=y,
        z=xz + 4 * inner,
        stride=2 * inner,
        groups=inner // GATE,
        size=GATE,
        weight=0,
        next_weight=0,
        eps=0,
        gate_first=1,
        out=y,
    )
    s.share("recurrent.norms:gated", words, items=inner // GATE, per_tokens=1)
    s.linear(out, s.handed(y, inner, (out,)), target.address, add=target.add)
