"""``refine_<type>`` of the types that are repacked into records; arguments: matmul/refine.py."""

from gguflike.kernels.engine.jit import op
from gguflike.kernels.matmul.refine import refine_op
from gguflike.kernels.table import KERNELS

for _name, _row in KERNELS.items():
    if _row.record is not None:
        op(f"by_type.refine:refine_{_name}")(refine_op(_row.record))
