"""Checkpoint to GGUF, GGUF to GGUF, and back."""

from gguflike.convert.from_checkpoint import convert
from gguflike.convert.plan import ConversionPlan
from gguflike.convert.planned import PlannedTensor
from gguflike.convert.quantize import quantize_file
from gguflike.convert.shards import merge, split
from gguflike.convert.to_checkpoint import ExportPlan, export

__all__ = ["ConversionPlan", "ExportPlan", "PlannedTensor", "convert", "export", "merge", "quantize_file", "split"]
