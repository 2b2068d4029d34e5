"""The vector operations of vector/emitter.py one by one against numpy; the machine-specific ones against each other."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import partial
from typing import Any

import llvmlite.binding as llvm
import numpy as np
import pytest
from llvmlite import ir

from gguflike.kernels.vector import arm
from gguflike.kernels.vector.dot import ByteSums, ShortSums, WordSums, fits_short, rounded_product
from gguflike.kernels.vector.emitter import F32, I16, I32, I64, V16F32, V16I16, V16I32, V32I16, V64I8, Emitter, target

ARM = "aarch64-unknown-linux-gnu"


def native_features() -> frozenset[str]:
    return target()[1]


class Machine:
    """Compiles functions of int64 addresses for this CPU, and keeps the code alive."""

    def __init__(self) -> None:
        llvm.initialize_native_target()
        llvm.initialize_native_asmprinter()
        self.compiler = llvm.create_lljit_compiler(
            llvm.Target.from_default_triple().create_target_machine(
                cpu=llvm.get_host_cpu_name(), features=llvm.get_host_cpu_features().flatten(), opt=2
            )
        )
        self.keep: list[Any] = []

    def run(self, emit: Callable[..., None], *arrays: np.ndarray, features: frozenset[str] | None = None) -> None:
        """Emits ``emit(emitter, *addresses)`` and calls it on the arrays' memory; no features: plain LLVM code."""
        import ctypes

        module = ir.Module()
        name = f"f{len(self.keep)}"
        builder = start(module, name, len(arrays))
        triple = ARM if features and features & ARM_CHOICES.keys() else ""
        emit(Emitter(builder, triple, features), *builder.function.args)
        builder.ret_void()
        library = (
            llvm.JITLibraryBuilder()
            .add_ir(str(module))
            .export_symbol(name)
            .add_current_process()
            .link(self.compiler, name)
        )
        self.keep.append(library)
        ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * len(arrays))(library[name])(*[a.ctypes.data for a in arrays])


def start(module: ir.Module, name: str, operands: int) -> ir.IRBuilder:
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), [I64] * operands), name)
    return ir.IRBuilder(function.append_basic_block())


def assembly(emit: Callable[..., None], operands: int, features: set[str]) -> str:
    """What LLVM makes of it for 64-bit Arm."""
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    module = ir.Module()
    module.triple = ARM
    builder = start(module, "f", operands)
    emit(Emitter(builder, ARM, frozenset(features)), *builder.function.args)
    builder.ret_void()
    parsed = llvm.parse_assembly(str(module))
    parsed.verify()
    flags = ",".join(f"+{f}" for f in features)
    machine = llvm.Target.from_triple(ARM).create_target_machine(cpu="generic", features=flags, opt=3)
    return str(machine.emit_assembly(parsed))


@pytest.fixture(scope="module")
def machine() -> Machine:
    return Machine()


@pytest.fixture(scope="module")
def rng() -> np.random.Generator:
    return np.random.default_rng(7)


# What each choice of the machine-specific operations needs from this CPU to be run.
ARM_CHOICES = {"i8mm": {"i8mm"}, "dotprod": {"dotprod"}, "neon": {"neon"}}
CHOICES = {
    "avx512vnni": {"avx512vnni"},
    "avxvnni": {"avx512vnni", "avx512vl"},  # the same instruction in another encoding
    "avx512bw": {"avx512bw"},
    "avx2": {"avx2"},
    "ssse3": {"ssse3"},
    **ARM_CHOICES,
    "generic": set(),
}


