#!/usr/bin/env python3
"""The quantization methods that the literature names, as block types: bits, error, and what each idea costs or gains.

Prints the tables of spec/literature.md. Without arguments the first: the RMSE relative to the RMS of the input, on a
Gaussian and on the weight matrices of the bundled checkpoint (real weights have heavier tails, which is what blocks are
for). With a model's folder the others: what each method does to what the model says.

    python scripts/bench_literature.py --model FOLDER --calibration F... --text F... [--only TABLE]

With --into PAGE each table is also put there, in place of the one below its mark: ``<!-- TABLE MODEL -->``, where MODEL
is the name of the folder or file.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import re
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import literature_files
import literature_runs
import numpy as np

import gguflike
from gguflike import checkpoint, reference
from gguflike.blocks import format_by_name
from gguflike.calibrate import ranges
from gguflike.calibrate.stream import stream
from gguflike.convert.floats import FloatModel
from gguflike.convert.from_checkpoint import plan_conversion
from gguflike.evaluate.scores import divergence
from gguflike.reference.rounded import RoundedInputs
from gguflike.tensor import Method

CHECKPOINT = Path(gguflike.__file__).parent / "data" / "austen-kjv-6m"
Rows = np.ndarray


def gaussian() -> Rows:
    return np.random.default_rng(0).standard_normal((256, 4096)).astype(np.float32)


def trained() -> Rows:
    """The feed-forward and attention matrices of the bundled checkpoint, as rows of 256 weights."""
    tensors = checkpoint.open(CHECKPOINT).tensors
    matrices = [t.read_f32() for name, t in tensors.items() if "layers" in name and len(t.shape) == 2]
    return np.concatenate([matrix.reshape(-1, 256) for matrix in matrices])


def fixed_point(bits: int) -> Callable[[Rows], Rows]:
    """One power-of-two step for the whole tensor, the smallest that does not clip (no block type does this)."""

    def apply(x: Rows) -> Rows:
        top = 2 ** (bits - 1) - 1
        step = 2.0 ** np.ceil(np.log2(np.abs(x).max() / top))
        return np.round(x / step).clip(-top - 1, top) * step

    return apply


def tensor_absmax(bits: int) -> Callable[[Rows], Rows]:
    """One real-valued scale for the whole tensor: AbsMax without blocks."""

    def apply(x: Rows) -> Rows:
        top = 2 ** (bits - 1) - 1
        step = np.abs(x).max() / top
        return np.round(x / step) * step

    return apply


def block_type(name: str, method: Method) -> Callable[[Rows], Rows]:
    return lambda x: gguflike.quantize(x, name, method=method).dequantize()


ROWS: list[tuple[str, str, str, Method | None]] = [
    ("Fixed-point, one step per tensor", "4", "fixed", None),
    ("AbsMax, one scale per tensor", "4", "absmax", None),
    ("AbsMax in blocks of 32", "", "Q4_0", "absmax"),
    ("AbsMax in blocks of 32, 8 bits", "", "Q8_0", "absmax"),
    ("the same bytes, least squares", "", "Q4_0", "search"),
    ("Zero-point (asymmetric)", "", "Q4_1", "absmax"),
    ("the same bytes, least squares", "", "Q4_1", "search"),
    ("Logarithmic scale (power of two, E8M0)", "", "MXFP4", "absmax"),
    ("the same bytes, best exponent", "", "MXFP4", "search"),
    ("Small-float scale (UE4M3)", "", "NVFP4", "search"),
    ("Non-uniform levels", "", "IQ4_NL", "search"),
    ("Grouped: super-blocks, zero-point", "", "Q4_K", "search"),
    ("Grouped: super-blocks, zero-point", "", "Q2_K", "search"),
    ("Grouped: super-blocks, non-uniform levels", "", "IQ4_XS", "search"),
    ("Vector quantization (8 weights, 256 points)", "", "IQ2_XXS", "search"),
    ("Vector quantization (8 weights, 1024 points)", "", "IQ2_S", "search"),
    ("Product: sign x magnitude of 4", "", "IQ3_S", "search"),
    ("Ternary, largest weight as the scale", "", "TQ2_0", "absmax"),
    ("Ternary, least squares", "", "TQ2_0", "search"),
    ("Ternary vectors", "", "IQ1_S", "search"),
    ("Binary", "", "Q1_0", "search"),
]
BASELINES = {"fixed": fixed_point(4), "absmax": tensor_absmax(4)}


Rounds = Callable[[str, Rows], Rows]


def by_block(size: int | None, bits: int) -> Rounds:
    """Dynamic: by the largest magnitude of each ``size`` values, or of each token."""

    def apply(_: str, x: Rows) -> Rows:
        blocks = x.reshape(-1, size or x.shape[-1])
        step = np.abs(blocks).max(axis=1, keepdims=True) / (2 ** (bits - 1) - 1)
        return (np.rint(blocks / np.where(step > 0, step, 1)) * step).reshape(x.shape).astype(np.float32)

    return apply


def adaptive(bits: int, crest: float) -> Rounds:
    """As `by_block`, and exact where a block holds more than ``crest`` times the token's root mean square."""
    plain = by_block(32, bits)

    def apply(name: str, x: Rows) -> Rows:
        largest = np.abs(x).reshape(len(x), -1, 32).max(axis=2)
        refined = largest > crest * np.sqrt(np.square(x).mean(axis=1, keepdims=True))
        refined[0] = True
        return np.where(np.repeat(refined, 32, axis=1), x, plain(name, x))

    return apply


