"""gguflike inspect FILE"""

from __future__ import annotations

import argparse
import json
import math
from typing import Any

from gguflike.cli.arguments import MODEL
from gguflike.cli.output import clean, print_json, size, table


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", help=MODEL)
    parser.add_argument("--tensors", action="store_true", help="list every tensor")
    parser.add_argument("--json", action="store_true", help="one JSON document")


def run(args: argparse.Namespace) -> int:
    from gguflike.describe import describe
    from gguflike.locate import open_header

    with open_header(args.file) as file:
        document = describe(file)
    if args.json:
        print_json(document)
    else:
        _print(document, args.file, args.tensors)
    return 0


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
        print(table([["  " + clean(key), _shown(value)] for key, value in document["metadata"].items()]))
    if document["quality"]:
        reference = document["metadata"].get("gguflike.quality.reference")
        print(f"\nquality, beside {clean(str(reference))} in floats")
        print(_quality(document["quality"]))
    if document["tensors"]:
        print("\ntensors")
        print(_tensor_list(document["tensors"]) if all_tensors else _by_type(document["tensors"]))


def _shown(value: Any) -> str:
    if isinstance(value, dict) and "array" in value:
        first = ", ".join(_shown(item) for item in value["first"])
        return f"{clean(first, 70)} ({value['count']:,} {value['array']})"
    if isinstance(value, dict):
        return clean(json.dumps(value), 90)
    if isinstance(value, list):
        return clean("[" + ", ".join(_shown(item) for item in value) + "]", 90)
    return clean(value if isinstance(value, str) else json.dumps(value), 90)


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