@pytest.mark.parametrize("choice", CHOICES)
@pytest.mark.parametrize("largest", [1, 3, 15, 24, 45, 63, 127, 128, 255])
def test_byte_sums_are_the_same_on_every_machine(machine: Machine, choice: str, largest: int) -> None:
    if not CHOICES[choice] <= native_features():
        pytest.skip(f"this CPU cannot run {choice}")
    rng = np.random.default_rng(1)
    count = 20  # more than 16 bits hold for all but the smallest
    unsigned = rng.integers(0, largest + 1, (count, 64), dtype=np.uint8)
    signed = rng.integers(-127, 128, (count, 64)).astype(np.int8)
    unsigned[:, :8], signed[:, :8] = largest, [127] * 4 + [-127] * 4  # the extremes
    acc = rng.integers(-(2**20), 2**20, 16, dtype=np.int32)
    expected = acc + (unsigned.astype(np.int32) * signed).reshape(count, 16, 4).sum(axis=(0, 2), dtype=np.int32)

    def emit(e: Emitter, a: Any, u: Any, s: Any) -> None:
        sums = ByteSums(e, largest)
        total = sums.begin(e.load(V16I32, a))
        for i in range(count):
            if i and i % sums.run == 0:
                total = sums.settle(total)
            weights = e.load(V64I8, u, 64 * i)
            total = sums.add(total, e.nibbles(weights) if sums.halved else weights, e.load(V64I8, s, 64 * i))
        e.store(sums.value(total), a)

    machine.run(emit, acc, unsigned, signed, features=frozenset({choice}))
    np.testing.assert_array_equal(acc, expected)


@pytest.mark.parametrize("choice", ["avx512bw", "avx2"])
@pytest.mark.parametrize(("center", "largest", "steps"), [(0, 15, 8), (16, 31, 8), (32, 63, 4), (12, 24, 8)])
def test_short_sums_may_wrap_around(machine: Machine, choice: str, center: int, largest: int, steps: int) -> None:
    """Sums of bytes less a center, which 16 bits hold at the end but not in between, at the extremes of factors."""
    if not CHOICES[choice] <= native_features():
        pytest.skip(f"this CPU cannot run {choice}")
    assert fits_short(max(center, largest - center), steps)
    assert not fits_short(130, 1)
    rng = np.random.default_rng(1)
    unsigned = rng.integers(0, largest + 1, (steps, 64), dtype=np.uint8)
    signed = rng.integers(-127, 128, (steps, 64)).astype(np.int8)
    for first, byte in ((0, 0), (16, largest)):
        unsigned[:, first : first + 16] = byte
        signed[:, first : first + 8], signed[:, first + 8 : first + 16] = 127, -127
    expected = ((unsigned.astype(np.int32) - center) * signed).reshape(steps, 16, 4).sum(axis=(0, 2), dtype=np.int32)
    start = (-center * signed.astype(np.int32).reshape(steps, 32, 2).sum(axis=(0, 2))).astype(np.int16)
    total = np.zeros(16, np.int32)

    def emit(e: Emitter, start: Any, u: Any, s: Any, total: Any) -> None:
        sums = ShortSums(e)
        values = sums.begin(e.load(V32I16, start))
        for i in range(steps):
            values = sums.add(values, e.load(V64I8, u, 64 * i), e.load(V64I8, s, 64 * i))
        e.store(sums.value(values), total)

    machine.run(emit, start, unsigned, signed, total, features=frozenset({choice}))
    np.testing.assert_array_equal(total, expected)


@pytest.mark.parametrize("choice", ["avx512bw", "avx2", "generic"])
def test_word_sums_are_the_same_on_every_machine(machine: Machine, choice: str) -> None:
    if not CHOICES[choice] <= native_features():
        pytest.skip(f"this CPU cannot run {choice}")
    a, b = np.random.default_rng(1).integers(-(2**12), 2**12, (2, 3, 32)).astype(np.int16)
    acc = np.arange(16, dtype=np.int32)
    expected = acc + (a.astype(np.int32) * b).reshape(3, 16, 2).sum(axis=(0, 2), dtype=np.int32)

    def emit(e: Emitter, place: Any, a: Any, b: Any) -> None:
        sums = WordSums(e)
        total = sums.begin(e.load(V16I32, place))
        for i in range(3):
            total = sums.add(total, e.load(V32I16, a, 64 * i), e.load(V32I16, b, 64 * i))
        e.store(sums.value(total), place)

    machine.run(emit, acc, a, b, features=frozenset({choice}))
    np.testing.assert_array_equal(acc, expected)


