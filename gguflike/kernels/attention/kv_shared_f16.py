"""Rows that are keys and values alike, as float16: see kv_shared.py."""

from gguflike.kernels.attention.kv_f16 import expand_keys as expand_keys
from gguflike.kernels.attention.kv_f16 import make_scores as make_scores
from gguflike.kernels.attention.kv_shared import float_kernels
from gguflike.kernels.vector.memory import load_f16x16, scatter_f16

store, expand_values, make_values = float_kernels(2, load_f16x16, scatter_f16)
