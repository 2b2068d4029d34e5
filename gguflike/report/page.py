"""The page itself: HTML put together of escaped text, the style and the script inside it."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from gguflike.report.facts import GROUPS, OTHER, Example, Facts, Part
from gguflike.report.pictures import Leaf, bars, histogram, text, treemap
from gguflike.texts import Texts

HERE = Path(__file__).parent
_NAMES = (*(group for group, _ in GROUPS), OTHER)
_LONGEST = 2000  # characters of a value of metadata
_MOST_LAYERS, _MOST_ROLES = 512, 128  # in the map, and of roles in the treemap
_MOST_TEXT, _MOST_MARKED = 1 << 16, 256  # characters of what a template writes, and control tokens marked in it


def page(facts: Facts, lines: Mapping[str, str]) -> str:
    """A whole document. ``lines`` are the first facts by their labels, as a terminal shows them."""
    style = (HERE / "page.css").read_text(encoding="utf-8")
    script = (HERE / "page.js").read_text(encoding="utf-8")
    policy = f"default-src 'none'; style-src {_digest(style)}; script-src {_digest(script)}"
    parts = "".join(_parts(facts, lines))
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="generator" content="gguflike">
<title>{text(facts.title)}</title>
<style>{style}</style>
</head>
<body>
{parts}
<script>{script}</script>
</body>
</html>
"""


def _digest(source: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()}'"


def _parts(facts: Facts, lines: Mapping[str, str]) -> Iterator[str]:
    sections = [
        ("summary", "Summary", _summary(lines)),
        ("quality", "Quality", _quality(facts.document.get("quality") or [])),
        ("differences", "Differences", _differences(facts)),
        ("size", "Where the bytes are", _sizes(facts)),
        ("layers", "Layers", _layers(facts)),
        ("tensors", "Tensors", _tensors(facts)),
        ("metadata", "Metadata", _metadata(facts.document["metadata"])),
        ("template", "Chat template", "".join(_template(each, facts) for each in facts.examples)),
        ("tokens", "Tokens", _tokens(facts)),
    ]
    there = [section for section in sections if section[2]]
    links = "".join(f'<li><a href="#{name}">{title}</a></li>' for name, title, _ in there)
    yield f"""<a class="skip" href="#summary">Skip to the summary</a>
<header><h1>{text(facts.title)}</h1>
<button type="button" id="theme" aria-pressed="false">Dark</button>
<nav aria-label="Sections"><ul>{links}</ul></nav></header>
<main>
"""
    for name, title, inner in there:
        yield f'<section id="{name}" aria-labelledby="of-{name}"><h2 id="of-{name}">{title}</h2>\n{inner}\n</section>\n'
    yield "</main>"


def _summary(lines: Mapping[str, str]) -> str:
    rows = "".join(f"<dt>{text(label)}</dt><dd>{text(value)}</dd>" for label, value in lines.items())
    return f"<dl>{rows}</dl>"


def _quality(rows: Sequence[Mapping[str, Any]]) -> str:
    if not rows:
        return ""
    names = list(rows[0])
    cells = [[_figure(row.get(name)) for name in names] for row in rows]
    return _table("Held-out text", [name.replace("_", " ") for name in names], cells, numbers=range(1, len(names)))


def _figure(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}" if isinstance(value, float) else text(value or "")


def _differences(facts: Facts) -> str:
    if facts.beside is None:
        return ""
    rows = [[text(cell) for cell in row] for row in facts.changes]
    if not rows:
        return f"<p>None beside {text(facts.beside)}.</p>"
    return f"<p>Beside {text(facts.beside)}, the worst first.</p>" + _table("Differences", ["of", "name", "how"], rows)


