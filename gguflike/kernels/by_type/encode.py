"""``<way>_<type>``: encoders of the types that have codecs (encode/driver.py); arguments: encode/args.py."""

from gguflike.kernels.encode.driver import encode_ops
from gguflike.kernels.engine.jit import op
from gguflike.kernels.table import KERNELS, load

_encoders = {name: load(row.encode) for name, row in KERNELS.items() if row.encode is not None and not row.by_rows}
for _name, _op in encode_ops(_encoders).items():
    op(f"by_type.encode:{_name}")(_op)
