"""gguflike tune SRC -o OUT -t TYPE --text F --held-out F"""

from __future__ import annotations

import argparse
from typing import Any

from gguflike.cli.arguments import positive
from gguflike.cli.output import clean, print_json, show, tell
from gguflike.cli.progress import progress_bar


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("source", metavar="SRC", help="checkpoint (folder or Hub id), or GGUF file of floats")
    add("-o", "--out", required=True, metavar="OUT", help="GGUF file to write")
    add("-t", "--type", metavar="TYPE", help="recipe, such as Q2_K or Q4_K_M (default: Q4_K_M)")
    add("--start", metavar="FILE", help="quantized GGUF file of SRC to begin with, instead of -t; its types are kept")
    add("--text", action="extend", nargs="+", required=True, metavar="F", help="text to train on")
    add(
        "--held-out",
        action="extend",
        nargs="+",
        required=True,
        metavar="F",
        help="other text, best of another kind: what is best on it is written",
    )
    add(
        "--moves",
        choices=("scales", "integers", "codes"),
        default="codes",
        help="what is trained beside norm gains: super-scales, also integer scales, also codes (default: codes)",
    )
    add("--steps", type=positive, default=160, metavar="N", help="steps of eight sequences (default: 160)")
    add(
        "--context",
        type=positive,
        default=256,
        metavar="N",
        help="tokens of a sequence (default: 256, or the trained context)",
    )
    add("--tokens", type=positive, default=200_000, metavar="N", help="tokens of text to use (default: 200000)")
    add("--imatrix", metavar="F", help="importance matrix for what training begins with")
    add("--overwrite", action="store_true", help="replace OUT")
    add("--threads", type=positive, help="threads (default: all CPUs)")
    add("--dry-run", action="store_true", help="print the plan, train and write nothing")
    add("--json", action="store_true", help="one JSON document")


def run(args: argparse.Namespace) -> int:
    from gguflike.tuning import plan_tuning, tune

    names = ("text", "held_out", "start", "moves", "steps", "context", "tokens", "imatrix")
    options: dict[str, Any] = {name: getattr(args, name) for name in names}
    with progress_bar() as progress:
        asked = (args.source, args.out, args.type)
        if args.dry_run:
            plan = plan_tuning(*asked, **options, progress=progress)
        else:
            result = tune(*asked, **options, overwrite=args.overwrite, threads=args.threads, progress=progress)
    if args.dry_run:
        if args.json:
            print_json(plan.document())
        else:
            show(args, str(plan))
        return 0
    if args.json:
        marks = [mark._asdict() for mark in result.marks]
        print_json({"path": result.path, "before": result.before, "after": result.after, "marks": marks})
    else:
        tell(f"{clean(result.path)}: held-out divergence {result.before:.5f} before, {result.after:.5f} after")
    return 0