def _sizes(facts: Facts) -> str:
    """A treemap of the bytes of tensors by role, and the table of the same."""
    roles: dict[str, list[Part]] = {}
    for part in facts.parts:
        roles.setdefault(part.role, []).append(part)
    total = sum(part.nbytes for part in facts.parts)
    if not total:
        return ""
    leaves, rows = [], []
    ordered = sorted(roles.items(), key=lambda each: -sum(part.nbytes for part in each[1]))
    for role, parts in ordered[:_MOST_ROLES]:
        nbytes, weights = sum(part.nbytes for part in parts), sum(part.weights for part in parts)
        types = ", ".join(dict.fromkeys(part.type for part in parts))
        group, bits = parts[0].group, 8 * nbytes / weights if weights else 0.0
        title = f"{role}: {nbytes:,} bytes, {100 * nbytes / total:.1f} %, {types}"
        if nbytes:
            leaves.append(Leaf(role, _NAMES.index(group), nbytes, title))
        share = f"{100 * nbytes / total:.1f} %"
        rows.append([text(role), text(group), f"{len(parts):,}", f"{weights:,}", f"{nbytes:,}", share, f"{bits:.2f}"])
        rows[-1].append(text(types))
    rest = [part for _, parts in ordered[_MOST_ROLES:] for part in parts]
    if rest:
        nbytes, weights = sum(part.nbytes for part in rest), sum(part.weights for part in rest)
        name, share = f"{len(ordered) - _MOST_ROLES:,} other roles", f"{100 * nbytes / total:.1f} %"
        leaves += [Leaf(name, _NAMES.index(OTHER), nbytes, f"{name}: {nbytes:,} bytes, {share}")] if nbytes else []
        rows.append([name, OTHER, f"{len(rest):,}", f"{weights:,}", f"{nbytes:,}", share, "", ""])
    used = [name for name in _NAMES if any(leaf.group == _NAMES.index(name) for leaf in leaves)]
    legend = "".join(f'<li><i class="g{_NAMES.index(name)}"></i>{name}</li>' for name in used)
    heads = ["role", "group", "tensors", "weights", "bytes", "share", "bits", "types"]
    details = _table("Bytes by role", heads, rows, numbers=range(2, 7))
    return (
        f"{treemap(leaves, f'Treemap: {total:,} bytes of tensors by role; the table has the same')}"
        f'<ul class="legend">{legend}</ul><details><summary>Table of roles</summary>{details}</details>'
    )


def _layers(facts: Facts) -> str:
    """A table of types by role and layer, and charts of what layers are on average."""
    layers = facts.layers[:_MOST_LAYERS]
    if not layers:
        return ""
    of_layers: dict[int, list[Part]] = {layer: [] for layer in layers}
    for part in facts.parts:
        if part.layer in of_layers:
            of_layers[part.layer].append(part)
    roles = list(dict.fromkeys(part.role for parts in of_layers.values() for part in parts))
    more = [(len(facts.layers), len(layers), "layers"), (len(roles), _MOST_ROLES, "roles")]
    left_out = "".join(f"<p>Of {count:,} {what}, the first {most} are here.</p>" for count, most, what in more
                       if count > most)  # fmt: skip
    places = {(part.role, layer): part for layer, parts in of_layers.items() for part in parts}
    head = "".join(f'<th scope="col">{layer}</th>' for layer in layers)
    rows = ""
    for role in roles[:_MOST_ROLES]:
        cells = "".join(_cell(places.get((role, layer))) for layer in layers)
        rows += f'<tr><th scope="row">{text(role)}</th>{cells}</tr>'
    shown = sorted({(round(part.bits, 3), part.type) for parts in of_layers.values() for part in parts})
    legend = "".join(f'<li><i class="b{_step(bits)}"></i>{text(kind)}, {bits:g} bits</li>' for bits, kind in shown)
    charts = _chart("Bits per weight of each layer", layers, [_bits(parts) for parts in of_layers.values()], "bits")
    if facts.beside is not None:
        errors = [_error(parts) for parts in of_layers.values()]
        charts += _chart(f"Relative error of each layer beside {facts.beside}", layers, errors, "relative error")
    return (
        f'{left_out}<div class="scroll" tabindex="0" role="region" aria-label="Types by layer and role">'
        f'<table class="map">'
        f"<thead><tr><th>role</th>{head}</tr></thead><tbody>{rows}</tbody></table></div>"
        f'<ul class="legend">{legend}</ul>{charts}'
    )


