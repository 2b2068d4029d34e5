"""Running models on the CPU, straight on the quantized blocks. Importing this imports neither numba nor tokenizers.

A model, from what users call down to ops:

    model      what users hold: text in, text or vectors out
    network    what computes: ids in, logits or hidden states out, in turns
    generate   one token after another; speculate (drafts), drafting (those of a second model),
               mtp (those of its own prediction heads)
    sampling/  the choice of the next token: settings, steps, log probabilities
    embedding  texts to vectors and scores; pooling
    passes     from token ids to logits or hidden states, and what stays of them
    graph      from a graph of parts to programs of ops
    parts/     a module for each kind of part: its checks, its state, its ops
    schedule   the verbs by which parts add ops, for one token and for several; rows, rope
    state      what is kept from token to token; recurrent
    weights    the tensors of a file as the ops read them
    buffers    what a pass writes between its ops
    tokenizer  text to token ids and back

Beside it: bench, perplexity, memory.
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
