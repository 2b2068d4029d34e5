"""gguflike estimate FILE"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from gguflike.amounts import size
from gguflike.cli.arguments import MODEL, positive
from gguflike.cli.output import clean, print_json, table, tell

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gguflike.estimate import Estimate

CACHE_TYPES = ("f16", "q8_0", "f32")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", help=MODEL)
    parser.add_argument(
        "-c", "--context", type=positive, metavar="N", help="tokens to remember (default: a table of several)"
    )
    parser.add_argument("--cache-type", choices=CACHE_TYPES, help="what the cache holds (default: a table of all)")
    parser.add_argument("-np", "--users", type=positive, default=1, metavar="N", help="texts at a time (%(default)s)")
    parser.add_argument("-t", "--threads", type=positive, metavar="N", help="threads (default: all CPUs)")
    parser.add_argument("--activations", default="dynamic", metavar="HOW", help="as of run (%(default)s)")
    parser.add_argument("--no-speed", action="store_true", help="measure no memory, so say nothing of speed")
    parser.add_argument("--json", action="store_true", help="one JSON document")


def run(args: argparse.Namespace) -> int:
    from gguflike.estimate import estimates, read_bandwidth

    one = args.context is not None
    kinds = [args.cache_type or "f16"] if one or args.cache_type else list(CACHE_TYPES)
    found = estimates(
        args.file,
        [args.context] if one else None,
        kinds,
        users=args.users,
        threads=args.threads,
        activations=args.activations,
        bandwidth=0.0 if args.no_speed else read_bandwidth(args.threads),
    )
    if args.json:
        print_json({"file": args.file, "estimates": [document(each) for each in found]})
    elif one:
        tell(_one(found[0], args.file))
    else:
        tell(_many(found, kinds, args.file))
    return 0


def document(each: Estimate) -> dict[str, Any]:
    """An estimate as JSON, in bytes."""
    needs = each.needs
    return {
        "context": each.context,
        "cache_type": each.cache_type,
        "users": each.users,
        "threads": each.threads,
        "total": needs.total,
        "peak": needs.peak,
        "weights": needs.weights,
        **vars(needs),
        "memory": each.memory,
        "fits": each.fits,
        "bandwidth": round(each.bandwidth) or None,
        "tokens_per_second": round(each.tokens_per_second, 2) or None,
        "tokens_per_second_full": round(each.tokens_per_second_full, 2) or None,
    }


def _one(each: Estimate, name: str) -> str:
    needs = each.needs
    rows = [
        ["weights", size(needs.packed + needs.computed), "in memory once, as the ops read them"],
        ["floats", size(needs.plain), "and rows of the embedding, as the file has them"],
        ["cache", size(needs.cache), f"{each.cache_type}, {_texts(each)}"],
        ["buffers", size(needs.buffers), f"of passes, {each.threads} threads"],
        ["tokenizer", size(needs.tokenizer), ""],
        ["program", size(needs.process), "Python and compiled ops"],
        ["total", size(needs.total), f"and {size(needs.peak)} for a moment while it is loaded"],
    ]
    shown = table([row for row in rows if row[1] != "0 bytes"], right=(1,))
    return "\n".join([clean(name), shown, *_ends([each])])


def _many(found: Sequence[Estimate], kinds: Sequence[str], name: str) -> str:
    contexts = sorted({each.context for each in found})
    totals = {(each.context, each.cache_type): each for each in found}
    rows = [["context", *kinds]]
    for context in contexts:
        cells = [totals[context, kind] for kind in kinds]
        rows.append([str(context), *(size(each.needs.total) + ("" if each.fits else " *") for each in cells)])
    first = found[0].needs
    lines = [
        f"{clean(name)}: weights {size(first.weights)}, and with cache, buffers, tokenizer and program "
        + ("of one text:" if found[0].users == 1 else f"of {found[0].users} texts at a time:"),
        table(rows, right=range(len(rows[0]))),
    ]
    if not all(each.fits for each in found):
        lines.append(f"* more than the {size(found[0].memory)} of this machine")
    return "\n".join([*lines, *_ends(found)])


def _ends(found: Sequence[Estimate]) -> list[str]:
    """What is said of speed, and of one estimate of whether it fits."""
    lines = []
    first, last = found[0], found[-1]
    if len(found) == 1 and not first.fits:
        lines.append(f"more than the {size(first.memory)} of this machine")
    if first.bandwidth:
        lines.append(
            f"at most {first.tokens_per_second:.1f} tokens per second, {last.tokens_per_second_full:.1f} at the end of "
            f"{last.context}: each reads {size(first.needs.read)} of weights, and memory gives "
            f"{first.bandwidth / 1e9:.1f} GB/s here"
        )
    return lines


def _texts(each: Estimate) -> str:
    texts = "one text" if each.users == 1 else f"{each.users} texts"
    return f"{texts} of {each.context} tokens"
