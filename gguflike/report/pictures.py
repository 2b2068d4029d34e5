"""Drawings for a page, as SVG: a treemap, bars, and the outline of a histogram. Each says in words what it shows."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from html import escape
from typing import NamedTuple

_ODD = re.compile(r"[^\n\t -~]")
_HIDDEN = ("Cc", "Cf", "Cs", "Zl", "Zp")  # what has no width, steers or turns lines around

WIDTH = 960  # of bars, in units of the drawing


class Layout(NamedTuple):
    """A treemap for screens of one kind: ``name`` is its class, which the style shows on such screens alone. Boxes are
    as square as can be at ``width``, and labels stand where they fit, or fit at ``least``; all in CSS pixels. What is
    wider or narrower is stretched across, and letters are not."""

    name: str
    width: float
    height: float
    least: float


LAYOUTS = (Layout("wide", 960, 360, 600), Layout("narrow", 366, 440, 296))
_LARGE, _SMALL = (8.2, 28.0), (6.6, 20.0)  # letters: how wide, and of what height a box must be for them


def text(what: object) -> str:
    """Text for HTML, with what would not be seen written out."""
    return escape(_ODD.sub(lambda found: _seen(found[0]), str(what)))


def _seen(character: str) -> str:
    if unicodedata.category(character) not in _HIDDEN:
        return character
    number = ord(character)
    return f"\\u{number:04x}" if number < 1 << 16 else f"\\U{number:08x}"


class Leaf(NamedTuple):
    """One rectangle: ``group`` says its colour, ``title`` what is said of it."""

    label: str
    group: int
    size: float
    title: str


class Box(NamedTuple):
    """A rectangle, in units of the picture."""

    left: float
    top: float
    width: float
    height: float


def squarified(sizes: Sequence[float], box: Box) -> list[Box]:
    """Boxes of areas as ``sizes`` are to each other, which fill ``box`` and are as square as they can be (Bruls,
    Huizing, van Wijk: Squarified Treemaps, 2000). Sizes are positive, largest first."""
    boxes: list[Box] = []
    at = 0
    left, top, width, height = box
    scale = width * height / (sum(sizes) or 1.0)
    while at < len(sizes):
        short = min(width, height) or 1.0
        row = 1
        while at + row < len(sizes) and _worst(sizes[at : at + row + 1], scale, short) <= _worst(
            sizes[at : at + row], scale, short
        ):
            row += 1
        thick = sum(sizes[at : at + row]) * scale / short
        along = 0.0
        for size in sizes[at : at + row]:
            long = size * scale / thick if thick else 0.0
            boxes.append(
                Box(left, top + along, thick, long) if width >= height else Box(left + along, top, long, thick)
            )
            along += long
        if width >= height:
            left, width = left + thick, max(width - thick, 0.0)
        else:
            top, height = top + thick, max(height - thick, 0.0)
        at += row
    return boxes


def _worst(sizes: Sequence[float], scale: float, short: float) -> float:
    """The least square of a row of boxes, as its longer side divided by the shorter."""
    total = sum(sizes) * scale
    largest, least = max(sizes) * scale, min(sizes) * scale
    return max(short * short * largest / total**2, total**2 / (short * short * least))


def treemap(leaves: Sequence[Leaf], label: str) -> str:
    """Leaves by group, the largest group first, and within it the largest leaf: once for each layout."""
    groups: dict[int, list[Leaf]] = {}
    for leaf in sorted(leaves, key=lambda leaf: -leaf.size):
        groups.setdefault(leaf.group, []).append(leaf)
    order = sorted(groups, key=lambda group: -sum(leaf.size for leaf in groups[group]))
    sums = [sum(leaf.size for leaf in groups[group]) for group in order]
    return "".join(_treemap([groups[group] for group in order], sums, layout, label) for layout in LAYOUTS)


def _treemap(groups: Sequence[Sequence[Leaf]], sums: Sequence[float], layout: Layout, label: str) -> str:
    drawn = [
        piece
        for leaves, box in zip(groups, squarified(sums, Box(0, 0, layout.width, layout.height)), strict=True)
        for leaf, inner in zip(leaves, squarified([leaf.size for leaf in leaves], box), strict=True)
        for piece in _leaf(leaf, inner, layout)
    ]
    size = f'width="100%" height="{layout.height:g}"'
    return f'<svg class="treemap {layout.name}" {size} role="img" aria-label="{text(label)}">{"".join(drawn)}</svg>'


def _leaf(leaf: Leaf, box: Box, layout: Layout) -> Iterator[str]:
    left, width = (100 * across / layout.width for across in (box.left, box.width))
    place = f'x="{left:.2f}%" y="{box.top:.1f}" width="{width:.2f}%" height="{box.height:.1f}"'
    yield f'<g><title>{text(leaf.title)}</title><rect class="g{leaf.group}" {place}/>'
    kind = _label(leaf.label, box, layout)
    if kind is not None:
        yield f'<text class="{kind}" x="{left:.2f}%" dx="6" y="{box.top:.1f}" dy="1.2em">{text(leaf.label)}</text>'
    yield "</g>"


def _label(label: str, box: Box, layout: Layout) -> str | None:
    """The classes of a label, None where it fits nowhere: "small" letters, "tight" where they are small on screens for
    which the layout is too wide, and "roomy" where the label fits on no such screen."""

    def fits(width: float, letters: tuple[float, float]) -> bool:
        return width > letters[0] * len(label) + 12 and box.height > letters[1]

    least = box.width * layout.least / layout.width
    if fits(least, _LARGE):
        return ""
    large, small = fits(box.width, _LARGE), fits(least, _SMALL)
    if large or small:
        return "roomy" if not small else "tight" if large else "small"
    return "small roomy" if fits(box.width, _SMALL) else None


def bars(values: Sequence[float | None], titles: Sequence[str], label: str) -> str:
    """One bar for each value, from 0 on; a value that is not known has none."""
    most = max((value for value in values if value is not None), default=0.0) or 1.0
    step = WIDTH / max(len(values), 1)
    drawn = [
        f'<g><title>{text(title)}</title><rect class="bar" x="{number * step:.1f}" '
        f'y="{100 - 96 * value / most:.1f}" width="{max(step - 2, 1):.1f}" height="{96 * value / most:.1f}"/></g>'
        for number, (value, title) in enumerate(zip(values, titles, strict=True))
        if value is not None
    ]
    return _svg("bars", WIDTH, 100, label, drawn)


def histogram(counts: Sequence[int], label: str) -> str:
    """The outline of counts, as tall as the largest."""
    most = max(counts, default=0) or 1
    points = " ".join(f"{2 * at},{24 - 23 * count / most:.1f}" for at, count in enumerate(counts))
    width = 2 * (len(counts) - 1)
    return _svg("histogram", width, 24, label, [f'<polygon points="0,24 {points} {width},24"/>'])


def _svg(kind: str, width: float, height: float, label: str, drawn: Sequence[str]) -> str:
    size = f'viewBox="0 0 {width:g} {height:g}" preserveAspectRatio="none"'
    return f'<svg class="{kind}" {size} role="img" aria-label="{text(label)}">{"".join(drawn)}</svg>'
