"""gguflike bench FILE"""

from __future__ import annotations

import argparse

from gguflike.cli.output import print_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", help="GGUF file")
    parser.add_argument("--threads", type=int, help="threads (default: all CPUs)")
    parser.add_argument("--json", action="store_true", help="one JSON document")


def run(args: argparse.Namespace) -> int:
    from gguflike.runner.bench import bench

    result = bench(args.file, threads=args.threads)
    if args.json:
        print_json(result)
    else:
        print(f"load     {result['load_s']:.2f} s")
        print(f"prefill  {result['prefill_tokens_per_s']:.1f} tokens/s")
        print(f"decode   {result['decode_tokens_per_s']:.1f} tokens/s")
    return 0
