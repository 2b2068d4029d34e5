"""Checkpoint to GGUF, GGUF to GGUF, and back."""

from gguflike.convert.from_checkpoint import convert
from gguflike.convert.plan import ConversionPlan, PlannedTensor

__all__ = ["ConversionPlan", "PlannedTensor", "convert"]
