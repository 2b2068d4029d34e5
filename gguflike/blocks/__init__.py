"""Block types: the table, and the readable numpy reference of each decoder.

    table      a row for each type
    spec       what a row says, and what follows from it: sizes, dtype, offsets
    scalar     types without blocks: floats and integers
    legacy     one scale for a short run of weights: Q4_0 to Q8_1, Q1_0, Q2_0, Q8_K
    kquants    super-blocks with small integer scales: Q2_K to Q6_K
    codebook   codes that point into a table of levels or of short vectors: the IQ types
    codebooks  these tables
    ternary    -1, 0 and +1: TQ1_0, TQ2_0
    float4     4-bit floats with small scales: MXFP4, NVFP4
    bits       bit fields, unpacked

It needs numpy alone, and is what kernels/decode is compared with.
"""

from gguflike.blocks.spec import BlockFormat, Field
from gguflike.blocks.table import FORMATS, format_by_id, format_by_name

__all__ = ["FORMATS", "BlockFormat", "Field", "format_by_id", "format_by_name"]
