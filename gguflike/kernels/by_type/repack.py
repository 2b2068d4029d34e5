"""``<type>``: the file's blocks to records, for the types that have records; arguments: matmul/repack.py."""

from gguflike.blocks import FORMATS
from gguflike.kernels.engine.jit import op
from gguflike.kernels.matmul.repack import repack_op
from gguflike.kernels.table import KERNELS, load

for _name, _row in KERNELS.items():
    if _row.record is not None and _row.repack is not None:
        op(f"by_type.repack:{_name}")(repack_op(FORMATS[_name], _row.record, load(_row.repack)))
