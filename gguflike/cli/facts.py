"""What `inspect` shows of a whole file, folder or checkpoint: facts as text, and as Markdown."""

from __future__ import annotations

import math
import os
import re
import sys
import textwrap
from typing import Any

from gguflike.amounts import size
from gguflike.cli.output import LONGEST_NAME, clean, columns, named, table
from gguflike.errors import counted

LONGEST, SHORTEST = 90, 16  # characters of a value that are shown
LABEL = 17  # columns in front of a fact
LINES = 3  # of a fact that is a text


def screen(document: dict[str, Any], path: str) -> str:
    """The first screen of a file."""
    facts = document["summary"]
    parts = [_facts(of_file(facts, path))]
    if document["quality"]:
        reference = document["metadata"].get("gguflike.quality.reference")
        parts.append(
            f"quality, KL divergence from {clean(str(reference), 40)} in floats\n{quality(document['quality'])}"
        )
    if document["tensors"]:
        parts.append(by_type(document["tensors"]))
    return "\n\n".join(parts)


def of_file(facts: dict[str, Any], path: str) -> dict[str, str]:
    """The lines of the first screen by their labels."""
    files = f", {counted(facts['shards'], 'file')}" if facts["shards"] > 1 else ""
    bits = "" if facts["bits_per_weight"] is None else f", {facts['bits_per_weight']:.3f} bits each"
    shown = {
        "file": f"{path}{files}",
        "name": _name(facts),
        "kind": facts["kind"] if facts["kind"] != "model" else "",
        "format": f"GGUF, {counted(facts['tensors'], 'tensor')}, {counted(facts['metadata'], 'metadata value')}",
        "architecture": facts["architecture"] or "",
        "type": facts["file_type"] or "",
        "weights": f"{facts['parameters']:,}{bits}",
        "size": f"{size(facts['file_bytes'])} ({facts['file_bytes']:,} bytes)",
        "layers": _layers(facts),
        "heads": _heads(facts),
        "context": f"{facts['context']:,} tokens" if isinstance(facts["context"], int) else "",
        "vocabulary": _vocabulary(facts),
        "chat templates": ", ".join(map(_template, facts["templates"])) or "none",
        "digests": {
            "none": "none: changed weights cannot be seen",
            "complete": "SHA-256 of the header and of each tensor, which verify compares",
            "malformed": "malformed",
        }[facts["digests"]],
        "runs here": "yes" if facts["runs"] else f"no: {facts['why']}",
        "memory": ", ".join(f"{size(each['bytes'])} at {each['context']:,}" for each in facts["memory"])
        + (" tokens" if facts["memory"] else ""),
    }
    if facts["kind"] not in ("model", "vocabulary"):
        shown.pop("chat templates")
    return {label: text for label, text in shown.items() if text}


def _name(facts: dict[str, Any]) -> str:
    name = facts["name"] or ""
    by = f", by {facts['organization']}" if facts["organization"] else ""
    return f"{name}{by}, {facts['license']}" if facts["license"] else f"{name}{by}"


def _vocabulary(facts: dict[str, Any]) -> str:
    if not facts["vocabulary"]:
        return ""
    kind = facts["tokenizer"]
    return f"{facts['vocabulary']:,} tokens ({kind}{', no pre-tokenizer is named' if kind == 'gpt2' else ''})"


def _layers(facts: dict[str, Any]) -> str:
    experts = facts["experts"]
    parts = [_number(facts["layers"]) if facts["layers"] else ""]
    parts.append(f"width {_number(facts['width'])}" if facts["width"] else "")
    parts.append(f"feed-forward {_number(facts['feed_forward'])}" if facts["feed_forward"] else "")
    used = f" of which {_number(facts['experts_used'])} are used" if facts["experts_used"] else ""
    parts.append(f"{_number(experts)} experts{used}" if experts else "")
    return ", ".join(filter(None, parts))


def _heads(facts: dict[str, Any]) -> str:
    parts = [_number(facts["heads"])] if facts["heads"] else []
    parts += [f"{_number(facts['kv_heads'])} of keys and values"] if facts["kv_heads"] else []
    parts += [f"{_number(facts['head_dim'])} wide"] if facts["head_dim"] else []
    return ", ".join(parts)


