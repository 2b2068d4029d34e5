"""Running models on the CPU, straight on the quantized blocks. Importing this imports neither numba nor tokenizers.

A model, from what users call down to ops:

    model       what users hold: text in, text or vectors out
    network     what computes: ids in, logits or hidden states out, in turns
    generate    one token after another
    sampling/   the choice of the next token: settings, steps, log probabilities
    speculate   drafts of what may come next, by what followed the same words before
    drafting    drafts of a second, smaller model
    mtp         drafts of the model's own prediction heads
    together    several texts at a time, each in a slot
    slots       what is held of a text
    embedding   texts to vectors and scores
    pooling     hidden states of a text to one vector, or to scores
    tokenizer   text to token ids and back

    passes      from token ids to logits or hidden states, and what stays of them
    graph       from a graph of parts to programs of ops
    parts/      a module for each kind of part: its checks, its state, its ops
    schedule    the verbs by which parts add ops, for one token and for several
    rows        ops on rows that few models need
    state       what is kept from token to token
    recurrent   what recurrent parts keep
    buffers     what a pass writes between its ops
    rope        cosines and sines

    weights     the tensors of a file as the ops read them
    tensors     which of them the model reads
    matrix      a matrix, or a stack, by its address
    packed      matrices in the order in which ops read them
    tables      rows that are read when their token comes

Beside it:

    ability     whether a file can be run here, by its header
    needs       memory that a model takes
    bench       how fast a model is, and how far from what the machine can do
    perplexity  how well a model foresees a text
"""

from typing import TYPE_CHECKING

from gguflike import lazy

if TYPE_CHECKING:
    from gguflike.runner.generate import Generation, Piece, Stream
    from gguflike.runner.model import Model, load
    from gguflike.runner.sampling import Sampler, Sampling

__all__ = ["Generation", "Model", "Piece", "Sampler", "Sampling", "Stream", "load"]

__getattr__ = lazy.names(
    __name__,
    {
        "Generation": "generate",
        "Model": "model",
        "Piece": "generate",
        "Sampler": "sampling",
        "Sampling": "sampling",
        "Stream": "generate",
        "load": "model",
    },
)
