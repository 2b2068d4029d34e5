"""Ops on rows between matrix products, beyond those of most models: their names and argument words.

Imported for models that need them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gguflike.kernels.engine.args import float_bits
from gguflike.kernels.rows.args import CAP, CAPPED, GATE, GATE_Q8, LAYER, NORM, NORM_Q8, PLAIN, RMS
from gguflike.runner.buffers import Activations

if TYPE_CHECKING:
    from gguflike.families.parts import Activation, Head
    from gguflike.kernels.engine.args import Word
    from gguflike.runner.schedule import Source

NamedOp = tuple[str, "tuple[Word, ...]"]
KINDS = {"rms": RMS, "layer": LAYER}


def _norm_words(source: Source, added: int, scale: float) -> dict[str, Word]:
    norm, weights = source.norm, source.weights
    return {
        "x": source.address,
        "columns": source.size,
        "kind": PLAIN if norm is None else KINDS[norm.kind],
        "weight": weights.address(norm.weight_role) if norm is not None and norm.weight else 0,
        "bias": weights.bias(norm.role) if norm is not None and norm.weight else 0,
        "groups": 1 if norm is None else max(1, norm.groups),
        "eps": float_bits(0.0 if norm is None else norm.eps),
        "scale": float_bits(scale),
        "added": added,
    }


def norm(source: Source, result: Activations, int8: bool) -> NamedOp:
    """The op that normalizes for matrices, as int8 or as float32."""
    words = _norm_words(source, 0, 1.0)
    if int8:
        return "rows.norms:norm_q8", NORM_Q8.pack(**words, **result.quantized)
    return "rows.norms:norm", NORM.pack(**words, out=result.floats)


def combine(source: Source, out: int, added: int, scale: float) -> NamedOp:
    """The op of ``Schedule.combine``."""
    return "rows.norms:norm", NORM.pack(**_norm_words(source, added, scale), out=out)


def gate(
    activation: Activation,
    columns: int,
    gate: tuple[int, int],
    up: tuple[int, int],
    result: Activations,
    int8: bool,
    limit: float = 0.0,
    xielu: tuple[float, float, float, float] | None = None,
) -> NamedOp:
    """The op that activates: ``gate`` and ``up`` are address and values from token to token, (0, 0) for no up."""
    constants = zip(("alpha_n", "alpha_p", "beta", "eps"), xielu or (0.0,) * 4, strict=True)
    words: dict[str, Word] = {
        "gate": gate[0],
        "gate_stride": gate[1],
        "up": up[0],
        "up_stride": up[1],
        "columns": columns,
        "limit": float_bits(limit or float("inf")),
        **{name: float_bits(value) for name, value in constants},
    }
    if int8:
        return f"rows.gates:{activation}_q8", GATE_Q8.pack(**words, **result.quantized)
    return f"rows.gates:{activation}", GATE.pack(**words, out=result.floats)


def cap(head: Head, logits: int) -> tuple[str, tuple[Word, ...], int]:
    """The op that scales and caps logits, and its items for each token."""
    words = CAP.pack(x=logits, columns=head.n_vocab, scale=float_bits(head.scale), cap=float_bits(head.softcap))
    return "rows.caps:cap", words, -(-head.n_vocab // CAPPED)