def static(of: dict[str, ranges.Range], dynamic: Rounds) -> Rounds:
    """By the ranges of matrices; what has none, and massive tokens, dynamically."""

    def apply(name: str, x: Rows) -> Rows:
        if name not in of:
            return dynamic(name, x)
        largest = np.abs(x).max(axis=1, keepdims=True)
        return np.where(largest > ranges.MASSIVE * np.median(largest), dynamic(name, x), of[name].apply(x))

    return apply


def redistributed(of: dict[str, tuple[ranges.Redistribution, ranges.Range]], dynamic: Rounds) -> Rounds:
    def apply(name: str, x: Rows) -> Rows:
        by, within = of[name]
        largest = np.abs(x).max(axis=1, keepdims=True)
        rounded = by.backward(within.apply(by.forward(x)))
        return np.where(largest > ranges.MASSIVE * np.median(largest), dynamic(name, x), rounded)

    return apply


def bench_activations(args: argparse.Namespace) -> None:
    """Float weights and rounded activations, by the reference: KL to the model that rounds nothing."""
    model = plan_conversion(args.model, None, "F32").float_model()
    weights = {name: model.read(name) for name in model.sources}
    texts = [Path(path).read_text(encoding="utf-8", errors="replace") for path in args.text]
    chunks = [list(model.encode(text[4000:12000]))[:256] for text in texts]
    text = Path(args.calibration[0]).read_text(encoding="utf-8", errors="replace")
    ids = list(model.encode(text[:60000]))[:4096]
    sequences = [ids[i : i + 256] for i in range(0, len(ids) - 255, 256)]
    seen, moved = _observed(model, weights, sequences)
    truths = [reference.logits(model.graph, weights, chunk) for chunk in chunks]

    def divergences(rounds: Rounds) -> str:
        made = RoundedInputs(weights, rounds)
        return " | ".join(
            f"{divergence(truth, reference.logits(model.graph, made, chunk)):.3g}"  # type: ignore[arg-type]
            for truth, chunk in zip(truths, chunks, strict=True)
        )

    print("| activations | bits | " + " | ".join(f"KL, {Path(path).stem}" for path in args.text) + " |")
    print("|---|---|" + "---|" * len(args.text))
    for bits in (8, 6):
        token, block = by_block(None, bits), by_block(32, bits)
        rows: list[tuple[str, Rounds]] = [
            ("dynamic, blocks of 32", block),
            ("dynamic, tokens", token),
            ("adaptive: blocks of 32, exact from a crest of 7 on", adaptive(bits, 7.0)),
        ]
        observers = (ranges.extremes, ranges.moving_average, ranges.percentile, ranges.least_error)
        for observer in observers:
            of = {name: observer(each, bits) for name, each in seen.items()}
            rows.append((f"static, {observer.__name__.replace('_', ' ')}", static(of, token)))
        best = {name: ranges.least_error(each, bits) for name, each in seen.items()}
        stable = {name: of for name, of in best.items() if _is_stable(seen[name], of, bits)}
        rows.append((f"hybrid: {len(stable)} of {len(best)} static, others by token", static(stable, token)))
        one_kind = {name: ranges.least_error(each, bits, "asymmetric") for name, each in seen.items()}
        rows.append(("static, asymmetric", static(one_kind, token)))
        mapped = {name: ranges.hybrid(each, bits) for name, each in seen.items()}
        rows.append(("static, hybrid mapping (reconstruction of Wei et al.)", static(mapped, token)))
        both = {name: (by, ranges.hybrid(each, bits)) for name, (by, each) in moved.items()}
        rows.append(("the same, redistributed", redistributed(both, token)))
        for label, rounds in rows:
            print(f"| {label} | {bits} | {divergences(rounds)} |", flush=True)


def _is_stable(seen: ranges.Seen, of: ranges.Range, bits: int) -> bool:
    """Whether the range leaves at most twice the error of one that ends at each token's largest magnitude."""
    step = seen.average_largest / (2 ** (bits - 1) - 1)
    return ranges.error(seen, of) <= 2 * step**2 / 12