def _bits(parts: Sequence[Part]) -> float | None:
    """Bits per weight; None of nothing."""
    weights = sum(part.weights for part in parts)
    return 8 * sum(part.nbytes for part in parts) / weights if weights else None


def _error(parts: Sequence[Part]) -> float | None:
    """The root of the mean square of relative errors, each counted as often as it has weights; None where none is
    known."""
    known = [(part.error, part.weights) for part in parts if part.error is not None]
    total = sum(size for _, size in known)
    return (sum(error**2 * size for error, size in known) / total) ** 0.5 if total else None


def _cell(part: Part | None) -> str:
    if part is None:
        return "<td></td>"
    error = "" if part.error is None else f", relative error {part.error:.3g}"
    said = f"{part.name}: {part.type}, {part.bits:.3g} bits{error}"
    return f'<td class="b{_step(part.bits)}" title="{text(said)}"><span>{text(part.type)}</span></td>'


def _step(bits: float) -> int:
    """A shade for a number of bits: 1 to 8, and 9 for more."""
    return 9 if bits >= 9 else max(1, min(8, round(bits)))


def _chart(title: str, layers: Sequence[int], values: Sequence[float | None], unit: str) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return ""
    titles = [
        "" if value is None else f"layer {layer}: {value:.4g} {unit}"
        for layer, value in zip(layers, values, strict=True)
    ]
    said = f"{title}: {min(known):.4g} to {max(known):.4g}"
    return f"<figure><figcaption>{text(said)}</figcaption>{bars(values, titles, said)}</figure>"


def _tensors(facts: Facts) -> str:
    if not facts.parts:
        return ""
    heads = ["name", "type", "shape", "weights", "bytes", "bits", "rms", "largest", "spread"]
    heads += ["error"] if facts.beside is not None else []
    rows = []
    for part in facts.parts:
        values = part.values
        spread = "" if values is None else histogram(values.counts, f"Weights of {part.name}, to 4 times their rms")
        rms, largest = ("", "") if values is None else (f"{values.rms:.3g}", f"{values.largest:.3g}")
        shape = " x ".join(map(str, part.shape)) or "one number"
        row = [text(part.name), text(part.type), shape, f"{part.weights:,}", f"{part.nbytes:,}", f"{part.bits:.3f}"]
        row += [rms, largest, spread]
        rows.append(row + ([] if facts.beside is None else ["" if part.error is None else f"{part.error:.3g}"]))
    note = "Rms, largest and spread are those of a sample of each tensor. Columns can be sorted by their headings."
    if facts.beside is not None:
        note += f" Errors are relative, beside {facts.beside}."
    numbers = [3, 4, 5, 6, 7, 9]
    return f"<p>{text(note)}</p>{_search('tensors')}{_table('Tensors', heads, rows, numbers=numbers, sortable=True)}"


def _metadata(metadata: Mapping[str, Any]) -> str:
    if not metadata:
        return ""
    rows = [[text(key), f"<pre>{text(_shown(value))}</pre>"] for key, value in metadata.items()]
    return _search("metadata") + _table("Metadata", ["key", "value"], rows)


def _shown(value: Any) -> str:
    if isinstance(value, Mapping) and "array" in value:
        first = ", ".join(_shown(item) for item in value["first"])
        return f"{first}, … ({value['count']:,} {value['array']})"
    shown = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return shown if len(shown) <= _LONGEST else f"{shown[:_LONGEST]}… ({len(shown):,} characters)"


def _template(example: Example, facts: Facts) -> str:
    control = sorted({facts.tokens[index] for index in facts.special} - {""})
    more = f"… ({len(example.text):,} characters)" if len(example.text) > _MOST_TEXT else ""
    made = f"<pre>{_marked(example.text[:_MOST_TEXT], control)}{more}</pre>"
    if example.problem:
        made = f"<p>It fails: {text(example.problem)}</p>"
    lines = "\n".join(_highlighted(line) for line in example.source.split("\n"))
    return (
        f"<h3>{text(example.name)}</h3><h4>What it makes of a short conversation</h4>{made}"
        f"<details><summary>Source, {example.source.count(chr(10)) + 1:,} lines</summary><pre>{lines}</pre></details>"
    )


