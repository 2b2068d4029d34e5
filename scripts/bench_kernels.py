"""How far the matmul kernels are from the machine: per block type, bytes and operations per second on one core.

    python scripts/bench_kernels.py [--types Q4_K,Q8_0] [--rows 4096] [--columns 4096] [--tokens 512] [--json]

One thread, CPU time (other processes disturb it less than the clock's), medians. Beside them stand the limits measured
in the same run: a loop that only reads memory, and one that only multiplies.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from gguflike.blocks import FORMATS
from gguflike.kernels.dispatch import linear_plan
from gguflike.kernels.engine import native
from gguflike.kernels.engine.args import Word
from gguflike.kernels.engine.memory import SCRATCH_BYTES, op_state
from gguflike.kernels.matmul.args import LIMITS, MATMUL, REPACK
from gguflike.kernels.matmul.records import activation_arrays
from gguflike.kernels.table import KERNELS
from gguflike.kernels.vector.args import QUANTIZE_ROWS
from gguflike.runner.bench import READ_VECTORS, ROUND_OPERATIONS


def seconds(run: Callable[[], None], repeats: int) -> float:
    """Median CPU time of a call."""
    run()
    times = []
    for _ in range(repeats):
        start = time.thread_time()
        run()
        times.append(time.thread_time() - start)
    return statistics.median(times)


def aligned(count: int) -> np.ndarray[Any, Any]:
    raw = np.zeros(count + 64, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + count]


def words(args: tuple[Word, ...]) -> np.ndarray[Any, Any]:
    return np.array(args, np.int64)


def limits(megabytes: int, repeats: int) -> dict[str, float]:
    """Read bandwidth in bytes per second and the peak of the byte dot product in operations per second."""
    memory = aligned(megabytes << 20)
    memory[:] = 1
    result = np.zeros(64, np.uint8)
    read, multiply = native.call("matmul.limits:read"), native.call("matmul.limits:multiply")
    args = words(LIMITS.pack(memory=memory.ctypes.data, result=result.ctypes.data))
    vectors, rounds = memory.nbytes // READ_VECTORS, 200_000
    return {
        "read": memory.nbytes / seconds(lambda: read(args.ctypes.data, 0, 0, vectors), repeats),
        "multiply": rounds * ROUND_OPERATIONS / seconds(lambda: multiply(args.ctypes.data, 0, 0, rounds), repeats),
    }


def weights_of(name: str, rows: int, columns: int, rng: np.random.Generator) -> np.ndarray[Any, Any]:
    """Blocks of random bits with ordinary scales: a subnormal float costs 150 cycles each time it is multiplied."""
    fmt = FORMATS[name]
    if KERNELS[name].floats:
        values = rng.standard_normal((rows, columns), np.float32)
        stored = {"F32": values, "F16": values.astype(np.float16), "BF16": values.view(np.uint16)[:, 1::2]}[name]
        return np.ascontiguousarray(stored).view(np.uint8).reshape(-1)
    data = rng.integers(0, 256, fmt.tensor_bytes((rows, columns)), dtype=np.uint8)
    blocks = data.view(fmt.dtype)
    for field in fmt.fields:
        if field.dtype == "<f2" and field.role in ("scale", "min"):
            blocks[field.name] = np.float16(0.01)
        elif field.name == "e":  # MXFP4's power of two
            blocks[field.name] = 120
    return data


def measure(name: str, rows: int, columns: int, tokens: int, repeats: int) -> dict[str, Any]:
    """One block type: matvec's bytes per second, matmul's operations per second."""
    plan = linear_plan(FORMATS[name])
    rng = np.random.default_rng(0)
    data = weights_of(name, rows, columns, rng)
    scratch = aligned(SCRATCH_BYTES)
    state = op_state(tokens=tokens, scratch=scratch.ctypes.data)
    row: dict[str, Any] = {"type": name}
    weights = data
    if plan.repack is not None:
        packed = plan.allocate(rows, columns)
        assert packed is not None
        weights = packed
        source, target = data.ctypes.data, weights.ctypes.data
        repack_args = words(REPACK.pack(blocks=source, records=target, rows=rows, columns=columns))
        repack = native.call(plan.repack)
        spent = seconds(lambda: repack(repack_args.ctypes.data, 0, 0, plan.matvec_items(rows)), 3)
        row["repack_gb_s"] = data.nbytes / spent / 1e9
    out = np.zeros((tokens, rows), np.float32)
    x = rng.standard_normal((tokens, columns)).astype(np.float32)
    arrays = activation_arrays(tokens, columns) if plan.activations == "int8" else {"codes": x}
    places = {"scales": 0, "sums": 0} | {name: a.ctypes.data for name, a in arrays.items()}
    if plan.activations == "int8":
        quantize_args = words(QUANTIZE_ROWS.pack(x=x.ctypes.data, columns=columns, **places))
        native.call("vector.quantize:rows")(quantize_args.ctypes.data, 0, 0, tokens)
    shape = {"rows": rows, "columns": columns, "stride": rows}
    result = {"out": out.ctypes.data, "add": 0, "bias": 0, "factor": 0}
    args = words(MATMUL.pack(weights=weights.ctypes.data, **shape, **places, **result))
    matvec, matmul = native.call(plan.matvec), native.call(plan.matmul)
    one = seconds(lambda: matvec(args.ctypes.data, state.ctypes.data, 0, plan.matvec_items(rows)), repeats)
    many = seconds(
        lambda: matmul(args.ctypes.data, state.ctypes.data, 0, plan.matmul_items(rows)), max(3, repeats // 4)
    )
    row |= {
        "bytes_per_weight": weights.nbytes / rows / columns,
        "of_file": weights.nbytes / data.nbytes,
        "matvec_gb_s": weights.nbytes / one / 1e9,
        "matvec_gweights_s": rows * columns / one / 1e9,
        "matmul_gops": 2 * rows * columns * tokens / many / 1e9,
    }
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--types", default=",".join(n for n, row in KERNELS.items() if row.record or row.floats))
    parser.add_argument("--rows", type=int, default=8192)
    parser.add_argument("--columns", type=int, default=4096)
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    limit = limits(256, options.repeats)
    rows = [
        measure(name, options.rows, options.columns, options.tokens, options.repeats)
        for name in options.types.split(",")
    ]
    if options.json:
        print(json.dumps({"limits": limit, "types": rows}))
        return
    print(f"read {limit['read'] / 1e9:.1f} GB/s, multiply {limit['multiply'] / 1e9:.0f} GOPS, one core")
    heads = ("B/w", "/file", "GB/s", "of read", "Gw/s", "GOPS", "of peak", "repack")
    print(f"{'type':8}" + "".join(f"{head:>8}" for head in heads))
    for row in rows:
        print(
            f"{row['type']:8}{row['bytes_per_weight']:8.3f}{row['of_file']:8.2f}{row['matvec_gb_s']:8.1f}"
            f"{row['matvec_gb_s'] * 1e9 / limit['read']:8.0%}{row['matvec_gweights_s']:8.1f}{row['matmul_gops']:8.0f}"
            f"{row['matmul_gops'] * 1e9 / limit['multiply']:8.0%}{row.get('repack_gb_s', 0):8.2f}"
        )


if __name__ == "__main__":
    main()
