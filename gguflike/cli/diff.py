"""gguflike diff A B"""

from __future__ import annotations

import argparse
import math
from dataclasses import asdict
from typing import TYPE_CHECKING

from gguflike.cli.arguments import positive
from gguflike.cli.output import clean, print_json, table
from gguflike.cli.paths import fetched
from gguflike.cli.progress import progress_bar

if TYPE_CHECKING:
    from gguflike.diff import FileDiff, TensorDiff


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("first", metavar="A", help="GGUF file")
    parser.add_argument("second", metavar="B", help="GGUF file")
    parser.add_argument("--threads", type=positive, help="threads for decoding (default: all CPUs)")
    parser.add_argument("--json", action="store_true", help="one JSON document")


def run(args: argparse.Namespace) -> int:
    from gguflike.diff import diff

    first, second = fetched(args.first), fetched(args.second)
    with progress_bar() as progress:
        result = diff(first, second, threads=args.threads, progress=progress)
    if args.json:
        tensors = [_finite(asdict(tensor)) for tensor in result.tensors]
        print_json({**asdict(result), "identical": result.identical, "tensors": tensors})
    else:
        _print(result)
    return 0 if result.identical else 1


def _finite(row: dict[str, object]) -> dict[str, object]:
    """NaN (shapes differ) as null."""
    return {key: None if isinstance(v, float) and not math.isfinite(v) else v for key, v in row.items()}


def _print(result: FileDiff) -> None:
    for label, keys in (
        ("metadata only in A", result.metadata_only_first),
        ("metadata only in B", result.metadata_only_second),
        ("metadata changed", result.metadata_changed),
        ("tensor only in A", result.only_first),
        ("tensor only in B", result.only_second),
    ):
        for key in keys:
            print(f"{label}: {clean(key)}")
    changed = [tensor for tensor in result.tensors if not tensor.identical]
    if changed:
        rows = [["tensor", "A", "B", "relative error", "largest"], *(_row(tensor) for tensor in changed)]
        print(table(rows, right=(3, 4)))
    print("identical" if result.identical else f"{len(changed)} of {len(result.tensors)} common tensors differ")


def _row(tensor: TensorDiff) -> list[str]:
    if tensor.shapes[0] != tensor.shapes[1]:
        return [clean(tensor.name), str(tensor.shapes[0]), str(tensor.shapes[1]), "shapes differ", ""]
    return [clean(tensor.name), *tensor.formats, f"{tensor.relative:.3g}", f"{tensor.largest:.3g}"]
