"""Checkpoint to GGUF, GGUF to GGUF, and back."""

from gguflike.convert.export import ExportPlan, export
from gguflike.convert.from_checkpoint import convert
from gguflike.convert.plan import ConversionPlan, PlannedTensor
from gguflike.convert.quantize import quantize_file

__all__ = ["ConversionPlan", "ExportPlan", "PlannedTensor", "convert", "export", "quantize_file"]
