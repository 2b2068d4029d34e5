"""Keys and values of the cache as float16: see kv_float.py."""

from gguflike.kernels.attention.kv_float import kernels
from gguflike.kernels.attention.tile import halves
from gguflike.kernels.vector.memory import load_f16x16, scatter_f16

store, expand_keys, expand_values, make_scores, make_values = kernels(2, load_f16x16, scatter_f16, halves)
