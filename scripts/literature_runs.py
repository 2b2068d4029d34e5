"""Activations, the cache and drafts as the runner has them: what each mode costs and gains, and what might be gained.

Speeds are of one thread, by CPU time, in turns: tokens of a text one after the other.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

import gguflike
from gguflike import reference
from gguflike.convert import convert
from gguflike.convert.floats import FloatModel
from gguflike.convert.from_checkpoint import plan_conversion
from gguflike.convert.mixes import COPY
from gguflike.convert.quantize import plan_quantization
from gguflike.evaluate.scores import divergence
from gguflike.reference import parts
from gguflike.runner import speculate

Rows = np.ndarray
DECODED, ROUNDS = 16, 24  # tokens of a turn, and turns
SINKS = 4


def error(truth: Rows, found: Rows) -> float:
    """Root mean square of the difference of logits."""
    return float(np.sqrt(np.square(truth - found).mean()))


def make(model: str, out: Path, **options: Any) -> None:
    """Write a checkpoint, or what the blocks of a GGUF file stand for, as Q8_0 throughout."""
    if Path(model).is_dir():
        convert(model, out, "Q8_0", pure=True, **options)
    else:
        gguflike.quantize_file(model, out, "Q8_0", pure=True, allow_requantize=True, **options)


def floats(model: str | Path) -> FloatModel:
    """A checkpoint, or what the blocks of a GGUF file stand for."""
    if Path(model).is_dir():
        return plan_conversion(model, None, "F32").float_model()
    return plan_quantization(model, None, COPY.name).float_model()


def bench_activations(args: argparse.Namespace) -> None:
    """Q8_0 throughout, so that activations are what is rounded most, beside the same file with float activations."""
    with tempfile.TemporaryDirectory() as place:
        modes: list[tuple[str, Path, str]] = []
        plain, smooth = Path(place) / "plain.gguf", Path(place) / "smooth.gguf"
        make(args.model, plain)
        make(args.model, smooth, fold="smooth", calibration=args.calibration[:1])
        modes += [("dynamic", plain, "dynamic"), ("adaptive", plain, "adaptive")]
        seen = {"calibration": args.calibration[:1], "tokens": args.calibration_tokens // 2}
        for observer in args.observers:
            file = Path(place) / f"{observer}.gguf"
            file.write_bytes(plain.read_bytes())
            found = gguflike.calibrate_activations(file, observer=observer, **seen)
            modes.append((f"static, {observer}", file, "static"))
        modes.append((f"hybrid: {found.hybrid} of {found.matrices} matrices static", file, "hybrid"))
        modes += [("SmoothQuant, dynamic", smooth, "dynamic"), ("SmoothQuant, adaptive", smooth, "adaptive")]
        found = gguflike.calibrate_activations(smooth, **seen)
        modes.append(("SmoothQuant, static", smooth, "static"))
        modes.append((f"SmoothQuant, hybrid: {found.hybrid} of {found.matrices}", smooth, "hybrid"))
        speeds = _speeds([(file, mode) for _, file, mode in modes], args)
        print(
            "| activations | " + " | ".join(f"KL, {Path(each).stem}" for each in args.text) + " | logits, rms | speed |"
        )
        print("|---|" + "---|" * (len(args.text) + 2))
        truths: dict[tuple[Path, str], Rows] = {}
        for (label, file, mode), speed in zip(modes, speeds, strict=True):
            shown, errors = [], []
            of = smooth if file == smooth else plain
            with gguflike.load(file, threads=1, context=512, activations=mode, cache_type="f32") as model:
                for text in args.text:
                    ids = _ids(model, text)
                    if (of, text) not in truths:
                        truths[of, text] = _float_logits(of, ids)
                    logits = model.logits(ids)
                    shown.append(divergence(truths[of, text], logits))
                    errors.append(error(truths[of, text], logits))
            figures = " | ".join(f"{each:.3g}" for each in shown)
            print(f"| {label} | {figures} | {np.sqrt(np.mean(np.square(errors))):.3g} | {speed:+.1%} |", flush=True)


def _ids(model: Any, text: str) -> list[int]:
    whole = Path(text).read_text(encoding="utf-8", errors="replace")
    return list(model.tokenize(whole[4000:12000]))[:256]


def _float_logits(file: Path, ids: list[int]) -> Rows:
    """Of the weights in a file, with nothing rounded."""
    model = floats(file)
    return np.asarray(reference.logits(model.graph, {name: model.read(name) for name in model.sources}, ids))


def _speeds(files: list[tuple[Path, str]], args: argparse.Namespace) -> list[float]:
    """Of each file in its mode, how much faster than the first it computes tokens."""
    models = [gguflike.load(file, threads=1, context=512, activations=mode) for file, mode in files]
    ids = _ids(models[0], args.text[0])
    times: list[list[float]] = [[] for _ in models]
    for model in models:
        model.extend(ids[:128], 0)
    for _ in range(ROUNDS):
        for model, spent in zip(models, times, strict=True):
            begin = time.process_time()
            for i in range(128, 128 + DECODED):
                model.extend([ids[i]], i)
            spent.append(time.process_time() - begin)
    for model in models:
        model.close()
    return [statistics.median(a / b for a, b in zip(times[0], each, strict=True)) - 1 for each in times]


Exact = Callable[[Rows], Rows]
"""From attention (heads, queries, keys) to which keys are exact for which queries, bool (queries, keys)."""


def blocks(bits: int) -> Callable[[Rows], Rows]:
    """Values in blocks of 32 with a float16 scale, as a cache of q8_0 has them."""

    def apply(x: Rows) -> Rows:
        values = x.reshape(*x.shape[:-1], -1, 32)
        scale = (np.abs(values).max(axis=-1, keepdims=True) / (2 ** (bits - 1) - 1)).astype(np.float16)
        scale = scale.astype(np.float32)
        codes = np.rint(np.divide(values, scale, out=np.zeros_like(values), where=scale > 0))
        return np.asarray((codes * scale).reshape(x.shape), np.float32)

    return apply


def at(first: int, last: int) -> Exact:
    """The ``first`` keys, and the ``last`` of each query."""

    def exact(shares: Rows) -> Rows:
        query, key = np.arange(shares.shape[1])[:, None], np.arange(shares.shape[2])
        return (key < first) | (key > query - last)

    return exact


def by_mass(share: float, count: int) -> Exact:
    """The last ``count`` keys of each query, and such a share of the others to which most attention went before."""

    def exact(shares: Rows) -> Rows:
        query, key = np.arange(shares.shape[1])[:, None], np.arange(shares.shape[2])
        before = np.cumsum(shares.sum(axis=0), axis=0)
        before = np.concatenate([np.zeros_like(before[:1]), before[:-1]])
        ranks = np.argsort(np.argsort(-before, axis=1), axis=1)
        return (ranks < share * (query + 1)) | (key > query - count)

    return exact


@contextmanager
def cached(rounded: Callable[[Rows], Rows], exact: Exact | None, kept: list[float]) -> Iterator[None]:
    """The reference with keys and values ``rounded``, but those that are ``exact``; ``kept``: the shares of these."""
    plain = parts.attend

    def attend(q: Rows, k: Rows, v: Rows, mask: Rows, scale: float, *others: Any) -> Rows:
        if exact is None:
            return np.asarray(plain(q, rounded(k), rounded(v), mask, scale, *others))
        repeat = q.shape[1] // k.shape[1]
        q, k, v, k_r, v_r = (each.transpose(1, 0, 2) for each in (q, k, v, rounded(k), rounded(v)))
        k, v, k_r, v_r = (np.repeat(each, repeat, axis=0) for each in (k, v, k_r, v_r))
        scores = np.where(mask, q @ k.transpose(0, 2, 1) * np.float32(scale), -np.inf)
        chosen = exact(parts.softmax(scores))
        kept.append(float((chosen & mask).sum() / mask.sum()))
        coarse = np.where(mask, q @ k_r.transpose(0, 2, 1) * np.float32(scale), -np.inf)
        shares = parts.softmax(np.where(chosen, scores, coarse))
        return np.asarray(((shares * chosen) @ v + (shares * ~chosen) @ v_r).transpose(1, 0, 2))

    parts.attend = attend
    try:
        yield
    finally:
        parts.attend = plain


def bench_cache(args: argparse.Namespace) -> None:
    """What keys and values in few bits cost, all of them or those that get little attention, by the reference."""
    model = floats(args.model)
    weights = {name: model.read(name) for name in model.sources}
    texts = [Path(each).read_text(encoding="utf-8", errors="replace") for each in args.text]
    chunks = [list(model.encode(text[4000:16000]))[:512] for text in texts]
    truths = [reference.logits(model.graph, weights, chunk) for chunk in chunks]
    print("| keys and values | exact | bits | " + " | ".join(f"KL, {Path(each).stem}" for each in args.text) + " |")
    print("|---|---|---|" + "---|" * len(args.text))
    half: Callable[[Rows], Rows] = lambda x: x.astype(np.float16).astype(np.float32)  # noqa: E731
    rows: list[tuple[str, Callable[[Rows], Rows], Exact | None, float]] = [("float16", half, None, 16.0)]
    for bits in (8, 4):
        name = f"{bits} bits in blocks of 32"
        rows.append((name, blocks(bits), None, bits + 0.5))
        schemes = {
            "the first": at(1, 0),
            f"the first {SINKS}": at(SINKS, 0),
            "the last 32": at(0, 32),
            f"the first {SINKS} and the last 32": at(SINKS, 32),
            "the last 32 and a tenth by attention": by_mass(0.1, 32),
        }
        rows += [(f"{name}, {what} exact", blocks(bits), exact, bits + 0.5) for what, exact in schemes.items()]
    for label, rounded, exact, width in rows:
        kept: list[float] = []
        with cached(rounded, exact, kept):
            shown = [
                divergence(truth, reference.logits(model.graph, weights, chunk))
                for truth, chunk in zip(truths, chunks, strict=True)
            ]
        share = float(np.mean(kept)) if kept else 0.0
        figures = " | ".join(f"{each:.3g}" for each in shown)
        print(f"| {label} | {share:.0%} | {width + share * (16 - width):.3g} | {figures} |", flush=True)


def bench_drafts(args: argparse.Namespace) -> None:
    """Drafts by lookup of a fixed length, and of one that follows what is accepted: tokens of a pass, and speed."""
    with tempfile.TemporaryDirectory() as place:
        file = Path(place) / "m.gguf"
        make(args.model, file)
        texts = {
            Path(each).stem: Path(each).read_text(encoding="utf-8", errors="replace")[4000:5200] for each in args.text
        }
        texts["a paragraph, five times"] = 5 * (next(iter(texts.values()))[:300] + "\n")
        print("| drafts | " + " | ".join(f"tokens of a pass, speed: {name}" for name in texts) + " |")
        print("|---|" + "---|" * len(texts))
        adapt = speculate.Lookup._adapt
        with gguflike.load(file, threads=1, context=512) as model:
            base: dict[str, float] = {}
            for label, lookup, adapts in (
                ("none", 0, True),
                ("8, fixed", 8, False),
                ("up to 8, by acceptance", 8, True),
            ):
                speculate.Lookup._adapt = adapt if adapts else lambda *_: None  # type: ignore[method-assign]
                shown = []
                for name, text in texts.items():
                    spent, passes, tokens = _generated(model, text, lookup)
                    base.setdefault(name, spent)
                    shown.append(f"{tokens / passes:.2f}, {base[name] / spent - 1:+.0%}")
                print(f"| {label} | {' | '.join(shown)} |", flush=True)
        speculate.Lookup._adapt = adapt  # type: ignore[method-assign]


def _generated(model: Any, text: str, lookup: int) -> tuple[float, int, int]:
    """Seconds, passes and tokens of a continuation; the least of three."""
    ids, found = model.tokenize(text)[:300], []
    passes = 0
    plain, checking = model._passes.logits, model._passes.each

    def counted(run: Any) -> Any:
        def count(*arguments: Any, **options: Any) -> Any:
            nonlocal passes
            passes += 1
            return run(*arguments, **options)

        return count

    for _ in range(3):
        model.forget(0)
        model.extend(ids, 0)
        passes, model._passes.logits, model._passes.each = 0, counted(plain), counted(checking)
        begin = time.process_time()
        result = model.generate(ids, 96, lookup=lookup).result()
        found.append(time.process_time() - begin)
        model._passes.logits, model._passes.each = plain, checking
    return min(found), passes, len(result.tokens)
