"""Hugging Face checkpoints: folders and Hub repositories, their tensors and tokenizers."""

from typing import TYPE_CHECKING

from gguflike import lazy

if TYPE_CHECKING:
    from gguflike.checkpoint.folder import Checkpoint, open
    from gguflike.checkpoint.safetensors import LazyTensor

__all__ = ["Checkpoint", "LazyTensor", "open"]

__getattr__ = lazy.names(__name__, {"Checkpoint": "folder", "LazyTensor": "safetensors", "open": "folder"})
