"""Matrix products on blocks: every type, odd shapes, against float64 on decoded weights and the same activations."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt
import pytest

from gguflike.blocks import FORMATS
from gguflike.errors import QuantizationError, UnsupportedError
from gguflike.kernels.dispatch import linear_plan
from gguflike.kernels.engine import native
from gguflike.kernels.engine.memory import SCRATCH_BYTES, op_state
from gguflike.kernels.engine.program import Program, Team
from gguflike.kernels.matmul.args import EACH, MATMUL, REPACK
from gguflike.kernels.matmul.records import activation_arrays
from gguflike.kernels.table import KERNELS
from gguflike.kernels.vector.args import QUANTIZE_ROWS
from gguflike.kernels.vector.sizes import LANES
from gguflike.tensor import QuantizedTensor
from tests.measures import largest_error

WITH_RECORD = {name: row.record for name, row in KERNELS.items() if row.record is not None}
FLOATS = [name for name, row in KERNELS.items() if row.floats]
LIMIT = 1e-5  # relative error


def random_tensor(name: str, rows: int, columns: int, seed: int = 0) -> QuantizedTensor:
    """Blocks of random bits with ordinary scales."""
    fmt, rng = FORMATS[name], np.random.default_rng(seed)
    if name in FLOATS:
        values = rng.standard_normal((rows, columns)).astype(np.float32)
        stored = {"F32": values, "F16": values.astype(np.float16), "BF16": values.view(np.uint16)[:, 1::2]}[name]
        return QuantizedTensor("w", fmt, (rows, columns), np.ascontiguousarray(stored).view(np.uint8).reshape(-1))
    data = rng.integers(0, 256, fmt.tensor_bytes((rows, columns)), dtype=np.uint8)
    blocks = data.view(fmt.dtype)
    for field in fmt.fields:
        if field.dtype == "<f2" and field.role in ("scale", "min"):
            blocks[field.name] = (rng.standard_normal(len(blocks)) * 0.01).astype(np.float16)
        elif field.encoding == "e8m0":
            blocks[field.name] = rng.integers(118, 130, len(blocks))
            blocks[field.name][0] = seed % 2  # a subnormal scale
        elif field.encoding == "nibbles":  # a float16 in the tops of four words
            words = blocks[field.name].view("<u2") & 0x0FFF
            words[:, 3] |= 0x2000
            blocks[field.name] = words.view(np.uint8)
    return QuantizedTensor("w", fmt, (rows, columns), data)


def decoded(tensor: QuantizedTensor) -> npt.NDArray[np.float64]:
    """The weights according to the gguf package, or to numpy's reference for types that it lacks."""
    if tensor.format.name in ("Q1_0", "Q2_0"):
        assert tensor.format.decode is not None
        values = tensor.format.decode(tensor.blocks)
    else:
        values = gguf.dequantize(tensor.rows, gguf.GGMLQuantizationType[tensor.format.name])
    return np.asarray(values, np.float64).reshape(tensor.shape)


