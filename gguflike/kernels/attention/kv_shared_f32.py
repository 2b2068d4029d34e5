"""Rows that are keys and values alike, as float32: see kv_shared.py."""

from gguflike.kernels.attention.kv_f32 import expand_keys as expand_keys
from gguflike.kernels.attention.kv_f32 import make_scores as make_scores
from gguflike.kernels.attention.kv_shared import float_kernels
from gguflike.kernels.vector.memory import load_f32x16, scatter_f32

store, expand_values, make_values = float_kernels(4, load_f32x16, scatter_f32)