def _number(value: Any) -> str:
    """A number, or the range of those of layers."""
    return f"{min(value)} to {max(value)}" if isinstance(value, list) else f"{value}"


def _template(facts: dict[str, Any]) -> str:
    able = [name for name in ("tools", "thinking", "vision") if facts[name]]
    return f"{facts['name']} ({', '.join(able)})" if able else f"{facts['name']} (no tools, thinking or vision)"


def _facts(facts: dict[str, str]) -> str:
    """Labels and texts, broken at words to the width of the screen, at most LINES of each."""
    width = columns() if sys.stdout.isatty() else 80
    lines = []
    for label, text in facts.items():
        shown = clean(text)
        room = max(width - LABEL, SHORTEST)
        if not shown.isascii() and _wide(shown) > len(shown):  # there are scripts whose characters take two columns
            room //= 2
        copied = label in ("file", "folder")  # by who reads it, in one piece
        broken = [shown] if copied else textwrap.wrap(shown, room, max_lines=LINES, placeholder=" …") or [""]
        lines += [f"{label if number == 0 else '':<{LABEL}}{line}" for number, line in enumerate(broken)]
    return "\n".join(lines)


def _wide(text: str) -> int:
    from gguflike.cli.screen import width  # few names need it

    return width(text)


def models(found: list[dict[str, Any]]) -> str:
    """A line for each model of a folder."""
    rows = [["file", "architecture", "type", "size", "runs here"]]
    for each in found:
        facts = each.get("summary")
        if facts is None:
            rows.append([clean(each["file"]), "", "", "", "no: it cannot be read"])
        else:
            runs = "yes" if facts["runs"] else "no"
            rows.append(
                [
                    *(clean(each["file"]), clean(str(facts["architecture"] or facts["kind"]))),
                    *(clean(str(facts["file_type"] or "")), size(facts["file_bytes"]), runs),
                ]
            )
    return table(rows, right=(3,), cut=0)


def checkpoint(facts: dict[str, Any], path: str) -> str:
    """The first screen of a checkpoint's folder."""
    types = sorted(facts["types"].items(), key=lambda each: -each[1])
    return _facts(
        {
            "folder": path,
            "name": str(facts["name"]),
            "format": f"Hugging Face checkpoint, {counted(facts['tensors'], 'tensor')}",
            "class": facts["class"] or "not stated",
            "architecture": facts["architecture"] or "none in GGUF that is known here",
            "weights": f"{facts['parameters']:,}",
            "types": ", ".join(f"{count:,} {dtype}" for dtype, count in types),
            "size": f"{size(facts['file_bytes'])} ({facts['file_bytes']:,} bytes)",
            "sizes": ", ".join(f"{key} {value:,}" for key, value in facts["config"].items()),
            "converts here": "yes" if facts["converts"] else f"no: {facts['why']}",
            **({"notices": "; ".join(facts["notices"])} if facts["notices"] else {}),
        }
    )


def metadata(document: dict[str, Any]) -> str:
    """A line for each value of metadata, cut to the screen."""
    if not document["metadata"]:
        return "  none"
    most = columns() - 2 * SHORTEST - 2 if sys.stdout.isatty() else LONGEST_NAME
    names = [_cut(f"  {named(key)}", most) for key in document["metadata"]]
    room = _room(max(map(len, names)) + 2)
    values = [shown_value(each, room) for each in document["metadata"].values()]
    return table([*map(list, zip(names, values, strict=True))])


def _room(before: int) -> int:
    """Columns for a value behind so many: on a terminal, what is left of the line."""
    return max(columns() - before, SHORTEST) if sys.stdout.isatty() else LONGEST


def shown_value(value: Any, room: int = LONGEST) -> str:
    """A value of metadata in one line of so many characters."""
    if isinstance(value, dict) and "array" in value:
        first, of = ", ".join(map(shown_value, value["first"])), f" ({value['count']:,} {value['array']})"
        return _cut(first, max(room - len(of), SHORTEST)) + of
    if isinstance(value, dict):
        return _cut(_json(value), room)
    if isinstance(value, list):
        return _cut("[" + ", ".join(shown_value(item) for item in value) + "]", room)
    return _cut(value if isinstance(value, str) else _json(value), room)