def quantized(x: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Activations as the rule of matmul/integer.py has them, in numpy."""
    blocks = x.reshape(len(x), -1, 32)
    largest = np.abs(blocks).max(axis=-1, keepdims=True).astype(np.float32)
    scale = ((largest / np.float32(127)).view(np.uint32) + np.uint32(1 << 12) & ~np.uint32((1 << 13) - 1)).view(
        np.float32
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        inverse = np.where(largest == 0, np.float32(0), np.float32(127) / largest)
    return (np.rint(blocks * inverse) * scale.astype(np.float64)).reshape(x.shape)


@pytest.mark.parametrize("name", [*WITH_RECORD, *FLOATS])
def test_every_type(name: str) -> None:
    """Rows that fill no group, columns that fill no chunk, every remainder of tokens."""
    block = max(32, FORMATS[name].block_size)
    shapes = [(1, block), (40, 2 * block), (32, 512 + block), (70, 3 * 256)]
    if name in FLOATS:
        shapes = [(1, 1), (33, 100), (32, 257), (70, 20)]
    for rows, columns in shapes:
        tensor = random_tensor(name, rows, columns)
        weights = decoded(tensor)
        x = np.random.default_rng(1).standard_normal((35, columns)).astype(np.float32)
        expected = (x.astype(np.float64) if name in FLOATS else quantized(x)) @ weights.T
        alone = tensor.linear(x[:1], threads=1)
        for tokens in (1, 2, 3, 6, 7, 12, 17, 35):
            got = tensor.linear(x[:tokens], threads=1)
            assert got.shape == (tokens, rows)
            assert largest_error(got, expected[:tokens]) < LIMIT, (rows, columns, tokens)
            assert name in FLOATS or np.array_equal(got[:1], alone), "a token's result depends on the others"


def test_many_tokens_and_rows() -> None:
    """More than one panel of tokens, more than one set of units, on two threads."""
    tensor = random_tensor("Q4_K", 600, 768)
    x = np.random.default_rng(2).standard_normal((250, 768)).astype(np.float32)
    got = tensor.linear(x, threads=2)
    assert largest_error(got, quantized(x) @ decoded(tensor).T) < LIMIT
    # 1024 columns: rows of activations that fall into the same places of a cache, which are copied.
    for rows, columns in ((600, 300), (48, 1024)):
        tensor = random_tensor("F16", rows, columns)
        x = np.random.default_rng(2).standard_normal((200, columns)).astype(np.float32)
        assert largest_error(tensor.linear(x, threads=2), x.astype(np.float64) @ decoded(tensor).T) < LIMIT


@pytest.mark.parametrize(("tokens", "columns"), [(5, 16384), (31, 4096), (32, 16384)])
def test_a_few_tokens_of_many_columns(tokens: int, columns: int) -> None:
    """What is prepared of them fills the scratch memory, or has no room there."""
    tensor = random_tensor("Q4_0", 33, columns)
    x = np.random.default_rng(2).standard_normal((tokens, columns)).astype(np.float32)
    got = tensor.linear(x, threads=1)
    assert largest_error(got, quantized(x) @ decoded(tensor).T) < LIMIT
    assert np.array_equal(got[-1:], tensor.linear(x[-1:], threads=1))


@pytest.mark.parametrize("tokens", [1, 8])
@pytest.mark.parametrize("name", ["Q4_0", "F16"])
@pytest.mark.parametrize("rows", [64, 41])
def test_bias_and_residual(name: str, tokens: int, rows: int) -> None:
    """Out of a wider matrix, times a factor, with a bias, added to what is there; nothing beside it is touched."""
    columns, stride, plan = 64, 80, linear_plan(FORMATS[name])
    tensor = random_tensor(name, rows, columns)
    rng = np.random.default_rng(3)
    x = rng.standard_normal((tokens, columns)).astype(np.float32)
    bias = rng.standard_normal(rows).astype(np.float32)
    before = rng.standard_normal((tokens, stride)).astype(np.float32)
    weights = tensor.data
    if plan.repack is not None:
        packed = plan.allocate(rows, columns)
        assert packed is not None
        source, target = weights.ctypes.data, packed.ctypes.data
        words = np.array(REPACK.pack(blocks=source, records=target, rows=rows, columns=columns), np.int64)
        native.call(plan.repack)(words.ctypes.data, 0, 0, plan.matvec_items(rows))
        weights = packed
    arrays = activation_arrays(tokens, columns)
    places = {array: values.ctypes.data for array, values in arrays.items()}
    if plan.activations == "int8":
        words = np.array(QUANTIZE_ROWS.pack(x=x.ctypes.data, columns=columns, **places), np.int64)
        native.call("vector.quantize:rows")(words.ctypes.data, 0, 0, tokens)
        product = quantized(x) @ decoded(tensor).T
    else:
        places["codes"] = x.ctypes.data
        product = x.astype(np.float64) @ decoded(tensor).T
    scratch = np.zeros(SCRATCH_BYTES, np.uint8)
    state = op_state(tokens=tokens, scratch=scratch.ctypes.data)
    run = native.call(plan.matvec if tokens == 1 else plan.matmul)
    items = plan.matvec_items(rows) if tokens == 1 else plan.matmul_items(rows)
    factor = np.array([0.75], np.float32)
    for add, with_bias, with_factor in ((0, 1, 0), (1, 0, 0), (1, 1, 0), (0, 0, 1), (1, 1, 1)):
        out = before.copy()
        shape = {"rows": rows, "columns": columns, "stride": stride}
        result = {
            "out": out.ctypes.data,
            "add": add,
            "bias": bias.ctypes.data if with_bias else 0,
            "factor": factor.ctypes.data if with_factor else 0,
        }
        args = np.array(MATMUL.pack(weights=weights.ctypes.data, **shape, **places, **result), np.int64)
        run(args.ctypes.data, state.ctypes.data, 0, items)
        expected = (
            product * (factor if with_factor else 1) + (bias if with_bias else 0) + (before[:, :rows] if add else 0)
        )
        assert largest_error(out[:, :rows], expected) < LIMIT
        np.testing.assert_array_equal(out[:, rows:], before[:, rows:])


def test_quantized_activations_follow_the_rule() -> None:
    rng = np.random.default_rng(4)
    x = rng.standard_normal((3, 96)).astype(np.float32)
    x[1, :32] = 0
    x[2, :32] *= 1e-36
    arrays = activation_arrays(3, 96)
    places = {array: values.ctypes.data for array, values in arrays.items()}
    words = np.array(QUANTIZE_ROWS.pack(x=x.ctypes.data, columns=96, **places), np.int64)
    native.call("vector.quantize:rows")(words.ctypes.data, 0, 0, 3)
    codes, scales, sums = arrays["codes"].astype(np.int32), arrays["scales"], arrays["sums"]
    assert (codes[1, :32] == 0).all()
    assert (scales[1:, 0] == 0).all()  # too small to divide by
    assert (np.abs(codes).max(axis=-1) == 127).all()
    assert ((scales.view(np.uint32) & 3) == 0).all()
    np.testing.assert_array_equal(sums, codes.reshape(3, -1, 16).sum(axis=-1))
    values = (codes.reshape(3, -1, 32) * scales[..., None].astype(np.float64)).reshape(3, 96)
    np.testing.assert_allclose(values[0], quantized(x)[0], rtol=1e-6)


@pytest.mark.parametrize("tokens", [8, 16])
def test_matrices_of_one_stage_share_no_more_than_their_activations(tokens: int) -> None:
    """Two types and two sources in turns, in several passes, for which activations are written to the same place."""
    rng = np.random.default_rng(6)
    columns, rows = 512, 80
    matrices = [random_tensor(name, rows, columns, seed) for seed, name in enumerate(["Q4_K", "Q4_K", "Q8_0", "Q4_K"])]
    sources = [activation_arrays(tokens, columns) for _ in range(2)]
    outs = [np.zeros((tokens, rows), np.float32) for _ in matrices]
    program = Program([matrices, sources])
    for number, (matrix, out) in enumerate(zip(matrices, outs, strict=True)):
        plan = linear_plan(matrix.format)
        records = plan.allocate(rows, columns)
        assert records is not None
        assert plan.repack is not None
        blocks, packed = matrix.data.ctypes.data, records.ctypes.data
        words = np.array(REPACK.pack(blocks=blocks, records=packed, rows=rows, columns=columns), np.int64)
        native.call(plan.repack)(words.ctypes.data, 0, 0, plan.matvec_items(rows))
        program.keep.append(records)
        places = {name: array.ctypes.data for name, array in sources[number % 2].items()}
        shape = {"rows": rows, "columns": columns, "stride": rows, "add": 0, "bias": 0, "factor": 0}
        args = MATMUL.pack(weights=packed, out=out.ctypes.data, **places, **shape)
        program.add(plan.matmul, args, items=plan.matmul_items(rows), barrier=number == 0)
    team = Team(2)
    for _ in range(3):
        given = [rng.standard_normal((tokens, columns)).astype(np.float32) for _ in sources]
        for x, arrays in zip(given, sources, strict=True):
            places = {name: values.ctypes.data for name, values in arrays.items()}
            words = np.array(QUANTIZE_ROWS.pack(x=x.ctypes.data, columns=columns, **places), np.int64)
            native.call("vector.quantize:rows")(words.ctypes.data, 0, 0, tokens)
        team.run(program.link(), tokens, 0)
        for number, (matrix, out) in enumerate(zip(matrices, outs, strict=True)):
            np.testing.assert_array_equal(out, matrix.linear(given[number % 2]))


def test_a_nan_stays_visible() -> None:
    tensor = random_tensor("Q8_0", 16, 64)
    x = np.ones((1, 64), np.float32)
    x[0, 5] = np.nan
    assert np.isnan(tensor.linear(x)).all()


def test_nothing_to_multiply() -> None:
    tensor = random_tensor("Q8_0", 16, 64)
    assert tensor.linear(np.zeros((0, 64), np.float32)).shape == (0, 16)
    assert tensor.linear(np.ones((2, 3, 64), np.float32)).shape == (2, 3, 16)
    assert tensor.linear(np.ones(64, np.float32)).shape == (16,)


def test_errors_name_the_shapes() -> None:
    tensor = random_tensor("Q8_0", 16, 64)
    with pytest.raises(QuantizationError, match=r"\(16, 64\).*\(2, 32\)"):
        tensor.linear(np.ones((2, 32), np.float32))
    with pytest.raises(UnsupportedError, match="no matmul for I8"):
        linear_plan(FORMATS["I8"])


@pytest.mark.parametrize("name", WITH_RECORD)
def test_records_are_no_larger_than_promised(name: str) -> None:
    """At most 1.1 times the file's bytes; the codebook types, looked up when repacked, at most 4.32 bits a weight, and
    TQ1_0 those of TQ2_0."""
    record, fmt = WITH_RECORD[name], FORMATS[name]
    bits = 8 * record.record_bytes / (LANES * record.weights)
    if name.startswith(("IQ1", "IQ2", "IQ3")):
        assert bits <= 4.32
    elif name == "TQ1_0":
        assert record.record_bytes == WITH_RECORD["TQ2_0"].record_bytes
    else:
        assert bits <= 1.1 * fmt.bits_per_weight


def test_repacked_weights_live_as_long_as_the_tensor() -> None:
    from gguflike.kernels.matmul import linear

    tensor = random_tensor("Q8_0", 16, 64)
    before = len(linear._packed)
    x = np.ones((1, 64), np.float32)
    first = tensor.linear(x)
    assert len(linear._packed) == before + 1
    np.testing.assert_array_equal(tensor.linear(x), first)
    assert len(linear._packed) == before + 1
    del tensor
    assert len(linear._packed) == before


OTHER_CPUS = {
    "avx2": ("haswell", "+avx,+avx2,+fma,+f16c,+bmi,+bmi2,+ssse3,+sse4.1,+sse4.2"),
    "generic": ("x86-64", "-sse3"),
}

SCRIPT = """
import sys
import numpy as np
sys.path.insert(0, sys.argv[1])
from tests.test_matmul import random_tensor
for name in ("Q8_0", "Q2_K", "Q5_0", "Q6_K", "F16"):
    tensor = random_tensor(name, 40, 512)
    x = np.random.default_rng(5).standard_normal((7, 512)).astype(np.float32)
    for tokens in (1, 7):
        sys.stdout.buffer.write(tensor.linear(x[:tokens], threads=1).tobytes())
"""


@pytest.mark.slow
@pytest.mark.parametrize("cpu", OTHER_CPUS)
def test_other_machines_give_the_same(cpu: str) -> None:
    """Compiled for an older CPU and run on this one: no illegal instruction, equal results up to the order of sums."""
    outputs = []
    for name, features in (("", ""), OTHER_CPUS[cpu]):
        env = {k: v for k, v in os.environ.items() if not k.startswith("NUMBA_CPU")}
        if name:
            env |= {"NUMBA_CPU_NAME": name, "NUMBA_CPU_FEATURES": features}
        script = [sys.executable, "-c", SCRIPT, str(Path(__file__).parent.parent)]
        done = subprocess.run(script, env=env, capture_output=True, check=True)
        outputs.append(np.frombuffer(done.stdout, np.float32))
    here, there = outputs
    assert largest_error(there, here.astype(np.float64)) < 1e-6


@pytest.mark.parametrize("name", [*WITH_RECORD])
def test_one_token_or_many_gives_the_same_bits(name: str) -> None:
    """Guessing ahead (prompt lookup) computes by matmul what plain generation computes by matvec."""
    tensor = random_tensor(name, 48, 768)
    x = np.random.default_rng(3).standard_normal((5, 768)).astype(np.float32)
    many = tensor.linear(x)
    for t in range(5):
        np.testing.assert_array_equal(tensor.linear(x[t : t + 1])[0], many[t])


@pytest.mark.parametrize("name", FLOATS)
def test_each_of_several_tokens_gives_the_bits_that_it_gives_alone(name: str) -> None:
    """The op that multiplies floats by several tokens as if each were alone, with bias and onto a residual stream."""
    rows, columns, tokens, stride = 41, 77, 3, 50
    rng, plan, tensor = np.random.default_rng(5), linear_plan(FORMATS[name]), random_tensor(name, 41, 77)
    x, bias = rng.standard_normal((tokens, columns), np.float32), rng.standard_normal(rows).astype(np.float32)
    start = rng.standard_normal((tokens, stride), np.float32)
    shape = {"weights": tensor.data.ctypes.data, "rows": rows, "columns": columns, "scales": 0, "sums": 0}
    shape |= {"stride": stride, "add": 1, "bias": bias.ctypes.data, "factor": 0}
    scratch = np.zeros(SCRATCH_BYTES + 64, np.uint8)

    def run(op: str, words: tuple[Any, ...], count: int) -> None:
        state = op_state(tokens=count, scratch=-(-scratch.ctypes.data // 64) * 64)
        native.call(op)(np.array(words, np.int64).ctypes.data, state.ctypes.data, 0, plan.matvec_items(rows))

    alone, together = start.copy(), start.copy()
    for token in range(tokens):
        words = MATMUL.pack(codes=x[token:].ctypes.data, out=alone[token:].ctypes.data, **shape)
        run(plan.matvec, words, 1)
    function = native.load([plan.matvec])[plan.matvec]
    words = EACH.pack(function=function, codes=x.ctypes.data, out=together.ctypes.data, **shape)
    run("matmul.each:tokens", words, tokens)
    assert np.array_equal(together, alone)
    assert np.array_equal(together[:, rows:], start[:, rows:])
    assert not np.array_equal(together[1, :rows], start[1, :rows])
