"""Vectors for kernels: LLVM values of 64 bytes, the operations the matmuls need, and those that depend on the machine.

``Emitter`` wraps an LLVM builder; each method emits one operation on

    BYTES   <64 x i8>       FLOATS  <16 x float>
    INTS    <16 x i32>      HALVES  <16 x half>

LLVM maps a value to one AVX-512 register, two of AVX2 or four of Neon, so kernels are written once. Where a machine has
an instruction that plain LLVM code does not reach, the features of the CPU that is compiled for choose: ``lookup``, a
16-entry table of bytes, is pshufb (SSSE3, AVX2, AVX-512BW), tbl (Neon), else a chain of selections; dot.py has the
products of small integers. The features are those numba compiles for: the host's, or those in NUMBA_CPU_NAME and
NUMBA_CPU_FEATURES, which is how the tests reach the other choices.

``operation`` makes a numba intrinsic of an emitting function. Its operands are ``address`` (int64) and ``floats16``,
numba's name for FLOATS.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import llvmlite.binding as llvm
from llvmlite import ir
from numba.core import types
from numba.core.registry import cpu_target
from numba.extending import intrinsic, models, register_model

from gguflike.kernels.vector.sizes import LANES as LANES

I1, I8, I16, I32, I64 = (ir.IntType(n) for n in (1, 8, 16, 32, 64))
F16, F32 = ir.HalfType(), ir.FloatType()
BYTES = ir.VectorType(I8, 64)
INTS = ir.VectorType(I32, LANES)
FLOATS = ir.VectorType(F32, LANES)
HALVES = ir.VectorType(F16, LANES)
SHORTS = ir.VectorType(I16, LANES)
QUADS = ir.VectorType(I8, LANES)  # one byte per lane

_SUFFIXES = {FLOATS: "f32", INTS: "i32", SHORTS: "i16"}
MASKED_ALIGN_OPERAND = llvm.llvm_version_info[0] < 22  # where masked accesses take the alignment as an operand


@lru_cache(maxsize=1)
def target() -> tuple[str, frozenset[str]]:
    """(triple, names of the CPU features) that numba compiles for."""
    triple, _, features = cpu_target.target_context.codegen().magic_tuple()
    return triple, frozenset(f[1:] for f in features.split(",") if f.startswith("+"))


class Emitter:
    """Emits vector operations at a builder's position. ``triple`` and ``features`` default to numba's target."""

    def __init__(self, builder: Any, triple: str = "", features: frozenset[str] | None = None) -> None:
        self.b = builder
        default_triple, default_features = target() if features is None else ("", frozenset())
        self.arm = (triple or default_triple).startswith(("aarch64", "arm64"))
        self.features = default_features if features is None else features

    # Constants and scalars

    def const(self, vector: Any, value: float | Sequence[int]) -> Any:
        """The same value in every element, or one value each."""
        values = list(value) if isinstance(value, Sequence) else [value] * vector.count
        return ir.Constant(vector, values)

    def zero(self, vector: Any) -> Any:
        return ir.Constant(vector, None)

    def int64(self, value: int) -> Any:
        return ir.Constant(I64, value)

    # Memory. ``place`` is an int64 address or a pointer to bytes; ``offset`` is in bytes, a number or an int64 value.

    def pointer(self, place: Any, offset: Any = 0) -> Any:
        """Pointer to the byte ``offset`` bytes after ``place``."""
        base = self.b.inttoptr(place, I8.as_pointer()) if isinstance(place.type, ir.IntType) else place
        if isinstance(offset, int):
            if not offset:
                return base
            offset = self.int64(offset)
        return self.b.gep(base, [offset])

    def load(self, kind: Any, place: Any, offset: Any = 0) -> Any:
        """Unaligned load of a scalar or vector."""
        value = self.b.load(self.b.bitcast(self.pointer(place, offset), kind.as_pointer()))
        value.align = 1
        return value

    def store(self, value: Any, place: Any, offset: Any = 0) -> None:
        self.b.store(value, self.b.bitcast(self.pointer(place, offset), value.type.as_pointer())).align = 1

    def prefetch(self, place: Any, offset: Any = 0) -> None:
        """Ask for the cache line; never faults."""
        p = self.pointer(place, offset)
        kind = ir.FunctionType(ir.VoidType(), [p.type, I32, I32, I32])
        fn = self.function("llvm.prefetch.p0", kind)
        self.b.call(fn, [p, ir.Constant(I32, 0), ir.Constant(I32, 3), ir.Constant(I32, 1)])

    # Lanes

    def splat(self, vector: Any, value: Any) -> Any:
        """A scalar in every element."""
        undef = ir.Constant(vector, ir.Undefined)
        first = self.b.insert_element(undef, value, ir.Constant(I32, 0))
        return self.b.shuffle_vector(first, undef, ir.Constant(ir.VectorType(I32, vector.count), None))

    def broadcast(self, kind: Any, place: Any, offset: Any = 0) -> Any:
        """A 4-byte scalar from memory in every lane of INTS or FLOATS; for BYTES, four bytes repeated."""
        if kind is BYTES:
            return self.b.bitcast(self.splat(INTS, self.load(I32, place, offset)), BYTES)
        return self.splat(kind, self.load(kind.element, place, offset))

    def _part(self, value: Any, start: int, count: int) -> Any:
        return self.b.shuffle_vector(
            value, value, ir.Constant(ir.VectorType(I32, count), list(range(start, start + count)))
        )

    def _joined(self, parts: list[Any]) -> Any:
        while len(parts) > 1:
            count = parts[0].type.count * 2
            mask = ir.Constant(ir.VectorType(I32, count), list(range(count)))
            parts = [self.b.shuffle_vector(a, b, mask) for a, b in zip(parts[::2], parts[1::2], strict=True)]
        return parts[0]

    def pieces(self, pieces: int, function: Callable[..., Any], *values: Any) -> Any:
        """Apply ``function`` to vectors cut into equal pieces, and join the results."""
        cut = [
            [self._part(v, i * (v.type.count // pieces), v.type.count // pieces) for v in values] for i in range(pieces)
        ]
        return self._joined([function(*parts) for parts in cut])

    # Bytes

    def shift_bytes(self, value: Any, left: int, mask: int) -> Any:
        """Bytes shifted left (right where negative), then masked; the mask must clear what crosses bytes."""
        if left:
            words = ir.VectorType(I16, 32)
            wide = self.b.bitcast(value, words)
            wide = (
                self.b.shl(wide, self.const(words, left)) if left > 0 else self.b.lshr(wide, self.const(words, -left))
            )
            value = self.b.bitcast(wide, BYTES)
        return self.b.and_(value, self.const(BYTES, mask))

    def nibbles(self, value: Any) -> tuple[Any, Any]:
        """BYTES: the low and the high halves of bytes."""
        return self.shift_bytes(value, 0, 15), self.shift_bytes(value, -4, 15)

    def lookup(self, table: Sequence[int], codes: Any) -> Any:
        """``table[code]`` for byte codes 0..15; the table holds 16 bytes (0..255)."""
        signed = [t - 256 if t > 127 else t for t in table]
        if self.arm:
            return self.pieces(4, lambda c: self._table_call("llvm.aarch64.neon.tbl1.v16i8", signed, c), codes)
        for feature, name, pieces in (
            ("avx512bw", "llvm.x86.avx512.pshuf.b.512", 1),
            ("avx2", "llvm.x86.avx2.pshuf.b", 2),
            ("ssse3", "llvm.x86.ssse3.pshuf.b.128", 4),
        ):
            if feature in self.features:
                return self.pieces(pieces, lambda c, name=name: self._table_call(name, signed, c), codes)
        result = self.const(BYTES, signed[0])
        for code in range(1, 16):
            hit = self.b.icmp_unsigned("==", codes, self.const(BYTES, code))
            result = self.b.select(hit, self.const(BYTES, signed[code]), result)
        return result

    def _table_call(self, name: str, table: list[int], codes: Any) -> Any:
        kind = codes.type
        fn = self.function(name, ir.FunctionType(kind, [kind, kind]))
        return self.b.call(fn, [ir.Constant(kind, table * (kind.count // 16)), codes])

    # Arithmetic

    def fma(self, a: Any, b: Any, c: Any) -> Any:
        """a * b + c, rounded once."""
        return self.b.call(self.function("llvm.fma.v16f32", ir.FunctionType(FLOATS, [FLOATS] * 3)), [a, b, c])

    def to_float(self, ints: Any) -> Any:
        """Signed integers of up to 32 bits, to the nearest float32."""
        return self.b.sitofp(ints, FLOATS)

    def round(self, floats: Any) -> Any:
        """To the nearest integer, ties to even."""
        return self.b.call(self.function("llvm.rint.v16f32", ir.FunctionType(FLOATS, [FLOATS])), [floats])

    def reduce(self, how: str, ints: Any) -> Any:
        """INTS to one int32: ``how`` is "add" or "umax"."""
        return self.b.call(self.function(f"llvm.vector.reduce.{how}.v16i32", ir.FunctionType(I32, [INTS])), [ints])

    def sum(self, floats: Any) -> Any:
        """Sum of the lanes, in pairs."""
        while floats.type.count > 1:
            half = floats.type.count // 2
            floats = self.b.fadd(self._part(floats, 0, half), self._part(floats, half, half))
        return self.b.extract_element(floats, ir.Constant(I32, 0))

    def halves_to_float(self, bits: Any) -> Any:
        """float16 as SHORTS (16 bits each) to FLOATS; by integer arithmetic where the CPU has no conversion."""
        if self.arm or "f16c" in self.features or "avx512f" in self.features:
            return self.b.fpext(self.b.bitcast(bits, HALVES), FLOATS)
        wide = self.b.zext(bits, INTS)
        shifted = self.b.shl(self.b.and_(wide, self.const(INTS, 0x7FFF)), self.const(INTS, 13))
        # A multiplication by 2**112 corrects the bias of the exponent, exactly, and turns subnormals into normals.
        value = self.b.fmul(self.b.bitcast(shifted, FLOATS), self.const(FLOATS, 2.0**112))
        special = self.b.or_(shifted, self.const(INTS, 0x7F800000))
        is_special = self.b.icmp_unsigned(">=", shifted, self.const(INTS, 0x7C00 << 13))
        magnitude = self.b.select(is_special, special, self.b.bitcast(value, INTS))
        sign = self.b.shl(self.b.and_(wide, self.const(INTS, 0x8000)), self.const(INTS, 16))
        return self.b.bitcast(self.b.or_(magnitude, sign), FLOATS)

    def minimum(self, a: Any, b: Any) -> Any:
        """The smaller of two signed integers."""
        return self.b.select(self.b.icmp_signed("<", a, b), a, b)

    def loop(
        self,
        start: Any,
        stop: Any,
        step: int,
        values: list[Any],
        body: Callable[[Any, list[Any]], list[Any]],
        unroll: bool = True,
    ) -> list[Any]:
        """``for index in range(start, stop, step): values = body(index, values)``, in registers; the last values.

        ``unroll``: whether LLVM may.
        """
        before = self.b.block
        head, inside, after = (self.b.append_basic_block(name) for name in ("head", "inside", "after"))
        self.b.branch(head)
        self.b.position_at_end(head)
        index = self.b.phi(I64)
        index.add_incoming(start, before)
        phis = [self.b.phi(value.type) for value in values]
        for phi, value in zip(phis, values, strict=True):
            phi.add_incoming(value, before)
        self.b.cbranch(self.b.icmp_signed("<", index, stop), inside, after)
        self.b.position_at_end(inside)
        results = body(index, list(phis))
        following = self.b.add(index, self.int64(step))
        for phi, value in zip([index, *phis], [following, *results], strict=True):
            phi.add_incoming(value, self.b.block)
        again = self.b.branch(head)
        if not unroll:
            again.set_metadata("llvm.loop", self._not_unrolled())
        self.b.position_at_end(after)
        return list(phis)

    def in_turn(self, value: Any, steps: Sequence[Callable[[Any], Any]]) -> Any:
        """``for step in steps: value = step(value)``, each in a basic block of its own.

        LLVM orders a block as a whole: in a long one it moves all prefetches to the start, where they fill the queue of
        outstanding loads, and has more values alive than there are registers. The branches between the blocks are never
        taken, which LLVM cannot know.
        """
        end = self.b.append_basic_block("end")
        results: list[tuple[Any, Any]] = []
        for step in steps:
            if results:
                never = self.b.asm(ir.FunctionType(I32, [I32]), "", "=r,0,~{memory}", [ir.Constant(I32, 0)], True)
                following = self.b.append_basic_block("following")
                self.b.cbranch(self.b.icmp_signed("==", never, ir.Constant(I32, 0)), following, end)
                self.b.position_at_end(following)
            value = step(value)
            results.append((value, self.b.block))
        self.b.branch(end)
        self.b.position_at_end(end)
        result = self.b.phi(value.type)
        for value, block in results:
            result.add_incoming(value, block)
        return result

    def _not_unrolled(self) -> Any:
        """Metadata of a loop. It refers to itself, which makes it that loop's own."""
        module = self.b.module
        node = ir.MDValue(module, [module.add_metadata(["llvm.loop.unroll.disable"])], str(len(module.metadata)))
        node.operands = (node, *node.operands)
        return node

    def transposed(self, rows: list[Any]) -> list[Any]:
        """Sixteen vectors of four float32, or of eight int16, to four FLOATS or eight SHORTS: one per column.

        Rows of a column end up in order, and no shuffle crosses 128 bits.
        """
        count = rows[0].type.count
        columns = [self._joined(rows[first::count]) for first in range(count)]
        parts = range(0, LANES, count)
        for _ in range(count.bit_length() - 1):
            pairs = list(zip(columns[: count // 2], columns[count // 2 :], strict=True))
            halves = [
                [part + half + i // 2 + LANES * (i % 2) for part in parts for i in range(count)]
                for half in (0, count // 2)
            ]
            columns = [self.b.shuffle_vector(a, b, self.const(INTS, places)) for a, b in pairs for places in halves]
        return columns

    def first_lanes(self, count: Any) -> Any:
        """Mask of the lanes below an int64 ``count`` (none where it is negative)."""
        most = self.b.trunc(self.minimum(count, self.int64(LANES)), I32)
        return self.b.icmp_signed("<", self.const(INTS, list(range(LANES))), self.splat(INTS, most))

    def load_masked(self, kind: Any, place: Any, offset: Any, mask: Any) -> Any:
        """Lanes where the mask is set; zero, and no access to memory, elsewhere. INTS, SHORTS or FLOATS."""
        p = self.b.bitcast(self.pointer(place, offset), kind.as_pointer())
        name = f"llvm.masked.load.v16{_SUFFIXES[kind]}.p0"
        if MASKED_ALIGN_OPERAND:
            fn = self.function(name, ir.FunctionType(kind, [p.type, I32, mask.type, kind]))
            return self.b.call(fn, [p, ir.Constant(I32, 2), mask, self.zero(kind)])
        fn = self.function(name, ir.FunctionType(kind, [p.type, mask.type, kind]))
        return self.b.call(fn, [p, mask, self.zero(kind)])

    def store_masked(self, value: Any, place: Any, offset: Any, mask: Any) -> None:
        """Writes FLOATS where the mask is set."""
        p = self.b.bitcast(self.pointer(place, offset), value.type.as_pointer())
        name = "llvm.masked.store.v16f32.p0"
        if MASKED_ALIGN_OPERAND:
            fn = self.function(name, ir.FunctionType(ir.VoidType(), [value.type, p.type, I32, mask.type]))
            self.b.call(fn, [value, p, ir.Constant(I32, 4), mask])
        else:
            fn = self.function(name, ir.FunctionType(ir.VoidType(), [value.type, p.type, mask.type]))
            self.b.call(fn, [value, p, mask])

    def function(self, name: str, kind: Any) -> Any:
        """The function or LLVM intrinsic of that name, declared once per module."""
        found = self.b.module.globals.get(name)
        return found if found is not None else ir.Function(self.b.module, kind, name)


class Vector(types.Type):
    """The numba type of an LLVM vector."""

    def __init__(self, name: str, vector: Any) -> None:
        self.vector = vector
        super().__init__(name=name)


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager: Any, fe_type: Vector) -> None:
        super().__init__(manager, fe_type, fe_type.vector)  # type: ignore[no-untyped-call]  # numba ships no types


floats16 = Vector("floats16", FLOATS)
address = types.int64
void = types.void


def operation(result: Any, *operands: Any) -> Callable[[Callable[..., Any]], Any]:
    """Decorator: a numba intrinsic of ``function(emitter, *values)``, with the given numba types."""

    def wrap(function: Callable[..., Any]) -> Any:
        def typer(typingctx: Any, *args: Any) -> Any:  # numba's signature
            def build(context: Any, builder: Any, signature: Any, values: Any) -> Any:
                out = function(Emitter(builder), *values)
                return context.get_dummy_value() if out is None else out

            return result(*operands), build

        names = ", ".join(f"a{i}" for i in range(len(operands)))
        scope: dict[str, Any] = {"typer": typer}
        # Numba takes the number of operands from the signature, so it must be spelled out.
        exec(f"def {function.__name__}(typingctx, {names}): return typer(typingctx, {names})", scope)
        return intrinsic(scope[function.__name__])

    return wrap
