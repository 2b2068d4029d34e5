"""gguflike diff A B"""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from gguflike.cli.arguments import positive
from gguflike.cli.output import clean, columns, named, print_json, table, tell
from gguflike.cli.paths import fetched
from gguflike.cli.progress import progress_bar
from gguflike.cli.usage import UsageError

if TYPE_CHECKING:
    from gguflike.container import Typed
    from gguflike.diff import FileDiff, MetadataDiff, TensorDiff

SHOWN = 40  # characters of a value
WIDE = 96  # columns of a terminal that have room for all figures
LISTED = 16  # items of an array in JSON; of longer ones, how many there are


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("first", metavar="A", help="GGUF file, or the folder of a checkpoint")
    parser.add_argument("second", metavar="B", help="the same")
    parser.add_argument("--threads", type=positive, help="threads for decoding (default: all CPUs)")
    parser.add_argument("--json", action="store_true", help="one JSON document")
    parser.add_argument("--html", metavar="PAGE", help="write the page of B, with its errors beside A")
    parser.add_argument("--overwrite", action="store_true", help="replace PAGE")


def run(args: argparse.Namespace) -> int:
    from gguflike.diff import diff

    first, second = fetched(args.first), fetched(args.second)
    if args.html is not None:
        return _page(args, first, second)
    if args.overwrite:
        raise UsageError("--overwrite is of the page that --html writes")
    with progress_bar() as progress:
        result = diff(first, second, threads=args.threads, progress=progress)
    if args.json:
        print_json(document(result))
    else:
        _print(result)
    return 0 if result.identical else 1


def _page(args: argparse.Namespace, first: str, second: str) -> int:
    """Write the page of the second beside the first."""
    from gguflike.cli import pages
    from gguflike.container import open
    from gguflike.diff import diff

    if args.json:
        raise UsageError("--html and --json are two ways to say the same")
    if os.path.isdir(second):  # noqa: PTH112 - text
        raise UsageError("--html writes the page of B, which has to be a GGUF file")
    with open(second) as file:
        pages.check(args, file, _inputs(first))
        with progress_bar() as progress:
            result = diff(first, second, threads=args.threads, progress=progress)
        errors = {each.name: each.relative for each in result.tensors if math.isfinite(each.relative)}
        pages.write(args, file, second, errors, os.path.basename(first), list(_changes(result)))  # noqa: PTH119
    return 0 if result.identical else 1


def _inputs(path: str) -> list[str | os.PathLike[str]]:
    """The files that a model is read from."""
    from gguflike import checkpoint
    from gguflike.container import open

    if os.path.isdir(path):  # noqa: PTH112 - text
        return [*checkpoint.open(path).inputs()]
    with open(path) as file:
        return [*file.paths]


def _changes(result: FileDiff) -> Iterator[tuple[str, str, str]]:
    """What differs, what of it and how: tensors, then metadata."""
    for each in result.worst:
        kinds = " -> ".join(dict.fromkeys(each.formats))
        far = f", relative error {each.relative:.3g}" if math.isfinite(each.relative) else ""
        yield "tensor", each.name, f"{each.kind}: {kinds}{far}"
    for name in result.only_first:
        yield "tensor", name, "only in A"
    for name in result.only_second:
        yield "tensor", name, "only in B"
    for change in result.metadata:
        yield "metadata", change.key, ": ".join(_how(change))


def document(result: FileDiff) -> dict[str, Any]:
    """All differences as JSON; what is no number is null."""
    return {
        "identical": result.identical,
        "tensors": [_tensor(each) for each in result.tensors],
        "only_first": list(result.only_first),
        "only_second": list(result.only_second),
        "metadata": [
            {
                "key": each.key,
                "old": _value(each.old),
                "new": _value(each.new),
                **({"differs": each.differs, "first": each.first} if each.differs else {}),
            }
            for each in result.metadata
        ],
        "metadata_only_first": list(result.metadata_only_first),
        "metadata_only_second": list(result.metadata_only_second),
        "metadata_changed": list(result.metadata_changed),
    }


def _tensor(each: TensorDiff) -> dict[str, Any]:
    return {
        "name": each.name,
        "kind": each.kind,
        "formats": list(each.formats),
        "shapes": [list(shape) for shape in each.shapes],
        "nbytes": list(each.nbytes),
        "bits": list(each.bits),
        "identical": each.identical,
        **{name: _finite(getattr(each, name)) for name in ("rmse", "relative", "largest", "cosine")},
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _value(value: Typed | None) -> Any:
    """A value with its type, an array by its length and its first items."""
    from gguflike.inspect.description import listed

    if value is None:
        return None
    items = listed(value, LISTED)
    if value.item_type is None:
        return {"type": value.type.name.lower(), "value": items}
    return {"type": f"[{value.item_type.name.lower()}]", "count": len(value.value), "value": items}


def _print(result: FileDiff) -> None:
    for each in result.metadata:
        tell(_line(each))
    for label, names in (("only in A", result.only_first), ("only in B", result.only_second)):
        for name in names:
            tell(f"tensor {label}: {named(name)}")
    worst = result.worst
    if worst:
        rows = [["tensor", "A", "B", "bits", "rel. error", "cosine", "RMSE", "largest"], *map(_row, worst)]
        shown = 7 if sys.stdout.isatty() and columns() < WIDE else 8
        print(table([row[:shown] for row in rows], right=range(3, shown), cut=0))
    print("identical" if result.identical else f"{len(worst)} of {len(result.tensors)} common tensors differ")


def _line(each: MetadataDiff) -> str:
    label, how = _how(each)
    return f"metadata {label}: {named(each.key)}{': ' if label == 'changed' else ' = '}{how}"


def _how(each: MetadataDiff) -> tuple[str, str]:
    """What became of a key, and its value or values."""
    if each.new is None:
        return "only in A", _shown(each.old)
    if each.old is None:
        return "only in B", _shown(each.new)
    if each.differs and each.old.item_type is not None:
        old, new = each.old.value[each.first], each.new.value[each.first]
        where = f"{each.differs} of {len(each.old.value)} items, the first is number {each.first}"
        return "changed", f"{where}: {clean(repr(old), SHOWN)} -> {clean(repr(new), SHOWN)}"
    return "changed", f"{_shown(each.old)} -> {_shown(each.new)}"


def _shown(value: Typed | None) -> str:
    assert value is not None
    kind = (value.item_type or value.type).name.lower()
    if value.item_type is not None:
        return f"{len(value.value)} x {kind}"
    return f"{clean(repr(value.value), SHOWN)} ({kind})"


def _row(tensor: TensorDiff) -> list[str]:
    name, bits = named(tensor.name), f"{tensor.bits[0]:.4g} -> {tensor.bits[1]:.4g}"
    if tensor.kind == "reshaped":
        return [name, *(" x ".join(map(str, shape)) for shape in tensor.shapes), bits, "shapes differ", "", "", ""]
    figures = (tensor.relative, tensor.cosine, tensor.rmse, tensor.largest)
    texts = [f"{figures[0]:.3g}", f"{figures[1]:.6f}", f"{figures[2]:.3g}", f"{figures[3]:.3g}"]
    return [name, *tensor.formats, bits, *texts]
