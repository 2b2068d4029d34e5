"""A model's mathematics on a page: one numpy function for each part, and the forward pass that calls them.

This is what the runner's ops are tested against, and what a reader who wants to know what a model computes should open.

    forward    the forward pass of a graph
    parts      norms, attention, feed-forward, embedding, head
    formulas   what these are made of: products, activations, rotations
    experts    mixtures of experts
    latent     attention on compressed keys and values
    indexers   which keys queries attend to
    recurrent  mixers that keep a state, token by token
    extras     parts that few models have
    mtp        multi-token-prediction heads
    gradient/  the derivative of all of it, by a tape: no formula is written twice
    watched    what weights multiply, for who wants to watch
    rounded    the same model with rounded activations
"""

from gguflike.reference import experts as experts  # parts of other modules register their functions with ``mix``
from gguflike.reference import extras as extras
from gguflike.reference import latent as latent
from gguflike.reference import mtp as mtp
from gguflike.reference import recurrent as recurrent
from gguflike.reference.formulas import normalize as normalize
from gguflike.reference.forward import branch as branch
from gguflike.reference.forward import hidden as hidden
from gguflike.reference.forward import logits as logits
from gguflike.reference.parts import mix as mix
from gguflike.reference.watched import Watched as Watched
