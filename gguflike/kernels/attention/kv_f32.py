"""Keys and values of the cache as float32: see kv_float.py."""

from gguflike.kernels.attention.kv_float import kernels
from gguflike.kernels.attention.tile import floats
from gguflike.kernels.vector.memory import load_f32x16, scatter_f32

store, expand_keys, expand_values, make_scores, make_values = kernels(4, load_f32x16, scatter_f32, floats)
