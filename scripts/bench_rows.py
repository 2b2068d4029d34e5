"""What a pass of a few tokens costs beside a pass of one: ``python scripts/bench_rows.py MODEL``.

Passes of 1, 2, 4, 8 and 16 tokens behind the same number of cached ones, with the logits of all, in turns: as tokens
of one text (a guess that is verified), and as a token of each of so many texts (users who are served together).
Printed are medians of the wall time and of the time of all processors, and how many times one token's they are.
Weights are read once for a pass, however many tokens it has.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence

import numpy as np

from gguflike.runner import Model, load
from gguflike.runner.passes import Run

SIZES = (1, 2, 4, 8, 16)
Times = dict[int, tuple[float, float]]  # by the tokens of a pass: milliseconds of wall time, and of processors


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="GGUF file")
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="tokens of the passes, 1 first")
    parser.add_argument("--threads", type=int, nargs="+", default=(2, 1), help="threads, one measurement for each")
    parser.add_argument("--position", type=int, default=64, help="tokens of a text that are in the cache already")
    parser.add_argument("--repeat", type=int, default=15, help="rounds, of which the median is taken")
    args = parser.parse_args()
    for threads in args.threads:
        with load(args.model, threads=threads, context=args.position + max(args.sizes)) as model:
            for what, measured in (("one text", of_one_text), ("a token of each text", of_each_text)):
                times = measured(model, args.position, args.sizes, args.repeat)
                print(f"{threads} threads, {what}: ms, of processors; times one token's")
                for size, (wall, cpu) in times.items():
                    print(f"{size:4d} {wall:9.2f} {cpu:9.2f} {wall / times[1][0]:7.2f} {cpu / times[1][1]:6.2f}")


def of_one_text(model: Model, position: int, sizes: Sequence[int], repeat: int) -> Times:
    """Passes of so many tokens of one text."""
    ids = tokens(model, position + max(sizes))
    model.extend(ids[:position], 0)
    return timed(lambda size: model.extend(ids[position : position + size], position, all_logits=True), sizes, repeat)


def of_each_text(model: Model, position: int, sizes: Sequence[int], repeat: int) -> Times:
    """Passes of one token of each of so many texts."""
    together = model.together(max(sizes))
    ids = tokens(model, position + 1)
    for slot in together.slots:
        together.compute([Run(slot, ids[:-1])])

    def compute(size: int) -> None:
        together.compute([Run(slot, ids[-1:], 1) for slot in together.slots[:size]])
        for slot in together.slots[:size]:
            slot.forget(position)

    times = timed(compute, sizes, repeat)
    together.close()
    return times


def tokens(model: Model, count: int) -> list[int]:
    """So many tokens that mean nothing."""
    ids: list[int] = np.random.default_rng(0).integers(0, model.vocab_size, count).tolist()
    return ids


def timed(run: Callable[[int], object], sizes: Sequence[int], repeat: int) -> Times:
    """What ``run`` takes by size: medians of rounds in which all sizes take turns, after one that warms up."""
    times: dict[int, list[tuple[float, float]]] = {size: [] for size in sizes}
    for _ in range(repeat + 1):
        for size in sizes:
            wall, cpu = time.perf_counter(), time.process_time()
            run(size)
            times[size].append((1e3 * (time.perf_counter() - wall), 1e3 * (time.process_time() - cpu)))
    medians = {
        size: [statistics.median(part) for part in zip(*found[1:], strict=True)] for size, found in times.items()
    }
    return {size: (wall, cpu) for size, (wall, cpu) in medians.items()}


if __name__ == "__main__":
    main()