def _marked(made: str, control: Collection[str]) -> str:
    """A rendered text with its control tokens marked."""
    texts = Texts.of(control)
    found_in = [texts[index] for index in texts.within(made.encode("utf-8", "surrogatepass"))]
    known = [token for token in found_in if isinstance(token, str)][:_MOST_MARKED]
    if not known:
        return _text_of_lines(made)
    pattern = re.compile("|".join(map(re.escape, sorted(known, key=len, reverse=True))))
    pieces, at = [], 0
    for found in pattern.finditer(made):
        pieces += [_text_of_lines(made[at : found.start()]), f"<mark>{text(found[0])}</mark>"]
        at = found.end()
    return "".join([*pieces, _text_of_lines(made[at:])])


def _text_of_lines(made: str) -> str:
    return "\n".join(map(text, made.split("\n")))


_BEGINS = re.compile(r"\{[%{#]")
_ENDS = {"{%": ("%}", "statement"), "{{": ("}}", "value"), "{#": ("#}", "comment")}


def _highlighted(line: str) -> str:
    """A line of a template's source, with what Jinja reads set apart. One look at each character, whatever the line."""
    pieces, at, place = [], 0, 0
    last = {mark: line.rfind(mark) for mark, _ in _ENDS.values()}
    while (found := _BEGINS.search(line, place)) is not None:
        mark, kind = _ENDS[found[0]]
        place = found.end()
        if last[mark] >= place:  # else it goes on in another line, or never ends
            place = line.index(mark, place) + len(mark)
            pieces += [text(line[at : found.start()])]
            pieces += [f'<span class="{kind}">{text(line[found.start() : place])}</span>']
            at = place
    return "".join([*pieces, text(line[at:])])


def _tokens(facts: Facts) -> str:
    if not facts.tokens:
        return ""
    special = sorted(facts.special)
    rows = [[str(index), f"<code>{text(facts.tokens[index])}</code>"] for index in special[:500]]
    more = f", of which the first {len(rows)} are here" if len(special) > len(rows) else ""
    data = json.dumps(facts.tokens, ensure_ascii=True, separators=(",", ":")).replace("<", "\\u003c")
    control = _table("Control tokens", ["id", "token"], rows) if rows else ""
    return (
        f"<p>{len(facts.tokens):,} tokens; {len(special):,} are control tokens or added{more}.</p>"
        f"<details><summary>Control tokens</summary>{control}</details>"
        '<label class="search">Tokens that contain <input type="search" id="token" autocomplete="off"></label>'
        '<p id="found" role="status"></p><div id="hits" class="scroll"></div>'
        f'<script type="application/json" id="vocabulary">{data}</script>'
    )


def _search(name: str) -> str:
    return (
        f'<label class="search">Rows that contain <input type="search" data-of="{name}" autocomplete="off"></label>'
        f'<span class="count" role="status" id="count-{name}"></span>'
    )


def _table(
    caption: str,
    heads: Sequence[str],
    rows: Iterable[Sequence[str]],
    numbers: Collection[int] = (),
    sortable: bool = False,
) -> str:
    """A table of cells that are HTML already; ``numbers`` are columns that stand to the right."""
    head = "".join(
        f'<th scope="col"{_of(at, numbers)}>{f"<button type=button>{name}</button>" if sortable else name}</th>'
        for at, name in enumerate(heads)
    )
    body = "".join(
        "<tr>" + "".join(f"<td{_of(at, numbers)}>{cell}</td>" for at, cell in enumerate(row)) + "</tr>" for row in rows
    )
    kind = ' class="sortable"' if sortable else ""
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{text(caption)}"><table{kind}>'
        f"<caption>{text(caption)}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _of(at: int, numbers: Collection[int]) -> str:
    return ' class="number"' if at in numbers else ""
