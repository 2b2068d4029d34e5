"""gguflike eval FILE --text F [--reference SRC]"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from gguflike.cli.arguments import positive
from gguflike.cli.output import clean, columns, print_json, table, tell
from gguflike.cli.progress import progress_bar
from gguflike.cli.recipes import add_text_arguments
from gguflike.cli.settings import ALL, add_settings
from gguflike.cli.usage import UsageError

if TYPE_CHECKING:
    from gguflike.evaluate import Accuracy, Evaluation, Figure, Quality
    from gguflike.evaluate.blame import Blame

ALL_TENSORS = 1 << 30


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "file",
        metavar="FILE",
        help="GGUF file, or checkpoint (folder or Hub id), which is converted to floats first",
    )
    add("--reference", metavar="SRC", help="what FILE was made from, GGUF or checkpoint: adds the KL divergence")
    add_text_arguments(parser, "write the figures into the metadata of FILE, beside those of --reference")
    add(
        "--tasks",
        action="extend",
        nargs="+",
        default=[],
        metavar="F",
        help="JSONL of questions with choices, as of MMLU, HellaSwag or ARC",
    )
    add(
        "--blame",
        nargs="?",
        const=ALL_TENSORS,
        type=positive,
        metavar="N",
        help="which tensor's quantization costs how much: each is taken from --reference in turn, N of them at most",
    )
    add("--threads", type=positive, help="threads (default: all CPUs)")
    add_settings(parser, [ALL["activations"]])
    parser.set_defaults(settled=("activations",))
    add("--json", action="store_true", help="one JSON document")


def run(args: argparse.Namespace) -> int:
    from gguflike.evaluate.evaluation import HeldOut, evaluate_all

    if args.card and (args.reference is None or not args.text or not os.path.isfile(args.file)):  # noqa: PTH113 - text
        raise UsageError("--card needs a GGUF file on disk, a --reference and a --text")
    if args.blame is not None:
        return _run_blame(args)
    held_out = HeldOut.of(args.text, args.tasks)
    options = (args.reference, args.context, args.tokens, args.score, args.threads)
    with progress_bar() as progress:
        (result,) = evaluate_all([args.file], held_out, *options, progress, args.activations or "dynamic")
    if args.card:
        from gguflike.evaluate import card

        card.write(args.file, result, held_out.texts)
    if args.json:
        print_json(result.document())
    else:
        _print(result)
    return 0


def _run_blame(args: argparse.Namespace) -> int:
    from gguflike.evaluate.blame import blame

    if args.reference is None or args.tasks or args.card:
        raise UsageError("--blame needs a --reference, and no --tasks or --card")
    with progress_bar() as progress:
        result = blame(
            args.file,
            args.text,
            reference=args.reference,
            most=args.blame,
            context=args.context,
            tokens=args.tokens,
            score=args.score,
            threads=args.threads,
            activations=args.activations or "dynamic",
            progress=progress,
        )
    if args.json:
        print_json(result.document())
    else:
        kl = _shown(result.kl, 1, "")
        tell(f"{clean(result.model)}: KL divergence {kl}; what it falls by with each tensor in floats")
        print(_blame_table(result))
    return 0


def _blame_table(result: Blame) -> str:
    rows = [["tensor", "type", "bytes", "rel. error", "costs", "of all"]]
    for cost in result.costs:
        measured = ["", ""] if cost.saved is None else [_shown(cost.saved, 1, ""), f"{100 * (cost.share or 0):.1f} %"]
        rows.append([clean(cost.tensor), cost.type, f"{cost.nbytes:,}", f"{cost.error:.3g}", *measured])
    return table(rows, right=range(2, len(rows[0])), cut=0)


def _print(result: Evaluation) -> None:
    if result.qualities:
        scored = "second half" if result.protocol.score == "half" else "all tokens"
        tell(f"{clean(result.model)}: chunks of {result.protocol.context} tokens, {scored} scored; ± standard error")
        print(_fitting(result.qualities, quality_table))
    if result.tasks:
        print(_fitting(result.tasks, _task_table))


Record = TypeVar("Record", "Quality", "Accuracy")


def _fitting(records: tuple[Record, ...], table_of: Callable[[tuple[Record, ...]], str]) -> str:
    """The table of some records, each a column; on a terminal several tables, where one is too wide."""
    found, wide = [], columns(sys.stdout) if sys.stdout.isatty() else 1 << 30
    while records:
        count = len(records)
        while count > 1 and max(map(len, table_of(records[:count]).split("\n"))) > wide:
            count -= 1
        found.append(table_of(records[:count]))
        records = records[count:]
    return "\n\n".join(found)


def quality_table(qualities: tuple[Quality, ...]) -> str:
    """A column for each kind of text."""
    rows = [["", *(clean(each.kind) for each in qualities)]]
    rows.append(["tokens scored", *(f"{each.tokens:,} in {each.chunks}" for each in qualities)])
    for name, title, scale, unit in _ROWS:
        figures = [getattr(each, name) for each in qualities]
        if figures[0] is not None:
            rows.append([title, *(_shown(figure, scale, unit) for figure in figures)])
    return table(rows, right=range(1, len(rows[0])))


#: Field of `Quality`, what to call it, what to multiply it by, and in which unit it is then.
_ROWS = (
    ("perplexity", "perplexity", 1, ""),
    ("reference_perplexity", "  of the reference", 1, ""),
    ("perplexity_ratio", "  their ratio", 1, ""),
    ("kl", "KL divergence, mean", 1, ""),
    ("kl_median", "  median", 1, ""),
    ("kl_99", "  99 %", 1, ""),
    ("kl_999", "  99.9 %", 1, ""),
    ("kl_max", "  largest", 1, ""),
    ("same_top", "same likeliest token", 100, " %"),
    ("change", "change of p, mean", 100, " %"),
    ("change_rms", "  root mean square", 100, " %"),
)


def _task_table(tasks: tuple[Accuracy, ...]) -> str:
    rows = [["", *(clean(each.kind) for each in tasks)], ["questions", *(f"{each.questions:,}" for each in tasks)]]
    for name, title in (
        ("accuracy", "right"),
        ("normalized", "  by likelihood of a byte"),
        ("reference_accuracy", "right, reference"),
        ("reference_normalized", "  by likelihood of a byte"),
        ("same_choice", "same choice"),
    ):
        figures = [getattr(each, name) for each in tasks]
        if figures[0] is not None:
            rows.append([title, *(_shown(figure, 100, " %") for figure in figures)])
    return table(rows, right=range(1, len(rows[0])))


def _shown(figure: Figure | float, scale: float, unit: str) -> str:
    """A value with its error, or of a quantile the ends of its interval, in digits that say something."""
    if isinstance(figure, float):
        return f"{scale * figure:.4g}{unit}"
    value = f"{scale * figure.value:.4g}"
    if figure.error is not None:
        return f"{value} ± {scale * figure.error:.2g}{unit}"
    if figure.low is not None and figure.high is not None:
        return f"{value} ({scale * figure.low:.3g} to {scale * figure.high:.3g}){unit}"
    return f"{value}{unit}"
