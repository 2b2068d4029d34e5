"""MXFP4 as gpt-oss is published: stacks of matrices as bytes ``<name>_blocks`` and ``<name>_scales``.

The family knows these tensors by their names (origins.Microscaled), and they are kept bit for bit where MXFP4 is asked
for, so that nothing is made here: only that each has its partner is seen to.
"""

from __future__ import annotations

from gguflike.checkpoint.quantized.pool import Pool, Settings, expect_shape


def read(pool: Pool, settings: Settings) -> str:
    """See that codes and scales belong to each other; say what they are."""
    settings.inert("modules_to_not_convert dequantize")
    for name in pool.modules("_blocks"):
        blocks = pool.take(f"{name}_blocks", name, {"U8"})
        scales = pool.take(f"{name}_scales", blocks.name, {"U8"})
        expect_shape(scales, blocks.shape[:-1])
        pool.give(blocks)
        pool.made[scales.name] = scales
    return "MXFP4"
