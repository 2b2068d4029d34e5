"""The gated short convolution as ops."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gguflike.families.parts.recurrent import ShortConv
from gguflike.kernels.recurrent.args import GATED_CONV
from gguflike.runner.parts.checks import multiple
from gguflike.runner.parts.convolution import by_token
from gguflike.runner.parts.stateless import bytes_per_position as bytes_per_position
from gguflike.runner.recurrent import Recurrent
from gguflike.runner.schedule import Schedule, Source, Target

if TYPE_CHECKING:
    from gguflike.runner.weights import LayerWeights


def check(part: ShortConv) -> None:
    multiple("n_embd", part.n_embd, 32)


def new_state(part: ShortConv, context: int, cache_type: str) -> Recurrent:  # noqa: ARG001 - of fixed size
    return Recurrent(part.kernel, part.n_embd)


def emit(part: ShortConv, s: Schedule, weights: LayerWeights, state: Recurrent, source: Source, target: Target) -> None:
    n = part.n_embd
    into, out = weights.matrix("shortconv.in_proj"), weights.matrix("shortconv.out_proj")
    b, found = s.temp("bcx", 3 * n), s.temp("found", n)
    s.linear(into, s.read(source, (into,)), b)
    words = GATED_CONV.pack(
        x=b + 8 * n,
        stride=3 * n,
        channels=n,
        kernel=part.kernel,
        weight=weights.made("shortconv.conv.weight", by_token),
        bias=weights.optional("shortconv.conv.bias"),
        past=state.past,
        rows=s.rows,
        out=found,
        before=b,
        after=b + 4 * n,
    )
    s.share("recurrent.conv:gated", words, items=n // 16)
    s.linear(out, s.handed(found, n, (out,)), target.address, add=target.add)
