"""Error and speed of every block type's encoder and decoder, against ggml's (libgguf) and the gguf package's.

    python scripts/bench_codecs.py [--types Q4_K,TQ2_0] [--checkpoint FOLDER ...] [--json OUT] [--markdown OUT]

Errors: RMSE over rows of a Gaussian, and relative to the weights' own RMS over the matrices of each checkpoint folder
(safetensors, or pytorch_model.bin); then with importance weights, weighted RMSE. Encode speed: million weights per
second of CPU time on one thread (wall time would measure what else runs on the machine), then of wall time on all
cores, by each side's own threads. libgguf makes tables for its lattice types when a process first encodes one: how long
that takes is measured apart, in fresh processes. Decode: GB/s of blocks read and floats written, one thread, beyond any
cache, next to a plain copy. Speeds are compared in one process, by the fastest of several turns.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gguf
import libgguf
import numpy as np

from gguflike.blocks import FORMATS, BlockFormat
from gguflike.kernels import dispatch
from gguflike.kernels.encode.lattice.codec import LATTICES
from gguflike.kernels.table import KERNELS

PLAIN = ("F32", "F64", "I8", "I16", "I32", "I64")  # conversions, nothing to compare
SHAPE = (256, 4096)
SLOW_BUDGET = 2.0  # seconds of CPU that libgguf may take for an error
SPEED_BUDGET = 0.3  # and for one measurement of its speed
MEASUREMENT = 0.05  # seconds for which a short call is repeated
THREADED_ROWS = 64  # libgguf starts threads from here on
DECODE_REPEATS = 16  # of SHAPE: 64 MiB of floats
DECODE_BUDGET = 0.1


def encode(
    x: np.ndarray, fmt: BlockFormat, weights: np.ndarray | None, method: str = "search", threads: int = 1
) -> np.ndarray:
    out = np.empty((len(x), fmt.row_bytes(x.shape[1])), np.uint8)
    dispatch.encoder(fmt)(x, out, weights, method, threads)
    return out


def decode(blocks: np.ndarray, fmt: BlockFormat, columns: int, threads: int = 1) -> np.ndarray:
    out = np.empty((len(blocks), columns), np.float32)
    dispatch.decoder(fmt)(blocks, out, threads)
    return out


def rmse(x: np.ndarray, y: np.ndarray, weights: np.ndarray | None) -> float:
    squares = (x - y).astype(np.float64) ** 2
    return float(np.sqrt(np.average(squares.mean(axis=0), weights=weights)))


def ggml_threads(count: int) -> None:
    os.environ["LIBGGUF_NUM_THREADS"] = str(count)  # libgguf looks at every call


def ggml_encode(x: np.ndarray, fmt: BlockFormat, weights: np.ndarray | None, threads: int = 1) -> np.ndarray | None:
    """libgguf's blocks, or None for a type it does not encode.

    Types that it does not encode without importance get equal weights: its own makeshift depends on the rows at hand.
    """
    if weights is None and libgguf.quantize_requires_imatrix(fmt.id):
        weights = np.ones(x.shape[1], np.float32)
    ggml_threads(threads)
    try:
        blocks = libgguf.quantize_rows(x, fmt.id, weights)
    except (ValueError, RuntimeError):
        return None
    return np.ascontiguousarray(blocks).view(np.uint8).reshape(len(x), -1)


def package_encode(x: np.ndarray, fmt: BlockFormat) -> np.ndarray | None:
    """The gguf package's blocks, or None for a type it does not encode."""
    try:
        return gguf.quants.quantize(x, gguf.GGMLQuantizationType(fmt.id))
    except (NotImplementedError, ValueError, AttributeError):
        return None


def seconds(*calls: Callable[[], Any], clock: Callable[[], float] = time.process_time, repeats: int = 5) -> list[float]:
    """Least seconds of each call, by default of CPU; the calls take turns, and one turn repeats a short call."""
    least = [math.inf] * len(calls)
    for _ in range(repeats):
        for i, call in enumerate(calls):
            count, start = 0, clock()
            while (taken := clock() - start) < MEASUREMENT:
                call()
                count += 1
            least[i] = min(least[i], taken / count)
    return least


def importance(columns: int) -> np.ndarray:
    return (np.random.default_rng(1).random(columns) + 0.05).astype(np.float32)


