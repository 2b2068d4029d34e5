"""What a pass of a few tokens costs beside a pass of one: ``python scripts/bench_rows.py MODEL``.

Passes of 1, 2, 4, 8 and 16 tokens behind the same cached text, with the logits of all, in turns; medians of the wall
time and of the processor's time, and their ratios to those of one token. Weights are read once for a pass however many
tokens it has, so that several users, or guesses to be verified, share most of its cost.
"""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np

from gguflike.runner import load

SIZES = (1, 2, 4, 8, 16)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="GGUF file")
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="tokens of the passes (1 must be one)")
    parser.add_argument("--threads", type=int, nargs="+", default=(2, 1), help="threads, one measurement for each")
    parser.add_argument("--position", type=int, default=64, help="tokens that are in the cache already")
    parser.add_argument("--repeat", type=int, default=15, help="rounds, of which the median is taken")
    args = parser.parse_args()
    for threads in args.threads:
        wall, cpu = measure(args.model, threads, args.position, args.sizes, args.repeat)
        print(f"{threads} threads, position {args.position}: ms of a pass (of CPU time), times one token's")
        for size in args.sizes:
            ratios = wall[size] / wall[1], cpu[size] / cpu[1]
            print(f"{size:4d} tokens {wall[size]:9.2f} ({cpu[size]:9.2f}) {ratios[0]:7.2f} ({ratios[1]:.2f})")


def measure(
    path: str, threads: int, position: int, sizes: tuple[int, ...], repeat: int
) -> tuple[dict[int, float], dict[int, float]]:
    """Milliseconds of a pass by its size: medians of wall time, and of the time of all processors."""
    times: dict[int, list[tuple[float, float]]] = {size: [] for size in sizes}
    with load(path, threads=threads, context=position + max(sizes)) as model:
        ids = np.random.default_rng(0).integers(0, model.vocab_size, position + max(sizes)).tolist()
        model.extend(ids[:position], 0)
        for round_ in range(repeat + 1):
            for size in sizes:
                begun = time.perf_counter(), time.process_time()
                model.extend(ids[position : position + size], position, all_logits=True)
                if round_:  # the first one warms up
                    ended = time.perf_counter() - begun[0], time.process_time() - begun[1]
                    times[size].append(ended)
    medians = {size: [1e3 * statistics.median(part) for part in zip(*pairs)] for size, pairs in times.items()}
    return {size: pair[0] for size, pair in medians.items()}, {size: pair[1] for size, pair in medians.items()}


if __name__ == "__main__":
    main()
