"""gguflike inspect FILE"""

from __future__ import annotations

import argparse
import json
import math
import sys
from typing import TYPE_CHECKING, Any

from gguflike.cli.arguments import MODEL
from gguflike.cli.output import clean, columns, size, table
from gguflike.cli.several import for_each, print_documents

if TYPE_CHECKING:
    from gguflike.container import GGUFFile

LONGEST, SHORTEST = 90, 16  # characters of a value that are shown


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("files", metavar="FILE", nargs="+", help=MODEL)
    parser.add_argument("--tensors", action="store_true", help="list every tensor")
    parser.add_argument("--key", metavar="GLOB", help="only metadata of these names, such as 'tokenizer.*', all of it")
    parser.add_argument("--json", action="store_true", help="one JSON document; of several files, a list")
    parser.set_defaults(listed="files")


def run(args: argparse.Namespace) -> int:
    from gguflike.describe import describe
    from gguflike.locate import open_header

    documents: list[Any] = []

    def inspect(name: str) -> int:
        with open_header(name) as file:
            document = describe(file) if args.key is None else _whole(file, args.key)
        if args.json:
            documents.append(document)
        elif args.key is not None:
            _print_values(document, name if len(args.files) > 1 else None)
        else:
            _print(document, name, args.tensors)
        return 0

    status = for_each(args, inspect)
    if args.json:
        print_documents(args.files, documents)
    return status


def _whole(file: GGUFFile, pattern: str) -> dict[str, Any]:
    """Metadata whose names the pattern fits, all of it."""
    from fnmatch import fnmatchcase

    from gguflike.describe import value
    from gguflike.errors import GGUFError, did_you_mean

    found = {key: value(file, key, whole=True) for key in file.metadata if fnmatchcase(key, pattern)}
    if not found:
        remedy = did_you_mean(pattern, file.metadata)
        raise GGUFError("no such metadata", path=file.path, field=pattern, remedy=remedy)
    return found


def _print_values(values: dict[str, Any], path: str | None) -> None:
    """Names and values, texts with their lines; of a single one, the value alone. ``path``: the file, if there are
    several."""
    if path is not None:
        print(f"{clean(path)}:")
    for key, value in values.items():
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        shown = "\n".join(clean(line) for line in text.split("\n"))
        print(shown if len(values) == 1 else f"{clean(key)}: {shown}")


def _print(document: dict[str, Any], path: str, all_tensors: bool) -> None:
    bits = document["bits_per_weight"]
    facts = [
        ["file", clean(path)],
        ["format", f"GGUF v{document['version']}"],
        ["architecture", clean(str(document["architecture"]))],
        ["type", clean(str(document["file_type"]))],
        ["parameters", f"{document['parameters']:,}"],
        ["size", f"{size(document['file_bytes'])} ({document['file_bytes']:,} bytes)"],
        ["bits per weight", "none" if bits is None else f"{bits:.3f}"],
    ]
    print(table(facts))
    if document["metadata"]:
        print("\nmetadata")
        names = [f"  {clean(key)}" for key in document["metadata"]]
        room = _room(max(map(len, names)) + 2)
        values = [_shown(each, room) for each in document["metadata"].values()]
        print(table([*map(list, zip(names, values, strict=True))]))
    if document["quality"]:
        reference = document["metadata"].get("gguflike.quality.reference")
        print(f"\nquality, beside {clean(str(reference))} in floats")
        print(_quality(document["quality"]))
    if document["tensors"]:
        print("\ntensors")
        print(_tensor_list(document["tensors"]) if all_tensors else _by_type(document["tensors"]))


def _room(before: int) -> int:
    """Columns for a value behind so many: on a terminal, what is left of the line."""
    return max(columns() - before, SHORTEST) if sys.stdout.isatty() else LONGEST


def _shown(value: Any, room: int = LONGEST) -> str:
    if isinstance(value, dict) and "array" in value:
        first, counted = ", ".join(_shown(item) for item in value["first"]), f" ({value['count']:,} {value['array']})"
        return _cut(first, max(room - len(counted), SHORTEST)) + counted
    if isinstance(value, dict):
        return _cut(json.dumps(value), room)
    if isinstance(value, list):
        return _cut("[" + ", ".join(_shown(item) for item in value) + "]", room)
    return _cut(value if isinstance(value, str) else json.dumps(value), room)


def _cut(text: str, room: int) -> str:
    """At most so many characters, those of escapes counted."""
    shown = clean(text, room)
    return shown if len(shown) <= room else shown[: room - 1] + "…"


def _quality(rows: list[dict[str, Any]]) -> str:
    """What the file says of itself, a line for each text."""
    titles = {
        **{"text": "  text", "tokens": "tokens", "kl": "KL divergence", "kl_error": "±", "kl_99": "99 %"},
        **{"same_top": "same likeliest", "perplexity": "perplexity", "reference_perplexity": "in floats"},
    }
    cells = [
        [f"  {clean(str(row['text']))}", *(_number(row[name]) for name in titles if name != "text")] for row in rows
    ]
    return table([[*titles.values()], *cells], right=range(1, len(titles)))


def _number(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}" if isinstance(value, float) else ""


def _by_type(tensors: list[dict[str, Any]]) -> str:
    """Tensors grouped by type, most bytes first."""
    groups: dict[str, list[int]] = {}
    for tensor in tensors:
        group = groups.setdefault(tensor["type"], [0, 0, 0])
        group[0] += 1
        group[1] += math.prod(tensor["shape"])
        group[2] += tensor["bytes"]
    rows = [["  type", "tensors", "weights", "bytes"]]
    for name, (count, weights, nbytes) in sorted(groups.items(), key=lambda item: -item[1][2]):
        rows.append(["  " + name, f"{count:,}", f"{weights:,}", f"{nbytes:,}"])
    return table(rows, right=(1, 2, 3))


def _tensor_list(tensors: list[dict[str, Any]]) -> str:
    rows = [["  name", "type", "shape", "bytes", "offset"]]
    for tensor in tensors:
        shape = " x ".join(map(str, tensor["shape"]))
        rows.append(
            ["  " + clean(tensor["name"]), tensor["type"], shape, f"{tensor['bytes']:,}", f"{tensor['offset']:,}"]
        )
    return table(rows, right=(3, 4))
