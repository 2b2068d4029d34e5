"""Hugging Face checkpoints: folders and Hub repositories, their tensors and tokenizers."""

from gguflike.checkpoint.folder import Checkpoint, open
from gguflike.checkpoint.safetensors import LazyTensor

__all__ = ["Checkpoint", "LazyTensor", "open"]