def gaussian() -> np.ndarray:
    return np.random.default_rng(0).standard_normal(SHAPE).astype(np.float32)


def matrices(folder: Path) -> Iterator[np.ndarray]:
    """The matrices of a checkpoint folder as float32."""
    from safetensors import safe_open

    if (pickled := folder / "pytorch_model.bin").exists():
        import torch

        for tensor in torch.load(pickled, map_location="cpu", weights_only=True).values():
            if tensor.ndim == 2:
                yield np.ascontiguousarray(tensor.to(torch.float32).numpy())
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "np") as file:
            for name in file.keys():  # noqa: SIM118  # not a mapping
                part = file.get_slice(name)
                if len(part.get_shape()) == 2:
                    yield read_float(path, name)


def read_float(path: Path, name: str) -> np.ndarray:
    """One tensor as float32; numpy has no bfloat16, so its bits are read from the file."""
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        entry = json.loads(file.read(size))[name]
        begin, end = entry["data_offsets"]
        file.seek(8 + size + begin)
        data = file.read(end - begin)
    if entry["dtype"] == "BF16":
        values = (np.frombuffer(data, "<u2").astype(np.uint32) << 16).view(np.float32)
    else:
        values = np.frombuffer(data, {"F16": "<f2", "F32": "<f4", "F64": "<f8"}[entry["dtype"]]).astype(np.float32)
    return values.reshape(entry["shape"])


def affordable(x: np.ndarray, fmt: BlockFormat, weights: np.ndarray | None, budget: float = SLOW_BUDGET) -> np.ndarray:
    """The first rows of ``x`` that libgguf encodes within ``budget`` seconds, once its tables are made."""
    ggml_encode(x[:1], fmt, weights)
    [first] = seconds(lambda: ggml_encode(x[:1], fmt, weights), repeats=1)
    return np.ascontiguousarray(x[: max(1, int(budget / first))])


def errors(fmt: BlockFormat, x: np.ndarray, weights: np.ndarray | None) -> dict[str, float | None]:
    """RMSE of our search, our plain rule and ggml, over the same rows."""
    rows = affordable(x, fmt, weights)
    theirs = ggml_encode(rows, fmt, weights)
    columns = rows.shape[1]
    result: dict[str, float | None] = {
        "search": rmse(rows, decode(encode(rows, fmt, weights), fmt, columns), weights),
        "absmax": rmse(rows, decode(encode(rows, fmt, weights, "absmax"), fmt, columns), weights),
        "ggml": None if theirs is None else rmse(rows, decode(theirs, fmt, columns), weights),
    }
    return result | {"rows": len(rows)}


def checkpoint_errors(fmt: BlockFormat, folder: Path, weighted: bool) -> dict[str, float | None]:
    """Relative RMSE over all matrices that the block divides: the root of the summed squares over the weights' own."""
    total = {"search": 0.0, "absmax": 0.0, "ggml": 0.0}
    squares, known = 0.0, True
    for x in matrices(folder):
        if x.shape[1] % fmt.block_size:
            continue
        weights = importance(x.shape[1]) if weighted else None
        found = errors(fmt, x, weights)
        known = known and found["ggml"] is not None
        count = (found["rows"] or 0) * x.shape[1]
        for key in total:
            total[key] += (found[key] or 0.0) ** 2 * count
        squares += (
            float(np.average((x[: int(found["rows"] or 0)].astype(np.float64) ** 2).mean(axis=0), weights=weights))
            * count
        )
    if not squares:
        return {"search": None, "absmax": None, "ggml": None}
    relative: dict[str, float | None] = {key: float(np.sqrt(value / squares)) for key, value in total.items()}
    return relative if known else relative | {"ggml": None}


def ggml_setup(fmt: BlockFormat) -> float:
    """CPU seconds by which the first row that a process has libgguf encode takes longer than the second."""
    program = (
        "import sys, time, libgguf, numpy as np\n"
        "x, taken = np.linspace(-1, 1, 256, dtype=np.float32)[None], []\n"
        "for _ in range(2):\n"
        "    start = time.process_time()\n"
        "    libgguf.quantize_rows(x, int(sys.argv[1]), np.ones(256, np.float32))\n"
        "    taken.append(time.process_time() - start)\n"
        "print(taken[0] - taken[1])"
    )
    run = subprocess.run([sys.executable, "-c", program, str(fmt.id)], capture_output=True, text=True, check=True)
    return float(run.stdout)


