"""Encoders, one module per family of block types; importing the package registers all of them."""

from gguflike.kernels.encode import fixed as fixed
from gguflike.kernels.encode import float4 as float4
from gguflike.kernels.encode import kaffine as kaffine
from gguflike.kernels.encode import kscale as kscale
from gguflike.kernels.encode import plain as plain
from gguflike.kernels.encode import q8k as q8k
from gguflike.kernels.encode import scale as scale
from gguflike.kernels.encode import ternary as ternary
from gguflike.kernels.encode.lattice import codec as codec
