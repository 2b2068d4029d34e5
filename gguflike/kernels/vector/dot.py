"""Sums of products of small integers, with the instructions that machines have for them.

``ByteSums`` adds products of unsigned by signed bytes, four to a lane of V16I32:

    AVX-512 VNNI, AVX-VNNI   vpdpbusd, one instruction
    AVX-512BW, AVX2          vpmaddubsw adds two products in 16 bits. As many of these sums as cannot overflow are
                             added up before vpmaddwd takes them to 32 bits; bytes above 127 are halved into nibbles.
    Arm                      usdot (i8mm) or sdot (dotprod)
    others                   widening multiplications

``WordSums`` adds products of 16-bit integers, two to a lane: where bytes above 127 would have to be halved, that is the
faster way once weights are unpacked anyway (``MULTIPLY_ADD``).

Results are the same on every machine. The features are those numba compiles for unless an Emitter says otherwise.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import llvmlite.binding as llvm
from llvmlite import ir

from gguflike.kernels.vector.emitter import I32, V16I32, V32I16, Emitter, target
from gguflike.kernels.vector.types import Value

LARGEST_SIGNED = 127
_BYTE_DOT_OPERANDS = llvm.llvm_version_info[0] >= 22  # older LLVM declares vpdpbusd on vectors of i32
_LARGEST_WORD = 2**15 - 1


class _MultiplyAdd(NamedTuple):
    """Names of vpmaddubsw and vpmaddwd."""

    bytes: str
    words: str


def _multiply_add(features: frozenset[str]) -> _MultiplyAdd | None:
    """Return the instructions of this machine, if it has them."""
    if "avx512bw" in features:
        return _MultiplyAdd("avx512.pmaddubs.w.512", "avx512.pmaddw.d.512")
    return _MultiplyAdd("avx2.pmadd.ub.sw", "avx2.pmadd.wd") if "avx2" in features else None


def _for_bytes(features: frozenset[str]) -> _MultiplyAdd | None:
    """Return the same, where the machine has nothing better for bytes."""
    return None if features & {"avx512vnni", "avxvnni"} else _multiply_add(features)


MULTIPLY_ADD = _for_bytes(target()[1]) is not None


def byte_run(largest: int) -> int:
    """Return how many sums of two products, of a byte up to ``largest`` by a signed one, 16 bits hold together."""
    return _LARGEST_WORD // (2 * LARGEST_SIGNED * max(largest, 1))


def fits_short(largest: int, steps: int) -> bool:
    """Tell whether 16 bits hold so many sums of two products, of numbers up to ``largest`` by signed bytes."""
    return steps <= byte_run(largest)


class Sums:
    """How to add up products on the machine that is compiled for. An unfinished sum is a list of LLVM values.

    ``run``: after this many additions a sum must be settled.

    ``chains``: sums to be used in turn where there is only one to be had: a dot product waits for the one before it,
    while 16-bit sums are added in a cycle.

    ``loop``: whether sums of many tokens must be written as a loop over their additions. With few registers LLVM would
    finish one sum after the other, with all weights waiting in memory.
    """

    run = 1 << 30
    chains = 2

    def __init__(self, e: Emitter) -> None:
        self.e = e
        self._names = _for_bytes(e.features)
        self.loop = self._names is not None or "avx512f" not in e.features

    def begin(self, start: Value) -> list[Value]:
        """Begin a sum, from V16I32 on."""
        return [start]

    def add(self, sums: list[Value], a: Value, b: Value) -> list[Value]:
        """Add the products of two vectors of 64 bytes."""
        raise NotImplementedError

    def settle(self, sums: list[Value]) -> list[Value]:
        """Make room for another ``run`` additions."""
        return sums

    def value(self, sums: list[Value]) -> Value:
        """Finish a sum, as V16I32."""
        return self.settle(sums)[0]


class ByteSums(Sums):
    """Adds per lane: the sum over i < 4 of ``a[4 * lane + i] * b[4 * lane + i]``.

    Bytes of ``a`` are unsigned, at most ``largest``; bytes of ``b`` are signed and not -128. Sums must fit in 32 bits.
    Where ``halved``, ``a`` is given as two vectors, the low and the high nibbles.
    """

    def __init__(self, e: Emitter, largest: int) -> None:
        super().__init__(e)
        self._wide = largest > LARGEST_SIGNED
        self.halved = self._wide and self._names is not None
        if self._names:
            self.run, self.chains = byte_run(15 if self._wide else largest), 1

    def begin(self, start: Value) -> list[Value]:
        """Begin a sum, from V16I32 on, with 16-bit sums beside it where the machine adds in them."""
        return [start] + [self.e.zero(V32I16)] * ((1 + self._wide) if self._names else 0)

    def add(self, sums: list[Value], a: Value, b: Value) -> list[Value]:
        """Add the products of the bytes ``a`` (two vectors of nibbles where ``halved``) and ``b``."""
        e = self.e
        if not self._names:
            return [_dot(e, sums[0], a, b, self._wide)]
        products = [_multiply_words(e, self._names.bytes, V32I16, part, b) for part in (a if self.halved else [a])]
        return [sums[0], *(e.b.add(old, new) for old, new in zip(sums[1:], products, strict=True))]

    def settle(self, sums: list[Value]) -> list[Value]:
        """Add the 16-bit sums to those of 32 bits, and begin them anew."""
        total, e = sums[0], self.e
        for waiting, factor in zip(sums[1:], (1, 16), strict=False):
            assert self._names
            total = e.b.add(total, _multiply_words(e, self._names.words, V16I32, waiting, e.const(V32I16, factor)))
        return self.begin(total)


class ShortSums(Sums):
    """Adds as ``ByteSums`` does, in 16 bits alone, until the sum is finished: half of the instructions in between.

    A sum begins from two int16 in each lane. It may wrap around before it is finished, but must fit in 16 bits then;
    bytes of ``a`` are at most LARGEST_SIGNED.
    """

    def begin(self, start: Value) -> list[Value]:
        """Begin a sum, from V32I16 on."""
        return [start]

    def add(self, sums: list[Value], a: Value, b: Value) -> list[Value]:
        """Add the products of the bytes ``a`` and ``b``."""
        assert self._names
        return [self.e.b.add(sums[0], _multiply_words(self.e, self._names.bytes, V32I16, a, b))]

    def value(self, sums: list[Value]) -> Value:
        """Finish a sum, as V16I32."""
        assert self._names
        return _multiply_words(self.e, self._names.words, V16I32, sums[0], self.e.const(V32I16, 1))


class WordSums(Sums):
    """Adds per lane: the sum over i < 2 of ``a[2 * lane + i] * b[2 * lane + i]``, of int16."""

    def add(self, sums: list[Value], a: Value, b: Value) -> list[Value]:
        """Add the products of the int16 of two V32I16."""
        e = self.e
        if names := _multiply_add(e.features):
            return [e.b.add(sums[0], _multiply_words(e, names.words, V16I32, a, b))]
        lanes = [e.b.bitcast(vector, V16I32) for vector in (a, b)]
        total = sums[0]
        for low in (True, False):
            parts = [e.b.shl(lane, e.const(V16I32, 16)) if low else lane for lane in lanes]
            total = e.b.add(total, e.b.mul(*(e.b.ashr(part, e.const(V16I32, 16)) for part in parts)))
        return [total]


def rounded_product(e: Emitter, a: Value, b: Value) -> Value:
    """Compute V32I16 ``a * b / 2**15``, rounded to nearest, halves up. -2**15 times itself is not allowed."""
    for has_it, name, pieces in (
        (e.arm, "aarch64.neon.sqrdmulh.v8i16", 4),
        ("avx512bw" in e.features, "x86.avx512.pmul.hr.sw.512", 1),
        ("avx2" in e.features, "x86.avx2.pmul.hr.sw", 2),
        ("ssse3" in e.features, "x86.ssse3.pmul.hr.sw.128", 4),
    ):
        if has_it:
            return e.pieces(pieces, lambda a, b, name=name: e.call(f"llvm.{name}", a.type, a, b), a, b)
    wide = ir.VectorType(I32, V32I16.count)
    product = e.b.add(e.b.mul(e.b.sext(a, wide), e.b.sext(b, wide)), e.const(wide, 1 << 14))
    return e.b.trunc(e.b.ashr(product, e.const(wide, 15)), V32I16)


def _multiply_words(e: Emitter, name: str, result: ir.Type, a: Value, b: Value) -> Value:
    """Call vpmaddubsw or vpmaddwd on vectors of 64 bytes."""
    pieces = 2 if name.startswith("avx2") else 1
    kind = ir.VectorType(result.element, result.count // pieces)
    return e.pieces(pieces, lambda a, b: e.call(f"llvm.x86.{name}", kind, a, b), a, b)


def _dot(e: Emitter, acc: Value, unsigned: Value, signed: Value, wide: bool) -> Value:
    """Add four products to each lane of ``acc``, in the way that suits the machine."""
    if "avx512vnni" in e.features:
        return _vnni(e, 512, acc, unsigned, signed)
    if "avxvnni" in e.features:
        return e.pieces(2, partial(_vnni, e, 256), acc, unsigned, signed)
    if e.arm and "i8mm" in e.features:
        return e.pieces(4, partial(_arm_dot, e, "usdot"), acc, unsigned, signed)
    if e.arm and "dotprod" in e.features:
        return e.pieces(4, partial(_arm_signed, e, wide), acc, unsigned, signed)
    return _widening(e, acc, unsigned, signed)


def _vnni(e: Emitter, bits: int, acc: Value, unsigned: Value, signed: Value) -> Value:
    """Call vpdpbusd on vectors of ``bits`` bits."""
    operand = unsigned.type if _BYTE_DOT_OPERANDS else acc.type
    factors = (e.b.bitcast(factor, operand) for factor in (unsigned, signed))
    return e.call(f"llvm.x86.avx512.vpdpbusd.{bits}", acc.type, acc, *factors)


def _arm_dot(e: Emitter, name: str, acc: Value, a: Value, b: Value) -> Value:
    """Call usdot or sdot on vectors of 128 bits."""
    return e.call(f"llvm.aarch64.neon.{name}.v4i32.v16i8", acc.type, acc, a, b)


def _arm_signed(e: Emitter, wide: bool, acc: Value, unsigned: Value, signed: Value) -> Value:
    """Use sdot, signed by signed: a byte with bit 7 set counts 256 too little, so bit 7 (-128) is subtracted apart."""
    if not wide:
        return _arm_dot(e, "sdot", acc, unsigned, signed)
    kind = unsigned.type
    low = e.b.and_(unsigned, e.const(kind, 127))
    high = e.b.and_(unsigned, e.const(kind, -128))
    negative = _arm_dot(e, "sdot", e.zero(acc.type), high, signed)
    return e.b.sub(_arm_dot(e, "sdot", acc, low, signed), negative)


def _widening(e: Emitter, acc: Value, unsigned: Value, signed: Value) -> Value:
    """Multiply in 32 bits, one byte of each lane after the other."""
    u, s = e.b.bitcast(unsigned, V16I32), e.b.bitcast(signed, V16I32)
    for byte in range(4):
        a = e.b.and_(e.b.lshr(u, e.const(V16I32, 8 * byte)), e.const(V16I32, 255))
        c = e.b.ashr(e.b.shl(s, e.const(V16I32, 24 - 8 * byte)), e.const(V16I32, 24))
        acc = e.b.add(acc, e.b.mul(a, c))
    return acc
