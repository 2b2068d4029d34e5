"""gguflike calibrate SRC -o FILE"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from gguflike.cli.arguments import positive
from gguflike.cli.output import clean, print_json, show, tell
from gguflike.cli.progress import progress_bar
from gguflike.cli.usage import UsageError
from gguflike.errors import counted

if TYPE_CHECKING:
    from gguflike.convert.matrix_inputs import Multiplied


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("source", metavar="SRC", help="checkpoint (folder or Hub id), or GGUF file of floats")
    add("-o", "--out", metavar="FILE", help="importance matrix to write, which convert and llama-quantize read")
    add("--hessians", metavar="FOLDER", help="keep Gram matrices there, for convert --hessians")
    add(
        "--calibration",
        action="extend",
        nargs="+",
        default=[],
        metavar="F",
        help="text, or lines of JSON with texts or conversations (default: what the package has)",
    )
    add("--merge", action="extend", nargs="+", default=[], metavar="F", help="importance matrices whose sums are added")
    add(
        "--activations",
        nargs="?",
        const="least-error",
        choices=("min-max", "moving-average", "percentile", "least-error"),
        help="instead: find fixed ranges of what matrices of a GGUF file multiply, by an observer (default: "
        "least-error), and write them into that file, for --activations static and hybrid",
    )
    context = "tokens of a sequence (default: 512, or the trained context)"
    add("--context", type=positive, default=512, metavar="N", help=context)
    add("--tokens", type=positive, metavar="N", help="tokens in all (default: all of the texts; of --activations 8192)")
    add("--revision", metavar="REV", help="revision of a Hub id")
    add("--workspace", metavar="FOLDER", help="for hidden states, until the end (default: beside the target)")
    add("--threads", type=positive, help="threads (default: all CPUs)")
    add("--overwrite", action="store_true", help="replace the target")
    add("--dry-run", action="store_true", help="print the plan, run and write nothing")
    add("--json", action="store_true", help="one JSON document")


def run(args: argparse.Namespace) -> int:
    if args.activations is not None:
        return _run_activations(args)
    if args.out is None and args.hessians is None:
        raise UsageError("nothing to write: give -o FILE, or --hessians FOLDER, or both")
    from gguflike.calibration import calibrate, plan_calibration

    names = ("out", "calibration", "merge", "hessians", "context", "tokens", "revision", "workspace")
    options = {name: getattr(args, name) for name in names}
    if args.dry_run:
        with progress_bar() as progress:
            plan = plan_calibration(args.source, **options, progress=progress)
        if args.json:
            print_json(plan.document())
        else:
            show(args, str(plan))
        return 0
    with progress_bar("") as progress:
        made = calibrate(args.source, **options, threads=args.threads, overwrite=args.overwrite, progress=progress)
    if args.json:
        print_json(document(made))
    else:
        _print(made)
    return 0


def _run_activations(args: argparse.Namespace) -> int:
    given = {"-o": args.out, "--hessians": args.hessians, "--merge": args.merge, "--workspace": args.workspace}
    for option, value in {**given, "--revision": args.revision}.items():
        if value:
            raise UsageError(f"--activations writes into SRC itself: {option} has no part in that")
    if args.dry_run:
        raise UsageError("--activations has no plan: it runs text through SRC for some minutes, and then chooses")
    from dataclasses import asdict

    from gguflike.calibration import TOKENS, calibrate_activations

    with progress_bar() as progress:
        made = calibrate_activations(
            args.source,
            observer=args.activations,
            calibration=args.calibration,
            context=args.context,
            tokens=args.tokens or TOKENS,
            threads=args.threads,
            progress=progress,
        )
    if args.json:
        print_json(asdict(made))
        return 0
    matrices = counted(made.matrices, "matrix", "matrices")
    tell(f"ranges of what {matrices} multiply, by {counted(made.tokens, 'token')}, {made.hybrid} of them for hybrid")
    kl = f"dynamic {made.dynamic_kl:.3g}, hybrid {made.hybrid_kl:.3g}, static {made.static_kl:.3g}"
    tell(f"KL divergence from adaptive activations: {kl}")
    print(f"wrote {clean(made.path)}")
    return 0


def document(made: Multiplied) -> dict[str, Any]:
    """What was found, as JSON."""
    return {
        "source": made.source,
        "importance": None if made.target is None else str(made.target),
        "hessians": None if made.hessians is None else str(made.hessians),
        "texts": list(made.datasets),
        "sequences": made.sequences,
        "tokens": made.tokens,
        "matrices": made.matrices,
        "unreached": made.unreached,
    }


def _print(made: Multiplied) -> None:
    tell(f"{counted(made.matrices, 'matrix', 'matrices')} on {counted(made.tokens, 'token')} of {made.source}")
    for name, count in made.unreached.items():
        print(f"  {clean(name)}: {counted(count, 'expert')} that no token reached")
    for target in (made.target, made.hessians):
        if target is not None:
            print(f"wrote {clean(str(target))}")