@pytest.mark.parametrize("choice", ["avx512bw", "avx2", "ssse3", "neon", "generic"])
def test_rounded_products_are_the_same_on_every_machine(machine: Machine, choice: str) -> None:
    if not CHOICES[choice] <= native_features():
        pytest.skip(f"this CPU cannot run {choice}")
    a, b = np.random.default_rng(1).integers(-(2**15) + 1, 2**15, (2, 32)).astype(np.int16)
    a[:4], b[:4] = [3, 1, -1, -3], 1 << 14  # halves go up
    product = np.zeros(32, np.int16)
    machine.run(
        lambda e, a, b, out: e.store(rounded_product(e, e.load(V32I16, a), e.load(V32I16, b)), out),
        a,
        b,
        product,
        features=frozenset({choice}),
    )
    np.testing.assert_array_equal(product, np.floor(a.astype(float) * b / 2**15 + 0.5))


@pytest.mark.parametrize("choice", CHOICES)
def test_lookup(machine: Machine, choice: str) -> None:
    if not CHOICES[choice] <= native_features():
        pytest.skip(f"this CPU cannot run {choice}")
    rng = np.random.default_rng(2)
    table = rng.integers(0, 256, 16)
    codes = rng.integers(0, 16, 64, dtype=np.uint8)
    out = np.zeros(64, np.uint8)
    machine.run(
        lambda e, c, o: e.store(e.lookup(table.tolist(), e.load(V64I8, c)), o),
        codes,
        out,
        features=frozenset({choice}),
    )
    np.testing.assert_array_equal(out, table[codes])


def test_arm_has_its_own_instructions() -> None:
    def rounded(e: Emitter, a: Any, b: Any) -> None:
        e.store(rounded_product(e, e.load(V32I16, a), e.load(V32I16, b)), a)

    assert assembly(rounded, 2, {"neon"}).count("\tsqrdmulh") == 4

    def dot(wide: bool) -> Callable[..., None]:
        def emit(e: Emitter, a: Any, u: Any, s: Any) -> None:
            sums = ByteSums(e, 255 if wide else 127)
            e.store(sums.value(sums.add(sums.begin(e.load(V16I32, a)), e.load(V64I8, u), e.load(V64I8, s))), a)

        return emit

    assert assembly(dot(False), 3, {"dotprod"}).count("\tsdot") == 4
    assert assembly(dot(True), 3, {"dotprod"}).count("\tsdot") == 8
    assert assembly(dot(True), 3, {"dotprod", "i8mm"}).count("\tusdot") == 4
    assert "dot\t" not in assembly(dot(True), 3, {"neon"})
    lookup = assembly(lambda e, c, o: e.store(e.lookup(range(16), e.load(V64I8, c)), o), 2, {"neon"})
    assert lookup.count("\ttbl") == 4
    convert = assembly(lambda e, h, o: e.store(e.f16_to_f32(e.load(V16I16, h)), o), 2, {"neon"})
    assert convert.count("\tfcvtl") == 4


def test_shift_bytes(machine: Machine, rng: np.random.Generator) -> None:
    values = rng.integers(0, 256, 64, dtype=np.uint8)
    cases = [(0, 15), (-4, 15), (-6, 3), (-1, 4), (2, 16), (4, 16), (-3, 16)]
    out = np.zeros((len(cases), 64), np.uint8)

    def emit(e: Emitter, v: Any, o: Any) -> None:
        for i, (left, mask) in enumerate(cases):
            e.store(e.shift_bytes(e.load(V64I8, v), left, mask), o, 64 * i)

    machine.run(emit, values, out)
    wide = values.astype(np.int64)
    for (left, mask), got in zip(cases, out, strict=True):
        np.testing.assert_array_equal(got, (wide << left if left >= 0 else wide >> -left) & mask)


@pytest.mark.parametrize(
    ("cpu", "features", "expected"),
    [
        ("cortex-a57", "", set()),
        ("neoverse-n1", "+neon,-sve", {"dotprod"}),
        ("neoverse-n2", "+neon,-sve", {"dotprod", "i8mm"} if llvm.llvm_version_info[0] >= 22 else {"dotprod"}),
        ("generic", "+dotprod", {"dotprod"}),
    ],
)
def test_what_an_arm_cpu_has_for_products(cpu: str, features: str, expected: set[str]) -> None:
    """LLVM's features of a host do not name these, so they are found by what it compiles."""
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    assert arm.dot_products(ARM, cpu, features) == expected


