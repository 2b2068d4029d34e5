"""Vectors for kernels: LLVM values of 64 bytes, the operations the matmuls need, and those that depend on the machine.

``Emitter`` wraps an LLVM builder; each method emits one operation. Vector types are named as LLVM names them in its
intrinsics: ``V16F32`` is <16 x float>, ``V64I8`` is <64 x i8>.

LLVM maps a value to one AVX-512 register, two of AVX2 or four of Neon, so kernels are written once. Where a machine has
an instruction that plain LLVM code does not reach, the features of the CPU that is compiled for choose: ``lookup``, a
16-entry table of bytes, is pshufb (SSSE3, AVX2, AVX-512BW), tbl (Neon), else a chain of selections; dot.py has the
products of small integers. The features are those numba compiles for: the host's, or those in NUMBA_CPU_NAME and
NUMBA_CPU_FEATURES, which is how the tests reach the other choices.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache

import llvmlite.binding as llvm
from llvmlite import ir
from numba.core.registry import cpu_target

from gguflike.kernels.vector import arm
from gguflike.kernels.vector.sizes import LANES
from gguflike.kernels.vector.types import Value

I1, I8, I16, I32, I64 = (ir.IntType(n) for n in (1, 8, 16, 32, 64))
F16, F32 = ir.HalfType(), ir.FloatType()
V64I8, V32I16 = ir.VectorType(I8, 4 * LANES), ir.VectorType(I16, 2 * LANES)  # 64 bytes
V16F32, V16I32 = ir.VectorType(F32, LANES), ir.VectorType(I32, LANES)
V16F16, V16I16, V16I8, V16I1 = (ir.VectorType(kind, LANES) for kind in (F16, I16, I8, I1))  # one element per lane

MASKED_ALIGN_OPERAND = llvm.llvm_version_info[0] < 22  # where masked accesses take the alignment as an operand


@lru_cache(maxsize=1)
def target() -> tuple[str, frozenset[str]]:
    """Return the triple and the names of the CPU features that numba compiles for."""
    triple, cpu, features = cpu_target.target_context.codegen().magic_tuple()
    names = frozenset(f[1:] for f in features.split(",") if f.startswith("+"))
    return triple, names | arm.dot_products(triple, cpu, features) if is_arm(triple) else names


def is_arm(triple: str) -> bool:
    """Tell whether a target is 64-bit Arm."""
    return triple.startswith(("aarch64", "arm64"))


def _like(value: Value, element: ir.Type) -> ir.Type:
    """Return the type with as many elements as ``value`` has, of the kind ``element``: that itself for a scalar."""
    return ir.VectorType(element, value.type.count) if isinstance(value.type, ir.VectorType) else element


class Emitter:
    """Emits operations at the position of an LLVM builder, for numba's target or for ``triple`` and ``features``.

    Methods return the LLVM value of their result.
    """

    def __init__(self, builder: ir.IRBuilder, triple: str = "", features: frozenset[str] | None = None) -> None:
        self.b = builder
        default_triple, default_features = target() if features is None else ("", frozenset())
        self.arm = is_arm(triple or default_triple)
        self.features = default_features if features is None else features

    # Constants and scalars

    def const(self, kind: ir.Type, value: float | Sequence[int]) -> Value:
        """Make a constant: a scalar, or a vector with this value in every element, or with one value for each."""
        if not isinstance(kind, ir.VectorType):
            return ir.Constant(kind, value)
        return ir.Constant(kind, list(value) if isinstance(value, Sequence) else [value] * kind.count)

    def zero(self, kind: ir.Type) -> Value:
        """Make a zero: in every element of a vector type."""
        return ir.Constant(kind, None)

    def int64(self, value: int) -> Value:
        """Make an integer constant of 64 bits."""
        return ir.Constant(I64, value)

    # Memory. ``place`` is an int64 address or a pointer to bytes; ``offset`` is in bytes, a number or an int64 value.

    def pointer(self, place: Value, offset: Value | int = 0) -> Value:
        """Make a pointer to the byte that is ``offset`` bytes after ``place``."""
        base = self.b.inttoptr(place, I8.as_pointer()) if isinstance(place.type, ir.IntType) else place
        if isinstance(offset, int):
            if not offset:
                return base
            offset = self.int64(offset)
        return self.b.gep(base, [offset])

    def load(self, kind: ir.Type, place: Value, offset: Value | int = 0) -> Value:
        """Load a scalar or vector; it need not be aligned."""
        value = self.b.load(self.b.bitcast(self.pointer(place, offset), kind.as_pointer()))
        value.align = 1
        return value

    def store(self, value: Value, place: Value, offset: Value | int = 0) -> None:
        """Store a scalar or vector; the place need not be aligned."""
        self.b.store(value, self.b.bitcast(self.pointer(place, offset), value.type.as_pointer())).align = 1

    def load_splat(self, kind: ir.Type, place: Value, offset: Value | int = 0) -> Value:
        """Load 4 bytes and repeat them: a scalar in every lane of V16I32 or V16F32, or all four bytes over V64I8."""
        if kind is V64I8:
            return self.b.bitcast(self.splat(V16I32, self.load(I32, place, offset)), V64I8)
        return self.splat(kind, self.load(kind.element, place, offset))

    def load_masked(self, kind: ir.Type, place: Value, offset: Value | int, mask: Value) -> Value:
        """Load the lanes of V16I32, V16I16 or V16F32 where the mask is set; others are zero, and not read."""
        pointer = self.b.bitcast(self.pointer(place, offset), kind.as_pointer())
        alignment = [self.const(I32, 2)] if MASKED_ALIGN_OPERAND else []
        element = "f32" if kind is V16F32 else f"i{kind.element.width}"
        return self.call(f"llvm.masked.load.v16{element}.p0", kind, pointer, *alignment, mask, self.zero(kind))

    def store_masked(self, value: Value, place: Value, offset: Value | int, mask: Value) -> None:
        """Store lanes of a V16F32 where the mask is set."""
        pointer = self.b.bitcast(self.pointer(place, offset), value.type.as_pointer())
        alignment = [self.const(I32, 4)] if MASKED_ALIGN_OPERAND else []
        self.call("llvm.masked.store.v16f32.p0", ir.VoidType(), value, pointer, *alignment, mask)

    def prefetch(
        self, place: Value, offset: Value | int = 0, for_writing: bool = False, second_level: bool = False
    ) -> None:
        """Ask for the cache line of a place, in all levels of the cache, or from the second on. This never faults.

        Few lines can be on their way to the first level at a time, and loads wait when these are all taken.
        """
        pointer, locality = self.pointer(place, offset), 2 if second_level else 3
        self.call(
            "llvm.prefetch.p0",
            ir.VoidType(),
            pointer,
            *(self.const(I32, flag) for flag in (int(for_writing), locality, 1)),
        )

    def forget_memory(self) -> None:
        """Keep LLVM from holding in registers what it has read from memory before."""
        self.b.asm(ir.FunctionType(ir.VoidType(), []), "", "~{memory}", [], True)

    # Lanes

    def splat(self, kind: ir.Type, value: Value) -> Value:
        """Put a scalar into every element."""
        undefined = ir.Constant(kind, ir.Undefined)
        first = self.b.insert_element(undefined, value, self.const(I32, 0))
        return self.shuffle(first, undefined, [0] * kind.count)

    def extract(self, vector: Value, lane: int) -> Value:
        """Take one element as a scalar."""
        return self.b.extract_element(vector, self.const(I32, lane))

    def shuffle(self, a: Value, b: Value, order: Sequence[int]) -> Value:
        """Take the elements ``order`` of ``a`` and ``b``: those of ``b`` are numbered after those of ``a``."""
        return self.b.shuffle_vector(a, b, ir.Constant(ir.VectorType(I32, len(order)), list(order)))

    def concat(self, parts: Sequence[Value]) -> Value:
        """Join two vectors, or four, eight, ..., end to end."""
        while len(parts) > 1:
            everything = range(2 * parts[0].type.count)
            parts = [self.shuffle(a, b, everything) for a, b in zip(parts[::2], parts[1::2], strict=True)]
        return parts[0]

    def pieces(self, pieces: int, function: Callable[..., Value], *values: Value) -> Value:
        """Apply ``function`` to vectors cut into equal pieces, and join the results."""

        def cut(value: Value, piece: int) -> Value:
            count = value.type.count // pieces
            return self.shuffle(value, value, range(piece * count, (piece + 1) * count))

        return self.concat([function(*(cut(value, piece) for value in values)) for piece in range(pieces)])

    def first_lanes(self, count: Value) -> Value:
        """Make a mask of the lanes below an int64 ``count``: of none where it is negative."""
        most = self.b.trunc(self.smin(count, self.int64(LANES)), I32)
        return self.b.icmp_signed("<", self.const(V16I32, range(LANES)), self.splat(V16I32, most))

    def combine_lanes(self, value: Value, combine: Callable[[Value, Value], Value]) -> Value:
        """Combine sixteen lanes, by halves and so in the same order on every machine. Every lane gets the result."""
        for step in (8, 4, 2, 1):
            value = combine(value, self.shuffle(value, value, [lane ^ step for lane in range(LANES)]))
        return value

    def reduce_add(self, floats: Value) -> Value:
        """Add up the lanes of V16F32, by halves."""
        return self.extract(self.combine_lanes(floats, self.b.fadd), 0)

    def reduce_max(self, floats: Value) -> Value:
        """Find the largest lane of V16F32."""
        return self.extract(self.combine_lanes(floats, self.maximum), 0)

    def reduce_int(self, how: str, ints: Value) -> Value:
        """Reduce V16I32 to one int32; ``how`` is "add" or "umax", the largest of unsigned integers."""
        return self.call(f"llvm.vector.reduce.{how}.v16i32", I32, ints)

    def transposed(self, rows: Sequence[Value]) -> list[Value]:
        """Transpose sixteen vectors of four float32, or of eight int16: four V16F32 or eight V16I16, one per column."""
        count = rows[0].type.count
        return self.transposed_blocks([self.concat(rows[first::count]) for first in range(count)])

    def transposed_blocks(self, rows: Sequence[Value]) -> list[Value]:
        """Transpose each n x n block of n vectors of sixteen lanes; n elements (4 or 8) are 128 bits.

        Lane ``n * g + j`` of result k is lane ``n * g + k`` of row j. No shuffle crosses 128 bits.
        """
        count = len(rows)
        columns = list(rows)
        for _ in range(count.bit_length() - 1):
            pairs = list(zip(columns[: count // 2], columns[count // 2 :], strict=True))
            interleaved = [
                [block + half + i // 2 + LANES * (i % 2) for block in range(0, LANES, count) for i in range(count)]
                for half in (0, count // 2)
            ]
            columns = [self.shuffle(a, b, order) for a, b in pairs for order in interleaved]
        return columns

    # Bytes

    def shift_bytes(self, value: Value, left: int, mask: int) -> Value:
        """Shift bytes left (right where negative), then mask them; the mask must clear what crosses bytes."""
        if left:
            wide = self.b.bitcast(value, V32I16)
            shift, count = (self.b.shl, left) if left > 0 else (self.b.lshr, -left)
            value = self.b.bitcast(shift(wide, self.const(V32I16, count)), V64I8)
        return self.b.and_(value, self.const(V64I8, mask))

    def nibbles(self, value: Value) -> tuple[Value, Value]:
        """Return the low and the high halves of the bytes of V64I8."""
        return self.shift_bytes(value, 0, 15), self.shift_bytes(value, -4, 15)

    def lookup(self, table: Sequence[int], codes: Value) -> Value:
        """Look up the byte codes 0..15 of V64I8 in a table of 16 bytes (0..255)."""
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
        result = self.const(V64I8, signed[0])
        for code in range(1, 16):
            hit = self.b.icmp_unsigned("==", codes, self.const(V64I8, code))
            result = self.b.select(hit, self.const(V64I8, signed[code]), result)
        return result

    def _table_call(self, name: str, table: list[int], codes: Value) -> Value:
        """Call the machine's instruction for a table of 16 bytes, which works on each 128 bits apart."""
        return self.call(name, codes.type, ir.Constant(codes.type, table * (codes.type.count // 16)), codes)

    # Arithmetic

    def fma(self, a: Value, b: Value, c: Value) -> Value:
        """Compute V16F32 ``a * b + c``, rounded once on every machine."""
        return self.call("llvm.fma.v16f32", V16F32, a, b, c)

    def to_float(self, ints: Value) -> Value:
        """Convert sixteen signed integers of up to 32 bits to the nearest float32."""
        return self.b.sitofp(ints, V16F32)

    def round(self, floats: Value) -> Value:
        """Round V16F32 to the nearest integers, ties to even."""
        return self.call("llvm.rint.v16f32", V16F32, floats)

    def maximum(self, a: Value, b: Value) -> Value:
        """Take the larger of two float32 in each lane, ``b`` where one is NaN: one instruction on x86."""
        return self.b.select(self.b.fcmp_ordered(">", a, b), a, b)

    def minimum(self, a: Value, b: Value) -> Value:
        """Take the smaller of two float32 in each lane, ``b`` where one is NaN: one instruction on x86."""
        return self.b.select(self.b.fcmp_ordered("<", a, b), a, b)

    def smin(self, a: Value, b: Value) -> Value:
        """Take the smaller of two signed integers."""
        return self.b.select(self.b.icmp_signed("<", a, b), a, b)

    # float16 travels as its 16 bits, an integer. Where LLVM has no instruction for its conversion it would call
    # compiler-rt, which numba does not provide, so the same values are made by integer arithmetic without branches.
    # Subnormals, infinities and signed zeros are kept; a NaN stays a NaN, its payload is not promised.

    def _converts_f16(self) -> bool:
        """Tell whether the machine converts float16 by itself."""
        return self.arm or "f16c" in self.features or "avx512f" in self.features

    def f16_to_f32(self, bits: Value) -> Value:
        """Convert float16, given as I16 or V16I16, to float32."""
        ints, floats = _like(bits, I32), _like(bits, F32)
        if self._converts_f16():
            return self.b.fpext(self.b.bitcast(bits, _like(bits, F16)), floats)
        wide = self.b.zext(bits, ints)
        shifted = self.b.shl(self.b.and_(wide, self.const(ints, 0x7FFF)), self.const(ints, 13))
        # A multiplication by 2**112 corrects the bias of the exponent, exactly, and turns subnormals into normals.
        value = self.b.fmul(self.b.bitcast(shifted, floats), self.const(floats, 2.0**112))
        special = self.b.or_(shifted, self.const(ints, 0x7F800000))  # infinity, or a NaN with its payload
        is_special = self.b.icmp_unsigned(">=", shifted, self.const(ints, 0x7C00 << 13))
        magnitude = self.b.select(is_special, special, self.b.bitcast(value, ints))
        sign = self.b.shl(self.b.and_(wide, self.const(ints, 0x8000)), self.const(ints, 16))
        return self.b.bitcast(self.b.or_(magnitude, sign), floats)

    def f32_to_f16(self, value: Value) -> Value:
        """Convert F32 or V16F32 to the bits of the nearest float16, ties to even; overflow gives infinity."""
        shorts, ints, floats = (_like(value, element) for element in (I16, I32, F32))
        if self._converts_f16():
            return self.b.bitcast(self.b.fptrunc(value, _like(value, F16)), shorts)
        bits = self.b.bitcast(value, ints)
        size = self.b.and_(bits, self.const(ints, 0x7FFFFFFF))
        # Subnormal results: adding 0.5, whose last place is 2**-24, rounds to float16's steps; the low bits are the
        # code. Normal results: add just under half of the last place kept, plus its own low bit for ties to even.
        small = self.b.bitcast(self.b.fadd(self.b.bitcast(size, floats), self.const(floats, 0.5)), ints)
        odd = self.b.and_(self.b.lshr(size, self.const(ints, 13)), self.const(ints, 1))
        normal = self.b.add(self.b.add(size, self.const(ints, 0xFFF - (112 << 23))), odd)
        normal = self.b.lshr(normal, self.const(ints, 13))
        result = self.b.select(self.b.icmp_unsigned("<", size, self.const(ints, 113 << 23)), small, normal)
        for limit, code in ((143 << 23, 0x7C00), ((255 << 23) + 1, 0x7E00)):  # overflow, then NaN
            result = self.b.select(
                self.b.icmp_unsigned(">=", size, self.const(ints, limit)), self.const(ints, code), result
            )
        sign = self.b.and_(self.b.lshr(bits, self.const(ints, 16)), self.const(ints, 0x8000))
        return self.b.trunc(self.b.or_(result, sign), shorts)

    # Calls and control flow

    def call(self, name: str, result: ir.Type, *operands: Value) -> Value:
        """Call the LLVM intrinsic, or function, of that name; it is declared once per module."""
        function = self.b.module.globals.get(name)
        if function is None:
            kind = ir.FunctionType(result, [operand.type for operand in operands])
            function = ir.Function(self.b.module, kind, name)
        return self.b.call(function, operands)

    def loop(
        self,
        start: Value,
        stop: Value,
        step: int,
        values: list[Value],
        body: Callable[[Value, list[Value]], list[Value]],
        unroll: bool = True,
    ) -> list[Value]:
        """Emit ``for index in range(start, stop, step): values = body(index, values)`` and return the last values.

        The values stay in registers. ``unroll``: whether LLVM may unroll the loop.
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

    def in_turn(self, values: list[Value], steps: Sequence[Callable[[list[Value]], list[Value]]]) -> list[Value]:
        """Emit ``for step in steps: values = step(values)``, each step in a basic block of its own.

        LLVM orders a block as a whole: in a long one it moves all prefetches to the start, where they fill the queue of
        outstanding loads, and has more values alive than there are registers. The branches between the blocks are never
        taken, which LLVM cannot know.
        """
        end = self.b.append_basic_block("end")
        results: list[tuple[list[Value], ir.Block]] = []
        for step in steps:
            if results:
                never = self.b.asm(ir.FunctionType(I32, [I32]), "", "=r,0,~{memory}", [self.const(I32, 0)], True)
                following = self.b.append_basic_block("following")
                self.b.cbranch(self.b.icmp_signed("==", never, self.const(I32, 0)), following, end)
                self.b.position_at_end(following)
            values = step(values)
            results.append((values, self.b.block))
        self.b.branch(end)
        self.b.position_at_end(end)
        phis = [self.b.phi(value.type) for value in values]
        for values, block in results:
            for phi, value in zip(phis, values, strict=True):
                phi.add_incoming(value, block)
        return phis

    def _not_unrolled(self) -> ir.MDValue:
        """Make the metadata of a loop that LLVM must not unroll. It refers to itself, as a loop's own metadata must."""
        module = self.b.module
        node = ir.MDValue(module, [module.add_metadata(["llvm.loop.unroll.disable"])], str(len(module.metadata)))
        node.operands = (node, *node.operands)
        return node