def encode_speed(fmt: BlockFormat, x: np.ndarray, weights: np.ndarray | None, cores: int) -> dict[str, float | None]:
    """Million weights per second: CPU time of one thread (``ours``, ``ggml``, ``package``), wall time of all cores."""
    rows = affordable(x, fmt, weights, SPEED_BUDGET)
    many = x[: max(len(rows), THREADED_ROWS)]
    ours, theirs = seconds(lambda: encode(x, fmt, weights), lambda: ggml_encode(rows, fmt, weights))
    our_wall, their_wall = seconds(
        lambda: encode(x, fmt, weights, threads=cores),
        lambda: ggml_encode(many, fmt, weights, cores),
        clock=time.perf_counter,
    )
    known = ggml_encode(rows[:1], fmt, weights) is not None
    part = np.ascontiguousarray(x[:64])
    package = (
        None if package_encode(part[:1], fmt) is None else seconds(lambda: package_encode(part, fmt), repeats=3)[0]
    )
    return {
        "ours": x.size / ours / 1e6,
        "ggml": rows.size / theirs / 1e6 if known else None,
        "package": None if package is None else part.size / package / 1e6,
        "ours_all_cores": x.size / our_wall / 1e6,
        "ggml_all_cores": many.size / their_wall / 1e6 if known else None,
    }


def decode_speed(fmt: BlockFormat, x: np.ndarray) -> dict[str, float | None]:
    """GB/s of blocks read plus floats written, CPU time of one thread, and of a plain copy of float32.

    The floats are more than a cache holds; of the slow peers, as many rows as ``DECODE_BUDGET`` allows.
    """
    blocks = np.tile(encode(x, fmt, None, "absmax"), (DECODE_REPEATS, 1))
    source = np.tile(x, (DECODE_REPEATS, 1))
    out, target = np.empty_like(source), np.empty_like(source)
    kernel = dispatch.decoder(fmt)
    ours, copy = seconds(lambda: kernel(blocks, out, 1), lambda: np.copyto(target, source), repeats=9)
    moved = blocks.nbytes + out.nbytes
    result: dict[str, float | None] = {"ours": moved / ours / 1e9, "copy": 2 * source.nbytes / copy / 1e9}
    ggml_threads(1)
    for key, call in (
        ("package", lambda part: gguf.quants.dequantize(part, gguf.GGMLQuantizationType(fmt.id))),
        ("ggml", lambda part: libgguf.dequantize_rows(part, fmt.id)),
    ):
        try:
            [first] = seconds(lambda call=call: call(blocks[:64]), repeats=2)
        except (NotImplementedError, ValueError, AttributeError, RuntimeError):
            result[key] = None
        else:
            part = blocks[: max(64, int(64 * DECODE_BUDGET / first))]
            [taken] = seconds(lambda call=call, part=part: call(part))
            result[key] = moved * len(part) / len(blocks) / taken / 1e9
    return result


def number(value: Any, form: str) -> str:
    return "-" if value is None else format(value, form)


def ratio(a: Any, b: Any, form: str) -> str:
    """a / b, "-" where one is missing or b is zero (bfloat16 weights in bfloat16 have no error)."""
    return "-" if a is None or not b else format(a / b, form)