@pytest.mark.parametrize("choice", ["native", "integer"])
def test_f16_to_f32(machine: Machine, choice: str) -> None:
    bits = np.arange(65536, dtype=np.uint16)
    out = np.zeros(65536, np.float32)

    def emit(e: Emitter, b: Any, o: Any) -> None:
        def body(index: Any, _: list[Any]) -> list[Any]:
            value = e.f16_to_f32(e.load(V16I16, b, e.b.mul(index, e.int64(2))))
            e.store(value, o, e.b.mul(index, e.int64(4)))
            return []

        e.loop(e.int64(0), e.int64(65536), 16, [], body)

    machine.run(emit, bits, out, features=None if choice == "native" else frozenset())
    with np.errstate(invalid="ignore"):  # signaling NaNs, on Arm
        expected = bits.view(np.float16).astype(np.float32)
    finite = ~np.isnan(expected)
    np.testing.assert_array_equal(out.view(np.uint32)[finite], expected.view(np.uint32)[finite])
    assert np.isnan(out[~finite]).all()


@pytest.mark.parametrize("choice", ["native", "integer"])
def test_f32_to_f16(machine: Machine, choice: str) -> None:
    halves = np.arange(0x7C00, dtype=np.uint16).view(np.float16).astype(np.float32)
    between = (halves[1:] + halves[:-1]) / 2  # ties
    values = np.concatenate(
        [halves, between, -between, [0.0, -0.0, np.inf, -np.inf, np.nan, 65519.9, 65520, 1e9, 1e-9]]
    )
    values = np.resize(values.astype(np.float32), (len(values) + 15) // 16 * 16)
    out = np.zeros(len(values), np.uint16)

    def emit(e: Emitter, v: Any, o: Any) -> None:
        def body(index: Any, _: list[Any]) -> list[Any]:
            value = e.f32_to_f16(e.load(V16F32, v, e.b.mul(index, e.int64(4))))
            e.store(value, o, e.b.mul(index, e.int64(2)))
            return []

        e.loop(e.int64(0), e.int64(len(values)), 16, [], body)

    machine.run(emit, values, out, features=None if choice == "native" else frozenset())
    with np.errstate(over="ignore"):
        expected = values.astype(np.float16)
    np.testing.assert_array_equal(out.view(np.float16), expected)
    finite = ~np.isnan(values)
    np.testing.assert_array_equal(out[finite], expected.view(np.uint16)[finite])


def test_lanes_and_masks(machine: Machine, rng: np.random.Generator) -> None:
    floats = rng.standard_normal(16).astype(np.float32)
    ints = rng.integers(0, 1000, 16, dtype=np.int32)
    out = np.full((8, 16), -1, np.float32)

    def emit(e: Emitter, f: Any, i: Any, o: Any) -> None:
        x = e.load(V16F32, f)
        e.store(e.load_splat(V16F32, f, 8), o)
        e.store(e.splat(V16F32, e.reduce_add(x)), o, 64)
        e.store(e.to_float(e.splat(V16I32, e.reduce_int("add", e.load(V16I32, i)))), o, 128)
        e.store(e.to_float(e.splat(V16I32, e.reduce_int("umax", e.load(V16I32, i)))), o, 192)
        e.store(e.round(x), o, 256)
        e.store_masked(x, o, 320, e.first_lanes(e.int64(5)))
        e.store(e.load_masked(V16F32, f, 0, e.first_lanes(e.int64(3))), o, 384)
        e.store(e.fma(x, x, x), o, 448)

    machine.run(emit, floats, ints, out)
    assert (out[0] == floats[2]).all()
    np.testing.assert_allclose(out[1], floats.astype(np.float64).sum(), rtol=1e-6)
    assert (out[2] == ints.sum()).all()
    assert (out[3] == ints.max()).all()
    np.testing.assert_array_equal(out[4], np.rint(floats))
    np.testing.assert_array_equal(out[5], np.where(np.arange(16) < 5, floats, -1))
    np.testing.assert_array_equal(out[6], np.where(np.arange(16) < 3, floats, 0))
    wide = floats.astype(np.float64)
    np.testing.assert_array_equal(out[7], (wide * wide + wide).astype(np.float32))


def test_masked_access_stays_off_memory(machine: Machine) -> None:
    """Nothing is read or written where the mask is clear: address 0 does not fault."""
    out = np.ones(16, np.float32)

    def emit(e: Emitter, o: Any) -> None:
        none = e.first_lanes(e.int64(-3))
        e.store(e.load_masked(V16F32, e.int64(0), 0, none), o)
        e.store_masked(e.load(V16F32, o), e.int64(0), 0, none)

    machine.run(emit, out)
    assert (out == 0).all()


def test_bytes_broadcast(machine: Machine, rng: np.random.Generator) -> None:
    values = rng.integers(0, 256, 8, dtype=np.uint8)
    out = np.zeros(64, np.uint8)
    machine.run(lambda e, v, o: e.store(e.load_splat(V64I8, v, 4), o), values, out)
    np.testing.assert_array_equal(out.reshape(16, 4), np.tile(values[4:], (16, 1)))


@pytest.mark.parametrize("kind", [F32, I16])
def test_transposed(machine: Machine, rng: np.random.Generator, kind: Any) -> None:
    dtype, columns = (np.float32, 4) if kind is F32 else (np.int16, 8)
    matrix = (rng.standard_normal((16, columns)) * 1000).astype(dtype)
    out = np.zeros((columns, 16), dtype)

    def emit(e: Emitter, m: Any, o: Any) -> None:
        rows = [e.load(ir.VectorType(kind, columns), m, 16 * r) for r in range(16)]
        for i, column in enumerate(e.transposed(rows)):
            e.store(column, o, out[0].nbytes * i)

    machine.run(emit, matrix, out)
    np.testing.assert_array_equal(out, matrix.T)


def test_loop_keeps_values(machine: Machine) -> None:
    out = np.zeros(4, np.int32)

    def emit(e: Emitter, o: Any) -> None:
        def body(index: Any, values: list[Any]) -> list[Any]:
            total, count = values
            return [e.b.add(total, e.b.trunc(index, I32)), e.b.add(count, ir.Constant(I32, 1))]

        for at, stop in ((0, 10), (8, 3)):
            results = e.loop(e.int64(3), e.int64(stop), 2, [ir.Constant(I32, 0)] * 2, body)
            for i, value in enumerate(results):
                e.store(value, o, at + 4 * i)

    machine.run(emit, out)
    assert out.tolist() == [3 + 5 + 7 + 9, 4, 0, 0]


def test_steps_in_turn_stay_apart(machine: Machine) -> None:
    """Each step sees the value of the one before it, and what it reads and prefetches stays behind what came before."""
    values = np.arange(64, dtype=np.float32)
    out = np.zeros(16, np.float32)

    def emit(e: Emitter, v: Any, o: Any) -> None:
        def add(i: int, totals: list[Any]) -> list[Any]:
            e.prefetch(v, 4096 * (i + 1))
            return [e.b.fadd(e.b.fmul(totals[0], e.const(V16F32, 2.0)), e.load(V16F32, v, 64 * i))]

        e.store(e.in_turn([e.zero(V16F32)], [partial(add, i) for i in range(4)])[0], o)

    machine.run(emit, values, out)
    expected = np.zeros(16, np.float32)
    for row in values.reshape(4, 16):
        expected = 2 * expected + row
    np.testing.assert_array_equal(out, expected)
    lines = assembly(emit, 2, {"neon"}).splitlines()
    prefetches = [i for i, line in enumerate(lines) if "prfm" in line]
    branches = [i for i, line in enumerate(lines) if "\tcb" in line or "\tb." in line]
    assert len(prefetches) == 4
    assert all(any(a < branch < b for branch in branches) for a, b in itertools.pairwise(prefetches))
