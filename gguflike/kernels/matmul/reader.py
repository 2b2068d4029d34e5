"""Reads records (records.py) as vectors, one row per lane: emits the codes of a step and the scales of a sub-block."""

from __future__ import annotations

from gguflike.kernels.matmul.records import RecordFormat
from gguflike.kernels.vector.emitter import V16F32, V16I8, V16I16, V16I32, V32I16, V64I8, Emitter
from gguflike.kernels.vector.sizes import BLOCK, LANES
from gguflike.kernels.vector.types import Value

STEPS = BLOCK // 4  # steps of a block


def sub_blocks(record_format: RecordFormat) -> int:
    """Return the scales (and minima) per block of 32 columns: 1, or 2 where 16 columns share a scale."""
    return max(1, BLOCK // record_format.scale_weights)


def even_and_odd(e: Emitter, codes: Value) -> tuple[Value, Value]:
    """Widen V64I8, unsigned, to V32I16: its even bytes, and its odd ones."""
    codes = e.b.bitcast(codes, V32I16)
    return e.b.and_(codes, e.const(V32I16, 255)), e.b.lshr(codes, e.const(V32I16, 8))


class Record:
    """One record at the int64 address ``place``. Vectors that serve several steps are loaded once."""

    def __init__(self, emitter: Emitter, record_format: RecordFormat, place: Value) -> None:
        self.e, self.record_format = emitter, record_format
        self.base = emitter.pointer(place)
        self._planes: dict[tuple[int, int], Value] = {}
        self._supers: dict[int, Value] = {}
        self._scales: dict[int, Value] = {}
        self._folds: dict[int, tuple[Value, Value]] = {}

    def forget(self) -> None:
        """Load vectors anew from here on, where registers are too few to keep them."""
        if "avx512f" not in self.e.features:
            self._planes.clear()

    def codes(self, step: int) -> Value:
        """Return V64I8: integer weight + offset of columns 4 * step to 4 * step + 3, as the dot product takes them."""
        packed = self._packed(step)
        return packed if self.record_format.levels is None else self.e.lookup(self._table(), packed)

    def nibbles(self, step: int) -> tuple[Value, Value]:
        """Return V64I8 twice: the low and the high nibbles of ``codes``."""
        e, packed = self.e, self._packed(step)
        if self.record_format.levels is None:
            return e.nibbles(packed)
        table = self._table()
        return e.lookup([entry & 15 for entry in table], packed), e.lookup([entry >> 4 for entry in table], packed)

    def _table(self) -> list[int]:
        """Return the level + offset of each of 16 codes."""
        levels = [level + self.record_format.offset for level in self.record_format.levels or ()]
        return levels + [0] * (16 - len(levels))

    def _packed(self, step: int) -> Value:
        """Return V64I8: the codes of a step as they are stored, joined from their planes."""
        joined, lowest = None, 0
        for index, plane in enumerate(self.record_format.planes):
            vector, position = plane.place(step)
            if (index, vector) not in self._planes:
                self._planes[index, vector] = self.e.load(
                    V64I8, self.base, self.record_format.plane_at(index) + 64 * vector
                )
            packed = self._planes[index, vector]
            if plane.bits == 8:
                return self.e.b.xor(packed, self.e.const(V64I8, -128))  # two's complement to offset 128
            mask = ((1 << plane.bits) - 1) << lowest
            part = self.e.shift_bytes(packed, lowest - position, mask)
            joined = part if joined is None else self.e.b.or_(joined, part)
            lowest += plane.bits
        return joined

    def _super(self, index: int, unit: float) -> Value:
        """Return V16F32: super-scale (index 0) or super-minimum (1) times ``unit``."""
        if index not in self._supers:
            value = self.e.f16_to_f32(self.e.load(V16I16, self.base, 2 * LANES * index))
            self._supers[index] = self._times(value, unit)
        return self._supers[index]

    def _times(self, value: Value, unit: float) -> Value:
        """Multiply V16F32 by a constant, unless it is 1."""
        return value if unit == 1.0 else self.e.b.fmul(value, self.e.const(V16F32, unit))

    def _bytes(self, offset: int, extend: str = "zext") -> Value:
        """Return V16I32: the sixteen bytes at ``offset``, unsigned unless ``extend`` is "sext"."""
        return getattr(self.e.b, extend)(self.e.load(V16I8, self.base, offset), V16I32)

    def scale(self, block: int, sub: int) -> Value:
        """Return V16F32: the factor of the integers in sub-block ``sub`` of block ``block``."""
        index = (block * BLOCK + sub * self.record_format.scale_weights) // self.record_format.scale_weights
        if index not in self._scales:
            self._scales[index] = self._scale(self.record_format.scales_at + index * self.record_format.scale_bytes)
        return self._scales[index]

    def _scale(self, at: int) -> Value:
        """Return V16F32: the scale at byte ``at``, times the super-scale where there is one."""
        e, unit = self.e, self.record_format.unit
        if self.record_format.scale == "f16":
            return self._times(e.f16_to_f32(e.load(V16I16, self.base, at)), unit)
        if self.record_format.scale == "e8m0":
            exponent = self._bytes(at)
            normal = e.b.shl(e.b.sub(exponent, e.const(V16I32, 1)), e.const(V16I32, 23))
            subnormal = e.b.shl(e.const(V16I32, 0x00200000), exponent)
            is_small = e.b.icmp_unsigned("<", exponent, e.const(V16I32, 2))
            return self._times(e.b.bitcast(e.b.select(is_small, subnormal, normal), V16F32), unit)
        if self.record_format.scale == "ue4m3":
            # Its exponent and mantissa are those of a float16 shifted, whose bias is 8 more.
            shifted = e.b.shl(e.b.zext(e.load(V16I8, self.base, at), V16I16), e.const(V16I16, 7))
            return self._times(e.f16_to_f32(shifted), unit * 256)
        return e.b.fmul(e.to_float(self._integer_scale(at)), self._super(0, unit))

    def _integer_scale(self, at: int) -> Value:
        """Return V16I32: the scale at byte ``at``, without the super-scale."""
        integers = self._bytes(at, "sext" if self.record_format.scale == "i8" else "zext")
        return self.e.b.and_(integers, self.e.const(V16I32, 15)) if self.record_format.scale == "nibble" else integers

    def folded_scale(self, block: int, sub: int) -> Value:
        """Return V16F32: the integer scale that ``folded_codes`` are multiplied by."""
        index = (block * BLOCK + sub * self.record_format.scale_weights) // self.record_format.scale_weights
        return self.e.to_float(
            self._integer_scale(self.record_format.scales_at + index * self.record_format.scale_bytes)
        )

    def super_scale(self) -> Value:
        """Return V16F32: the factor of folded codes."""
        return self._super(0, self.record_format.unit)

    def folded_codes(self, step: int) -> Value:
        """Return V64I8: integer weight * scale + ``folded_offset``."""
        e = self.e
        even, odd = self._folded(step, self.record_format.folded_offset or 0)
        return e.b.bitcast(e.b.or_(even, e.b.shl(odd, e.const(V32I16, 8))), V64I8)

    def words(self, step: int, folded: bool) -> tuple[Value, Value]:
        """Return V32I16: weights of the step's columns 0 and 2, and of columns 1 and 3; times scale if ``folded``."""
        if folded:
            return self._folded(step, 0)
        even, odd = even_and_odd(self.e, self.codes(step))
        offset = self.e.const(V32I16, self.record_format.offset)
        return self.e.b.sub(even, offset), self.e.b.sub(odd, offset)

    def _folded(self, step: int, offset: int) -> tuple[Value, Value]:
        """Return V32I16: integer weight * scale + ``offset`` of the even and of the odd bytes of a step."""
        e, record_format = self.e, self.record_format
        index = 4 * step // record_format.scale_weights
        if index not in self._folds:
            scale = self._integer_scale(record_format.scales_at + index * record_format.scale_bytes)
            both = e.b.or_(e.b.shl(scale, e.const(V16I32, 16)), e.b.and_(scale, e.const(V16I32, 0xFFFF)))
            factor = e.b.bitcast(both, V32I16)
            start = e.b.sub(e.const(V32I16, offset), e.b.mul(factor, e.const(V32I16, record_format.offset)))
            self._folds[index] = factor, start
        factor, start = self._folds[index]
        even, odd = (e.b.add(e.b.mul(part, factor), start) for part in even_and_odd(e, self.codes(step)))
        return even, odd

    def minimum(self, block: int, sub: int) -> Value:
        """Return V16F32: what is added to every weight of the sub-block, where the format has minima."""
        record_format = self.record_format
        index = (block * BLOCK + sub * record_format.scale_weights) // record_format.scale_weights
        if record_format.minimum == "f16":
            value = self.e.load(V16I16, self.base, record_format.minima_at + index * record_format.minimum_bytes)
            return self._times(self.e.f16_to_f32(value), record_format.minimum_unit)
        if record_format.minimum == "nibble":
            integers = self._bytes(record_format.scales_at + index * record_format.scale_bytes)
            integers = self.e.b.lshr(integers, self.e.const(V16I32, 4))
        else:
            integers = self._bytes(record_format.minima_at + index * record_format.minimum_bytes)
        return self.e.b.fmul(self.e.to_float(integers), self._super(1, record_format.minimum_unit))
