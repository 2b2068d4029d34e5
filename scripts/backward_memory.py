#!/usr/bin/env python3
"""Memory of the backward pass of effort 2 on one block of an 8B Llama, beside what a plan reckons.

    python scripts/backward_memory.py [--sequences 8] [--tokens 512] [--threads 2]

The block has random weights of float32, 4096 wide, 14336 in the feed-forward; the vocabulary is small. What is told is
the most that was resident (VmHWM) by then, and seconds of CPU. Sequences are gone through one by one: more of them
take time, not memory. Linux only.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from gguflike.calibrate import needs
from gguflike.calibrate.fisher import Sensitivity, fisher
from gguflike.families.parts import Attention, Branch, Embedding, FeedForward, Graph, Head, Norm, Rope

WIDTH, INNER, VOCABULARY = 4096, 14336, 512


def graph() -> Graph:
    attention = Branch(Norm("attn_norm", WIDTH, 1e-5), Attention(WIDTH, 32, 8, 128, Rope(128, 5e5, "norm")))
    feed = Branch(Norm("ffn_norm", WIDTH, 1e-5), FeedForward(WIDTH, INNER))
    ends = Embedding(VOCABULARY, WIDTH), Norm("output_norm", WIDTH, 1e-5), Head(VOCABULARY, WIDTH)
    return Graph(ends[0], ((attention, feed),), ends[1], ends[2])


def resident() -> float:
    """GiB that were resident at most."""
    said = Path("/proc/self/status").read_text(encoding="utf-8").partition("VmHWM:")[2].split()[0]
    return int(said) / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("sequences", 8), ("tokens", 512), ("threads", 2)):
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()
    made, random = graph(), np.random.default_rng(0)
    shapes = {name: tensor.shape for name, _, tensor in made.tensors() if tensor.used}
    texts = [random.integers(0, VOCABULARY, args.tokens).tolist() for _ in range(args.sequences)]

    def read(name: str) -> Any:
        if len(shapes[name]) == 1:
            return np.ones(shapes[name], np.float32)
        found = np.random.default_rng(len(name)).standard_normal(shapes[name], dtype=np.float32)
        found *= np.float32(shapes[name][-1] ** -0.5)
        return found

    def found(name: str, sensitivity: Sensitivity) -> None:
        sensitivity.output()
        print(f"{name}: {resident():.2f} GiB, {time.process_time():.0f} s", flush=True)

    planned = needs.BASE + needs.learning(made, args.tokens, args.threads)
    with tempfile.TemporaryDirectory(prefix="gguflike-") as folder:
        fisher(made, read, texts, found, Path(folder), threads=args.threads)
    print(f"at most {resident():.2f} GiB; a plan says {planned / 2**30:.2f}")


if __name__ == "__main__":
    main()
