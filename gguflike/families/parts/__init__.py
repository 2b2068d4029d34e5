"""What models are made of. A part knows its tensors and its settings; no part knows a model family.

A *graph* is an embedding, blocks, a norm and a head. A *block* is a list of branches, a *branch* a norm, a mixer and a
norm around a residual addition. Everything here is a frozen record: a family is a short function from its
configuration to a graph, and the converter, the exporter, the reference and the runner walk what it returns.

    layers     parts of which most models consist: norms, rotations, attention, feed-forward
    graph      branches, blocks, embedding and head, and the graph of a model

The other parts are imported only by the families that use them:

    experts    layers of which a token reads its own experts
    recurrent  mixers that keep a state instead of keys and values
    latent     attention on compressed keys and values
    indexers   what chooses the keys that a query attends to
    mtp        heads that guess what comes behind the next token
    extras     what few models have beside all that

Tensors are named as GGUF names them and have the shapes that GGUF stores, in numpy order. How a tensor comes out of a
checkpoint is said elsewhere (origins.py), since that differs between families that share a part.
"""

from gguflike.families.parts.graph import (
    Block,
    Branch,
    Embedding,
    Graph,
    Head,
    Part,
    Place,
    Step,
    experts_used,
    role_of,
)
from gguflike.families.parts.layers import (
    Activation,
    Attention,
    FeedForward,
    Mixer,
    Norm,
    Rope,
    Scaling,
    Temperature,
    Tensor,
)

__all__ = [
    "Activation",
    "Attention",
    "Block",
    "Branch",
    "Embedding",
    "FeedForward",
    "Graph",
    "Head",
    "Mixer",
    "Norm",
    "Part",
    "Place",
    "Rope",
    "Scaling",
    "Step",
    "Temperature",
    "Tensor",
    "experts_used",
    "role_of",
]
