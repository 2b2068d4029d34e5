"""How well a model does, by itself and beside the model that it was made from. Importing this imports nothing else.

    evaluation  `evaluate`, from files and texts to figures
    models      what is measured: GGUF files, and checkpoints by way of a temporary one
    texts       held-out texts as chunks of tokens: the protocol
    streaming   one or two models over the same chunks, piece by piece
    scores      what two rows of logits say of a token
    estimates   means and quantiles with confidence intervals, by blocks of chunks
    tasks       questions with choices
    blame       which tensor's quantization costs how much
    card        figures into the metadata of a file

Two models are never apart by more than a piece of one chunk: no file of logits is written, whatever the vocabulary.
"""

from typing import TYPE_CHECKING

from gguflike import lazy

if TYPE_CHECKING:
    from gguflike.evaluate.card import Card
    from gguflike.evaluate.estimates import Figure, ratio
    from gguflike.evaluate.evaluation import Evaluation, Quality, evaluate
    from gguflike.evaluate.tasks import Accuracy

__all__ = ["Accuracy", "Card", "Evaluation", "Figure", "Quality", "evaluate", "ratio"]

__getattr__ = lazy.names(
    __name__,
    {
        "Accuracy": "tasks",
        "Card": "card",
        "Evaluation": "evaluation",
        "Figure": "estimates",
        "Quality": "evaluation",
        "evaluate": "evaluation",
        "ratio": "estimates",
    },
)
