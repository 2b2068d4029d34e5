"""gguflike demo"""

from __future__ import annotations

import argparse
import contextlib
import tempfile
from dataclasses import asdict
from pathlib import Path

from gguflike.amounts import size
from gguflike.cli.arguments import positive
from gguflike.cli.output import clean, print_json, table, terminal
from gguflike.cli.progress import progress_bar


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--keep", metavar="DIR", type=Path, help="folder for the files (default: a temporary one)")
    parser.add_argument("--threads", type=positive, help="threads (default: all CPUs)")
    parser.add_argument("--json", action="store_true", help="one JSON document")


def run(args: argparse.Namespace) -> int:
    from gguflike import demo

    with contextlib.ExitStack() as stack:
        folder = args.keep or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="gguflike-")))
        folder.mkdir(parents=True, exist_ok=True)
        with progress_bar() as progress:
            results = list(demo.results(folder, args.threads, progress))
        best = min(results, key=lambda result: result.perplexity)
        if args.json:
            text = "".join(demo.write(best.path, threads=args.threads))
            rows = [asdict(result) | {"path": str(result.path)} for result in results]
            print_json({"results": rows, "best": best.type, "text": text})
            return 0
        header = ["type", "size", "bits per weight", "perplexity", "tokens/s"]
        cells = [
            [r.type, size(r.file_bytes), f"{r.bits_per_weight:.2f}", f"{r.perplexity:.2f}", f"{r.tokens_per_s:.0f}"]
            for r in results
        ]
        print(table([header, *cells], right=(1, 2, 3, 4)))
        print(f"\n{best.type} writes:\n", flush=True)
        for piece in demo.write(best.path, threads=args.threads):
            print(terminal(piece), end="", flush=True)
        print()
        if args.keep:
            print(f"\nfiles in {clean(str(folder))}")
    return 0
