"""From the parts of a model to ops: one module per kind of part, none for a family.

`ops` imports the module of a part when a graph first has one. What such a module holds, says `Ops`.

    attention          attention of most models
    general_attention  in all its settings, for those that ask for more
    latent             multi-head latent attention
    feed_forward       the feed-forward
    experts            mixtures of experts
    delta_net          the gated delta rule
    kimi_delta         Kimi's delta attention
    mamba, mamba2      state-space models
    short_conv         the gated short convolution
    sums               several mixers that read the same, added up
    constant           a vector that all tokens are given
    rescale            what multiplies the residual stream
    layer_embeddings   vectors for each token and layer
    layer_input        a layer's vector of each token, let in by a gate
    mtp                what the block of a multi-token-prediction head begins with

    attending          shared by attention: how queries attend to a cache
    convolution        shared by recurrent parts: the convolution, and weights as the ops read them
    hidden             hidden values of feed-forwards beyond silu(gate) * up
    stateless          the state of parts that keep nothing
    checks             what the checks of several parts ask
"""

from __future__ import annotations

import importlib
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from gguflike.errors import UnsupportedError

if TYPE_CHECKING:
    from typing import Protocol

    from gguflike.runner.schedule import Schedule, Source, Target
    from gguflike.runner.state import State
    from gguflike.runner.weights import LayerWeights

    class Ops(Protocol):
        """The functions of a part's module. Where the part keeps nothing, stateless.py has the middle two."""

        def check(self, part: Any) -> None:
            """UnsupportedError where the ops cannot compute the part with its sizes."""

        def new_state(self, part: Any, context: int, cache_type: str) -> State | None:
            """What the part keeps from token to token, for up to ``context`` positions, without its memory yet; None
            where it keeps nothing."""

        def bytes_per_position(self, part: Any, cache_type: str) -> int:
            """Bytes that the part's state takes for one more position."""

        def emit(
            self, part: Any, s: Schedule, weights: LayerWeights, state: Any, source: Source, target: Target
        ) -> None:
            """Add ops that compute the part on ``source``, which they read by ``Schedule.read``, and write or add its
            result to ``target``."""


# Class of a part -> the module here with its ops. Several parts may share one.
MODULES = {
    "Attention": "attention",
    "Constant": "constant",
    "DeltaNet": "delta_net",
    "Experts": "experts",
    "FeedForward": "feed_forward",
    "KimiDelta": "kimi_delta",
    "LatentAttention": "latent",
    "LayerEmbeddings": "layer_embeddings",
    "LayerInput": "layer_input",
    "MTPInput": "mtp",
    "Mamba": "mamba",
    "Mamba2": "mamba2",
    "Rescale": "rescale",
    "ShortConv": "short_conv",
    "Sum": "sums",
}


def ops(part: Any) -> Ops:
    """The module with the ops of a part. UnsupportedError where there is none."""
    module: Ops = _module(type(part).__name__)
    return module


@lru_cache(maxsize=64)
def _module(name: str) -> Any:
    if name not in MODULES:
        raise UnsupportedError("no ops for a part of this model", expected="one of " + ", ".join(MODULES), got=name)
    return importlib.import_module(f"{__name__}.{MODULES[name]}")
