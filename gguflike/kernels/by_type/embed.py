"""``<type>``: rows of an embedding matrix, decoded, for the types with a decoding kernel; arguments: embed.py."""

from gguflike.kernels.embed import embed_op
from gguflike.kernels.engine.jit import op
from gguflike.kernels.table import KERNELS, load

for _name, _row in KERNELS.items():
    if _row.decode is not None:
        op(f"by_type.embed:{_name}")(embed_op(load(_row.decode)))
