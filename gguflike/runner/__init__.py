"""Running models on the CPU, straight on the quantized blocks. Importing this imports neither numba nor tokenizers."""

from gguflike.runner.generate import Generation, Piece, Stream
from gguflike.runner.model import Model, load

__all__ = ["Generation", "Model", "Piece", "Stream", "load"]
