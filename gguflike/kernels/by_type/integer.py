"""``matvec_<type>`` and ``matmul_<type>`` of the types that are repacked into records; arguments: matmul/integer.py."""

from gguflike.kernels.engine.jit import op
from gguflike.kernels.matmul.integer import matmul_op, matvec_op
from gguflike.kernels.table import KERNELS

for _name, _row in KERNELS.items():
    if _row.record is not None:
        op(f"by_type.integer:matvec_{_name}")(matvec_op(_row.record))
        op(f"by_type.integer:matmul_{_name}")(matmul_op(_row.record))
