"""``matvec_<type>`` and ``matmul_<type>`` of floats, on the file's rows; arguments: matmul/floating.py."""

from gguflike.kernels.engine.jit import op
from gguflike.kernels.matmul.floating import matmul_op, matvec_op
from gguflike.kernels.table import KERNELS

for _name, _row in KERNELS.items():
    if _row.floats is not None:
        op(f"by_type.floating:matvec_{_name}")(matvec_op(_row.floats))
        op(f"by_type.floating:matmul_{_name}")(matmul_op(_row.floats))