def _json(value: Any) -> str:
    import json  # the first screen does without

    return json.dumps(value)


def _cut(text: str, room: int) -> str:
    """At most so many characters, those of escapes counted."""
    shown = clean(text, room)
    return shown if len(shown) <= room else shown[: room - 1] + "…"


def quality(rows: list[dict[str, Any]]) -> str:
    """What the file says of itself, a line for each text."""
    titles = {
        **{"text": "  text", "tokens": "tokens", "kl": "KL", "kl_error": "±", "kl_99": "99 %", "same_top": "same top"},
        **{"perplexity": "perplexity", "reference_perplexity": "in floats"},
    }
    figures = [[_figure(row[name]) for name in titles if name != "text"] for row in rows]
    figures.insert(0, [*titles.values()][1:])
    taken = sum(2 + max(map(len, column)) for column in zip(*figures, strict=True))
    room = max((columns() if sys.stdout.isatty() else 80) - taken - 2, SHORTEST // 2)
    names = [titles["text"], *(f"  {_cut(str(row['text']), room)}" for row in rows)]
    return table([[name, *row] for name, row in zip(names, figures, strict=True)], right=range(1, len(titles)))


def _figure(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}" if isinstance(value, float) else ""


def by_type(tensors: list[dict[str, Any]]) -> str:
    """Tensors grouped by type, most bytes first."""
    groups: dict[str, list[int]] = {}
    for tensor in tensors:
        group = groups.setdefault(tensor["type"], [0, 0, 0])
        group[0] += 1
        group[1] += math.prod(tensor["shape"])
        group[2] += tensor["bytes"]
    rows = [["tensors", "type", "weights", "bytes"]]
    for name, (count, weights, nbytes) in sorted(groups.items(), key=lambda item: -item[1][2]):
        rows.append([f"{count:,}", name, f"{weights:,}", f"{nbytes:,}"])
    return table(rows, right=(0, 2, 3))


def tensor_list(tensors: list[dict[str, Any]]) -> str:
    """A line for each tensor."""
    rows = [["  name", "type", "shape", "bytes", "offset"]]
    for tensor in tensors:
        shape = " x ".join(map(str, tensor["shape"]))
        rows.append(
            ["  " + named(tensor["name"]), tensor["type"], shape, f"{tensor['bytes']:,}", f"{tensor['offset']:,}"]
        )
    return table(rows, right=(3, 4), cut=0)


def markdown(document: dict[str, Any], path: str) -> str:
    """Everything about a file as Markdown: facts, quality, metadata, tensors."""
    facts = of_file(document["summary"], path)
    parts = [f"# {_escaped(os.path.basename(path))}", _rows(["", ""], [[k, _escaped(v)] for k, v in facts.items()])]  # noqa: PTH119
    if document["quality"]:
        rows = [[_escaped(str(cell)) for cell in row.values()] for row in document["quality"]]
        parts += ["## Quality", _rows([*document["quality"][0]], rows)]
    values = [[_code(key), _escaped(shown_value(value))] for key, value in document["metadata"].items()]
    tensors = [
        [_escaped(each["name"]), each["type"], " x ".join(map(str, each["shape"])), each["bytes"], each["offset"]]
        for each in document["tensors"]
    ]
    parts += ["## Metadata", _rows(["key", "value"], values)]
    parts += ["## Tensors", _rows(["name", "type", "shape", "bytes", "offset"], tensors)]
    return "\n\n".join(parts)


def _rows(titles: list[str], rows: list[list[Any]]) -> str:
    """A table of cells that are Markdown already."""
    lines = [titles, ["---"] * len(titles), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


#: What makes markup of a line of text: links, pictures, code, emphasis, entities, HTML, cells and formulas.
_MARKUP = re.compile(r"[\\`*\[\]|~$&]|(?<!\w)_|_(?!\w)")


def _escaped(text: str) -> str:
    """Text of a file as Markdown of one line, where it is no markup."""
    return _MARKUP.sub(r"\\\g<0>", clean(text)).replace("<", "&lt;")


def _code(key: str) -> str:
    """A name as code, where nothing in it could end that."""
    return f"`{key}`" if re.fullmatch(r"[\w.-]+", key) and key.isprintable() else _escaped(key)
