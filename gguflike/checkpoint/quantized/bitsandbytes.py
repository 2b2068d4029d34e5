"""bitsandbytes: 4-bit codes of a table (NF4, FP4), whose scales may be quantized too, and rows of 8-bit integers.

4 bits: the bytes ``weight`` hold the values of a matrix one behind the other, two in a byte, the first in the high
bits; ``value = quant_map[code] * absmax[i // blocksize]``, where absmax is stored, or is
``nested_quant_map[absmax] * nested_absmax[block // nested_blocksize] + nested_offset``. What is not a tensor is JSON in
the bytes of ``weight.quant_state.bitsandbytes__nf4`` or ``__fp4`` (bitsandbytes, functional.py, QuantState).
8 bits: ``value = weight * SCB[row] / 127`` (autograd/_functions.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from gguflike.checkpoint import strictjson
from gguflike.checkpoint.quantized.pool import Pool, Settings, expect_shape
from gguflike.checkpoint.quantized.tensors import Computed, Floats, Scaled, computed, scales_of, unpacked
from gguflike.checkpoint.safetensors import LazyTensor
from gguflike.errors import CheckpointError, UnsupportedError

_STATE = ".quant_state.bitsandbytes__"
_MAX_STATE = 1 << 16  # bytes of the JSON of one weight


@dataclass(frozen=True)
class FourBits(Computed):
    """A tensor of table codes with a scale for each ``block`` values in order, whatever its shape. ``nested``: the
    table and the scales of the scales, ``nested_block`` of which have one, to which ``nested_offset`` is added."""

    codes: LazyTensor
    table: LazyTensor
    scales: LazyTensor
    block: int
    nested: tuple[LazyTensor, LazyTensor] | None = None
    nested_block: int = 256
    nested_offset: float = 0.0

    def read_f32(self, start: int = 0, stop: int | None = None) -> Floats:
        stop = self.rows if stop is None else stop
        row = prod(self.shape[1:])
        first, last = start * row, stop * row
        pairs = self.codes.read(first // 2, -(-last // 2)).reshape(-1)
        codes = unpacked(pairs >> 4 | pairs << 4, 4)[first % 2 :][: last - first]
        low, high = first // self.block, -(-last // self.block)
        scales = np.repeat(self._scales(low, high), self.block)[first - low * self.block :][: last - first]
        values: Floats = self.table.read_f32()[codes] * scales
        return values.reshape(stop - start, *self.shape[1:])

    def _scales(self, low: int, high: int) -> Floats:
        if self.nested is None:
            return self.scales.read_f32(low, high)
        table, outer = (tensor.read_f32() for tensor in self.nested)
        codes = self.scales.read(low, high)
        scales: Floats = table[codes] * outer[np.arange(low, high) // self.nested_block]
        scales += np.float32(self.nested_offset)
        return scales


def read(pool: Pool, settings: Settings) -> str:
    """Dequantize the weights of ``quant_method`` bitsandbytes; say what they were."""
    settings.inert(
        "load_in_4bit load_in_8bit llm_int8_threshold llm_int8_skip_modules llm_int8_enable_fp32_cpu_offload"
        " llm_int8_has_fp16_weight bnb_4bit_compute_dtype bnb_4bit_quant_type bnb_4bit_use_double_quant"
        " bnb_4bit_quant_storage"
    )
    kinds: set[str] = set()
    for kind in ("nf4", "fp4"):
        for name in pool.modules(_STATE + kind):
            pool.give(_four_bits(pool, name, kind))
            kinds.add(kind.upper())
    for module in pool.modules(".SCB"):
        pool.give(_eight_bits(pool, module))
        kinds.add("8 bits")
    left = [tensor for tensor in pool.left.values() if tensor.dtype in ("U8", "I8") and tensor.name.endswith(".weight")]
    if left:
        raise CheckpointError(
            "quantized weight lacks what says how",
            path=left[0].path,
            tensor=left[0].name,
            expected=f"{left[0].name}{_STATE}nf4 or __fp4 (4 bits), or SCB (8 bits)",
            got=", ".join(name for name in pool.left if name.startswith(left[0].name + ".")) or "neither",
            remedy="save it again with save_pretrained, or merge in bfloat16",
        )
    return "bitsandbytes " + " and ".join(sorted(kinds))


def _four_bits(pool: Pool, name: str, kind: str) -> FourBits:
    stored = pool.take(f"{name}{_STATE}{kind}", name, {"U8"})
    codes = pool.take(name, stored.name)
    state = _state(stored)
    shape, block = state.get("shape"), state.get("blocksize")
    if (
        state.get("quant_type") != kind
        or not isinstance(shape, list)
        or not all(type(size) is int and 0 < size < 1 << 40 for size in shape)
        or not isinstance(block, int)
        or not _power_of_two(block)
        or codes.dtype not in ("U8", "BF16", "F16", "F32")
    ):
        raise CheckpointError(
            "state of a quantized weight is malformed", path=stored.path, tensor=stored.name, got=repr(state)[:200]
        )
    size = prod(shape)
    as_bytes = codes if codes.dtype == "U8" else _bytes(codes)
    if codes.nbytes != -(-size // 2):
        expect_shape(codes, (-(-size // 2), 1))
    table = pool.take(f"{name}.quant_map", name, {"F32"})
    scales = pool.take(f"{name}.absmax", name, {"F32", "U8"})
    expect_shape(table, (16,))
    expect_shape(scales, (-(-size // block),))
    fields: dict[str, Any] = {"codes": as_bytes, "table": table, "scales": scales, "block": block}
    if "nested_blocksize" in state:
        outer = pool.take(f"{name}.nested_absmax", name, {"F32"})
        inner = pool.take(f"{name}.nested_quant_map", name, {"F32"})
        nested, offset = state["nested_blocksize"], state.get("nested_offset")
        if not _power_of_two(nested) or not isinstance(offset, int | float) or scales.dtype != "U8":
            raise CheckpointError(
                "state of a quantized weight is malformed", path=stored.path, tensor=stored.name, got=repr(state)[:200]
            )
        expect_shape(inner, (256,))
        expect_shape(outer, (-(-scales.size // nested),))
        fields |= {"nested": (inner, outer), "nested_block": nested, "nested_offset": float(offset)}
    elif scales.dtype != "F32":
        raise CheckpointError(
            "scales are quantized, and nothing says how", path=scales.path, tensor=scales.name, expected="F32", got="U8"
        )
    return computed(FourBits, name, shape, codes, **fields)


def _state(stored: LazyTensor) -> dict[str, Any]:
    if stored.size > _MAX_STATE:
        raise CheckpointError(
            "state of a quantized weight is too long", path=stored.path, tensor=stored.name, got=f"{stored.size} bytes"
        )
    return strictjson.parse(stored.read().tobytes(), stored.path, stored.name)


def _bytes(tensor: LazyTensor) -> LazyTensor:
    """The bytes of a tensor, whatever dtype it pretends to have (bnb_4bit_quant_storage)."""
    return LazyTensor(tensor.name, "U8", (tensor.nbytes,), tensor.path, tensor.offset, tensor.file_bytes)


def _power_of_two(value: Any) -> bool:
    return type(value) is int and 0 < value <= 1 << 20 and value & value - 1 == 0


def _eight_bits(pool: Pool, module: str) -> Scaled:
    scales = pool.take(f"{module}.SCB", f"{module}.weight", {"F32"})
    weight = pool.take(f"{module}.weight", scales.name, {"I8"})
    order = pool.maybe(f"{module}.weight_format")
    if order is not None and np.any(order.read()):
        raise UnsupportedError(
            "8-bit rows in an arrangement of a GPU",
            path=order.path,
            tensor=order.name,
            expected="0 (row)",
            got=int(order.read().reshape(-1)[0]),
            remedy="save it again with a newer bitsandbytes",
        )
    expect_shape(scales, weight.shape[:1])
    of_rows = scales_of(weight, scales)
    return computed(Scaled, weight.name, weight.shape, weight, values=weight, scales=of_rows, factor=1 / 127)
