"""``<type>``: blocks decoded to float32, for the types with a decoding kernel; arguments: decode/args.py."""

from gguflike.kernels.decode.op import decode_op
from gguflike.kernels.engine.jit import op
from gguflike.kernels.table import KERNELS, load

for _name, _row in KERNELS.items():
    if _row.decode is not None:
        op(f"by_type.decode:{_name}")(decode_op(load(_row.decode)))