def markdown(report: dict[str, Any]) -> str:
    """The tables."""
    lines = ["### Error (RMSE; ours / ggml's)", ""]
    sources = report["sources"]
    lines.append("| type | bpw | " + " | ".join(f"{s} | {s}, weighted" for s in sources) + " |")
    lines.append("|---" * (2 + 2 * len(sources)) + "|")
    for name, row in report["types"].items():
        cells = []
        for source in sources:
            for kind in ("plain", "weighted"):
                e = row["error"][source][kind]
                gain = ratio(e["search"], e["ggml"], ".3f")
                cells.append(f"{number(e['search'], '.4f')} / {number(e['ggml'], '.4f')} = {gain}")
        lines.append(f"| {name} | {row['bits_per_weight']:.2f} | " + " | ".join(cells) + " |")
    lines += ["", "### Encode (million weights per second; CPU time of one thread, wall time of all cores)", ""]
    lines.append("| type | ours | ggml | ratio | weighted | ggml | ratio | gguf package | all cores | ggml | ratio |")
    lines.append("|---" * 11 + "|")
    for name, row in report["types"].items():
        s, w = row["encode"]["plain"], row["encode"]["weighted"]
        lines.append(
            f"| {name} | {s['ours']:.0f} | {number(s['ggml'], '.3g')} | {ratio(s['ours'], s['ggml'], '.2f')} "
            f"| {w['ours']:.0f} | {number(w['ggml'], '.3g')} | {ratio(w['ours'], w['ggml'], '.2f')} "
            f"| {number(s['package'], '.3g')} | {s['ours_all_cores']:.0f} | {number(s['ggml_all_cores'], '.3g')} "
            f"| {ratio(s['ours_all_cores'], s['ggml_all_cores'], '.2f')} |"
        )
    setups = {name: row["ggml_setup"] for name, row in report["types"].items() if "ggml_setup" in row}
    if setups:
        lines += ["", "### libgguf's tables: encoding as many weights in a fresh process", ""]
        lines.append(
            "| type | seconds for its tables | million weights per second, warm | cold | ours | ratio warm | cold |"
        )
        lines.append("|---" * 7 + "|")
    for name, setup in setups.items():
        s = report["types"][name]["encode"]["plain"]
        weights = np.prod(report["shape"]) / 1e6
        cold = weights / (setup + weights / s["ggml"])
        ratios = f"{s['ours'] / s['ggml']:.1f} | {s['ours'] / cold:.0f}"
        lines.append(f"| {name} | {setup:.2f} | {s['ggml']:.3g} | {cold:.3g} | {s['ours']:.1f} | {ratios} |")
    lines += [
        "",
        "### Decode (GB/s moved, one thread)",
        "",
        "| type | ours | plain copy | of copy | ggml | gguf package | ratio |",
    ]
    lines.append("|---" * 7 + "|")
    for name, row in report["types"].items():
        d = row["decode"]
        lines.append(
            f"| {name} | {d['ours']:.2f} | {d['copy']:.2f} | {d['ours'] / d['copy']:.0%} | {number(d['ggml'], '.2f')} "
            f"| {number(d['package'], '.2f')} | {ratio(d['ours'], d['package'], '.1f')} |"
        )
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--types", help="comma-separated block types (default: all with an encoder)")
    parser.add_argument("--checkpoint", type=Path, action="append", default=[], help="folder with safetensors")
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--markdown", type=Path, help="write the tables here (default: standard output)")
    arguments = parser.parse_args()
    names = arguments.types.split(",") if arguments.types else [n for n in FORMATS if n not in PLAIN]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    x, weights = gaussian(), importance(SHAPE[1])
    report: dict[str, Any] = {
        "machine": platform.processor() or platform.machine(),
        "cores": cores,
        "shape": SHAPE,
        "sources": ["Gaussian", *(folder.name for folder in arguments.checkpoint)],
        "types": {},
    }
    for name in names:
        fmt = FORMATS[name]
        if KERNELS[fmt.name].encode is None:
            print(f"{name}: no encoder", file=sys.stderr)
            continue
        for each in (None, weights):  # compile
            decode(encode(x[:1], fmt, each), fmt, SHAPE[1])
        error = {"Gaussian": {"plain": errors(fmt, x, None), "weighted": errors(fmt, x, weights)}}
        for folder in arguments.checkpoint:
            error[folder.name] = {
                "plain": checkpoint_errors(fmt, folder, False),
                "weighted": checkpoint_errors(fmt, folder, True),
            }
        report["types"][name] = {
            "bits_per_weight": fmt.bits_per_weight,
            "error": error,
            "encode": {
                "plain": encode_speed(fmt, x, None, cores),
                "weighted": encode_speed(fmt, x, weights, cores),
            },
            "decode": decode_speed(fmt, x),
        }
        if name in LATTICES:
            report["types"][name]["ggml_setup"] = ggml_setup(fmt)
        if arguments.json:  # after every type: a run may take an hour, and be cut off
            arguments.json.write_text(json.dumps(report, indent=1) + "\n")
        print(f"{name}: done", file=sys.stderr)
    if arguments.markdown:
        arguments.markdown.write_text(markdown(report))
    else:
        print(markdown(report))
    return 0


if __name__ == "__main__":
    warnings.simplefilter("ignore", RuntimeWarning)  # the gguf package divides by zero where a block is zero
    sys.exit(main())