def _observed(
    model: FloatModel, weights: dict[str, Rows], sequences: list[list[int]]
) -> tuple[dict[str, ranges.Seen], dict[str, tuple[ranges.Redistribution, ranges.Seen]]]:
    """What is seen of the inputs of each matrix, and once more when they are redistributed."""
    seen: dict[str, ranges.Seen] = {}

    def found(names: tuple[str, ...], result: Any) -> None:
        if isinstance(result, ranges.Seen):
            seen.update(dict.fromkeys(names, result))

    with tempfile.TemporaryDirectory() as place:
        stream(
            model.graph, weights.__getitem__, sequences, None, Path(place), found=found, collecting=ranges.Observers()
        )
    by = {name: ranges.redistribution(each) for name, each in seen.items()}
    observers = {name: ranges.Observer(len(each.shift), each) for name, each in by.items()}

    def watch(name: str, x: Rows) -> Rows:
        if name in observers:
            observers[name].add(x)
        return x

    for sequence in sequences:
        reference.logits(model.graph, RoundedInputs(weights, watch), sequence)  # type: ignore[arg-type]
    again = {name: each.result() for name, each in observers.items()}
    return seen, {name: (by[name], each) for name, each in again.items() if each is not None}


def bench_types() -> None:
    data = [gaussian(), trained()]
    print("| method | type | rule | bits per weight | Gaussian | trained |\n|---|---|---|---|---|---|")
    for label, bits, name, method in ROWS:
        apply = block_type(name, method) if method else BASELINES[name]
        errors = [float(np.sqrt(np.mean((apply(x) - x) ** 2) / np.mean(x**2))) for x in data]
        width = f"{format_by_name(name).bits_per_weight:.4g}" if method else bits
        print(
            f"| {label} | {name if method else '-'} | {method or '-'} | {width} | {errors[0]:.4f} | {errors[1]:.4f} |"
        )


class Tee(io.StringIO):
    """What is printed, and keeps it."""

    def write(self, text: str) -> int:
        sys.__stdout__.write(text)  # type: ignore[union-attr]
        return super().write(text)


def put(table: str, mark: str, page: str) -> str:
    """The page with another table below a mark, in place of the one that stands there."""
    pattern = re.compile(rf"(<!-- {re.escape(mark)} -->\n\n)(?:\|.*\n)*")
    changed, count = pattern.subn(lambda found: found[1] + table.rstrip("\n") + "\n", page)
    if count != 1:
        sys.exit(f"the page has the mark <!-- {mark} --> {count} times: it must have it once")
    return changed


def print_table(bench: Callable[[], None], mark: str, into: str | None) -> None:
    """Print a table, and put it into a page."""
    printed = Tee()
    with contextlib.redirect_stdout(printed):
        bench()
    if into is not None:
        page = Path(into)
        page.write_text(put(printed.getvalue(), mark, page.read_text(encoding="utf-8")), encoding="utf-8")


TABLES: dict[str, Callable[[argparse.Namespace], None]] = {
    "weights": literature_files.bench,
    "activations": bench_activations,
    "runs": literature_runs.bench_activations,
    "cache": literature_runs.bench_cache,
    "drafts": literature_runs.bench_drafts,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="folder of a checkpoint")
    parser.add_argument("--calibration", nargs="+", default=[], help="text that is calibrated on")
    parser.add_argument("--calibration-tokens", type=int, default=16384)
    parser.add_argument("--text", nargs="+", default=[], help="held-out text")
    parser.add_argument("--tokens", type=int, default=8192, help="of each held-out text")
    parser.add_argument("--threads", type=int, default=1, help="of weights; seconds are of all threads' CPU time")
    parser.add_argument("--types", nargs="+", help="rows of these types only")
    parser.add_argument("--training", action="store_true", help="also rows that train: LSQ, QAT, effort 3")
    parser.add_argument("--steps", type=int, default=160, help="of LSQ and QAT (effort 3 has its own)")
    parser.add_argument("--observers", nargs="+", default=list(ranges.OBSERVERS), help="of static activations")
    parser.add_argument("--keep", help="JSON lines of rows: those that are there are not measured again")
    parser.add_argument("--without-data", action="store_true", help="only rows that need no calibration")
    parser.add_argument("--print-kept", action="store_true", help="measure no weights, print what is kept")
    parser.add_argument("--only", choices=tuple(TABLES))
    parser.add_argument("--into", metavar="PAGE", help="also put each table there, such as spec/literature.md")
    args = parser.parse_args()
    if args.model is None:
        print_table(bench_types, "types", args.into)
        return
    model = Path(args.model)
    label = model.name if model.is_dir() else model.stem
    for name, bench in TABLES.items():
        if args.only in (name, None):
            print_table(partial(bench, args), f"{name} {label}", args.into)


if __name__ == "__main__":
    main()
