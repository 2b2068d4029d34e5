"""gguflike bench FILE"""

from __future__ import annotations

import argparse

from gguflike.amounts import size
from gguflike.cli.arguments import MODEL, positive
from gguflike.cli.output import print_json
from gguflike.cli.progress import progress_bar
from gguflike.cli.settings import ALL, add_settings
from gguflike.errors import counted


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", help=MODEL)
    parser.add_argument("--threads", type=positive, help="threads (default: all CPUs)")
    add_settings(parser, [ALL["activations"]])
    parser.set_defaults(settled=("activations",))
    parser.add_argument("--prompt-tokens", type=positive, metavar="N", default=512, help="prompt length (%(default)s)")
    parser.add_argument("--new-tokens", type=positive, metavar="N", default=128, help="tokens written (%(default)s)")
    parser.add_argument("--repeat", type=positive, metavar="N", default=3, help="runs; the median counts (%(default)s)")
    parser.add_argument("--json", action="store_true", help="one JSON document")


def run(args: argparse.Namespace) -> int:
    from gguflike.runner.bench import bench

    with progress_bar() as progress:
        result = bench(
            args.file,
            threads=args.threads,
            activations=args.activations or "dynamic",
            prompt_tokens=args.prompt_tokens,
            new_tokens=args.new_tokens,
            repeat=args.repeat,
            progress=progress,
        )
    if args.json:
        print_json(result)
    else:
        print(f"load     {result['load_s']:.2f} s")
        print(f"prefill  {result['prefill_tokens_per_s']:.1f} tokens/s ({counted(result['prompt_tokens'], 'token')})")
        print(f"decode   {result['decode_tokens_per_s']:.1f} tokens/s ({counted(result['new_tokens'], 'token')})")
        did, can = result["decode_gb_per_s"], result["machine_gb_per_s"]
        again = f"{size(result['machine_read_bytes'])} again and again"
        print(f"reads    {did:.1f} GB/s; the machine can {can:.1f}, {again}")
        did, can = result["prefill_tera_ops_per_s"], result["machine_tera_ops_per_s"]
        print(f"computes {did:.2f} Tops; the machine can {can:.2f}")
    return 0
