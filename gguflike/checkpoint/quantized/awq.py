"""AWQ: 4-bit integers in 32-bit words along the outputs, with a scale and a zero for each group of input columns.

``weight[o, i] = scales[g, o] * (q[i, o] - zeros[g, o])`` with ``g = i // group``. The eight numbers of a word, lowest
bits first, are those of the columns 0, 2, 4, 6, 1, 3, 5 and 7 (AutoAWQ, utils/packing_utils.py): the order "gemm".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from gguflike.checkpoint.quantized.gptq import HOW, columns_of, grouped
from gguflike.checkpoint.quantized.pool import Pool, Settings, exactly, expect_shape
from gguflike.checkpoint.quantized.tensors import Computed, Floats, computed, unpacked
from gguflike.checkpoint.safetensors import LazyTensor
from gguflike.errors import CheckpointError

_PLACES = (0, 4, 1, 5, 2, 6, 3, 7)  # of column i in a word


@dataclass(frozen=True)
class AWQ(Computed):
    """A matrix (outputs, inputs)."""

    words: LazyTensor
    zeros: LazyTensor
    scales: LazyTensor

    def read_f32(self, start: int = 0, stop: int | None = None) -> Floats:
        stop = self.shape[0] if stop is None else stop
        parts = (_columns(part, start, stop).T for part in (self.words, self.zeros))
        values, zeros = (part.astype(np.float32, order="C") for part in parts)
        return grouped(values, zeros, columns_of(self.scales, start, stop).T)


def _columns(words: LazyTensor, start: int, stop: int) -> npt.NDArray[np.uint8]:
    first, last = start // 8, -(-stop // 8)
    stored = words.read_columns(first, last)
    numbers = unpacked(stored, 4).reshape(len(stored), -1, 8)[..., _PLACES].reshape(len(stored), -1)
    found: npt.NDArray[Any] = numbers[:, start - 8 * first :][:, : stop - start]
    return found


def read(pool: Pool, settings: Settings) -> str:
    """Dequantize the weights of ``quant_method`` awq; say what they were."""
    settings.integer("bits", "w_bit", among=(4,))
    group = settings.integer("group_size", "q_group_size", default=-1)
    settings.choice("version", "format", "checkpoint_format", among=("gemm",), default="gemm")
    settings.choice("zero_point", among=(True,), default=True)
    settings.inert(HOW)
    settings.inert("do_fuse fuse_max_seq_len modules_to_fuse modules_to_not_convert dynamic pack_dtype")
    for module in pool.modules(".qweight"):
        pool.give(_matrix(pool, module, group))
    return "AWQ 4 bits, " + (f"groups of {group}" if group > 0 else "one group for each row")


def _matrix(pool: Pool, module: str, group: int) -> AWQ:
    name = f"{module}.weight"
    words = pool.take(f"{module}.qweight", name, {"I32", "U32"})
    zeros = pool.take(f"{module}.qzeros", words.name, {"I32", "U32"})
    scales = pool.take(f"{module}.scales", words.name, {"F16", "BF16", "F32"})
    if len(words.shape) != 2:
        raise CheckpointError("quantized weight is no matrix", path=words.path, tensor=words.name, got=words.shape)
    inputs, outputs = words.shape[0], 8 * words.shape[1]
    groups = exactly(inputs, group, words, "groups") if group > 0 else 1
    expect_shape(scales, (groups, outputs))
    expect_shape(zeros, (groups, words.shape[1]))
    return computed(AWQ, name, (outputs, inputs), words, words=words, zeros=zeros, scales=scales)
