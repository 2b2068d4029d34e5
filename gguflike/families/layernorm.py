"""What families with layer norms share: hyper-parameters, and graphs whose attention and feed-forward run in
parallel."""

from __future__ import annotations

from typing import Any

from gguflike.families.config import key
from gguflike.families.decoder import Decoder
from gguflike.families.parts import Block, Branch, Mixer, Norm
from gguflike.families.parts.extras import Path, Sum
from gguflike.frozen import frozen


@frozen
class LayerNormed(Decoder):
    """A decoder whose norms subtract the mean."""

    norm_eps: float = key("attention.layer_norm_epsilon", ("layer_norm_eps", "layer_norm_epsilon"), default=1e-5)


def layer_norm(c: Decoder, role: str, size: int | None = None, **changes: Any) -> Norm:
    """A layer norm with bias unless ``changes`` say otherwise, of ``n_embd`` values unless told otherwise."""
    return Norm(role, size or c.n_embd, c.norm_eps, **{"kind": "layer", "bias": True, **changes})


def parallel(norm: Norm, mixer: Mixer, after: Mixer) -> Block:
    """A block in which attention and feed-forward read the same and are added together."""
    return (Branch(norm, Sum((Path(None, mixer), Path(None, after)))),)


def parallel_norms(first: Norm, mixer: Mixer, second: Norm, after: Mixer) -> Block:
    """The same, with a norm for each of the two."""
    return (Branch(None, Sum((Path(first, mixer), Path(second, after)))),)


def sequential(c: Decoder, mixer: Mixer, after: Mixer, **norms: Any) -> Block:
    """A block of two branches that begin with a layer norm."""
    return (
        Branch(layer_norm(c, "attn_norm", **norms), mixer),
        Branch(layer_norm(c, "ffn_norm", **norms), after),
    )
