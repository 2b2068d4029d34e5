#!/usr/bin/env python3
"""Write what the specification takes from the table of block types.

    python scripts/gen_spec.py            write spec/tables/*.json and the generated part of spec/blocks/*.md
    python scripts/gen_spec.py --check    say which of them are out of date, and write nothing

The generated part of a page is its title and the table of fields, up to the line
``<!-- end of the generated part -->``.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from gguflike.blocks import FORMATS, BlockFormat, codebooks

SPEC = Path(__file__).parent.parent / "spec"
END = "<!-- end of the generated part -->\n"
CODEBOOKS = {
    "iq2_xxs": codebooks.iq2_xxs,
    "iq2_xs": codebooks.iq2_xs,
    "iq2_s": codebooks.iq2_s,
    "iq3_xxs": codebooks.iq3_xxs,
    "iq3_s": codebooks.iq3_s,
    "iq1": codebooks.iq1,
}
KINDS = {"f": "float", "i": "signed integer", "u": "unsigned integer"}
ROLES = {"codes": "codes", "scale": "scale, finite", "min": "minimum, finite", "packed": "packed bits"}
ENCODINGS = {
    "e8m0": "scale, an exponent (E8M0)",
    "ue4m3": "scales, 8-bit floats (unsigned E4M3)",
    "nibbles": "packed bits, among them a float16 scale",
}


def block_table() -> str:
    rows = []
    for fmt in FORMATS.values():
        fields = [
            {
                "name": f.name,
                "dtype": f.dtype,
                "count": f.count,
                "offset": fmt.dtype.fields[f.name][1],
                "role": f.role,
                "encoding": f.encoding,
            }
            for f in fmt.fields
        ]
        row = {
            "id": fmt.id,
            "name": fmt.name,
            "block_size": fmt.block_size,
            "block_bytes": fmt.block_bytes,
            "bits_per_weight": fmt.bits_per_weight,
            "formula": fmt.formula,
            "fields": fields,
        }
        rows.append(json.dumps(row))
    return "[\n" + ",\n".join(rows) + "\n]\n"


def codebook_table() -> str:
    """Each codebook as levels and points; a point is its digits (indices of levels), first coordinate first."""
    entries = []
    for name, table in CODEBOOKS.items():
        points = table()
        levels = sorted({int(v) for v in points.reshape(-1)})
        digits = ["".join(str(levels.index(int(v))) for v in point) for point in points]
        entries.append(f'"{name}": {{"levels": {json.dumps(levels)},\n "points": {json.dumps(digits)}}}')
    return "{\n" + ",\n".join(entries) + "\n}\n"


def layout(fmt: BlockFormat) -> str:
    """Title, sizes and fields of a page."""
    weights = f"{fmt.block_size} weights" if fmt.is_quantized else "1 value"
    size = f"{fmt.block_bytes} byte" + "s" * (fmt.block_bytes > 1)
    lines = [
        f"# {fmt.name} (type {fmt.id})",
        "",
        f"{weights} in {size}, {fmt.bits_per_weight:.4g} bits per weight; decodes to `{fmt.formula}`.",
        "",
        "| bytes | field | stored as | holds |",
        "|---|---|---|---|",
    ]
    for f in fmt.fields:
        start = fmt.dtype.fields[f.name][1]
        kind, bits = KINDS[fmt.dtype[f.name].base.kind], 8 * fmt.dtype[f.name].base.itemsize
        end = start + bits // 8 * f.count - 1
        held = ENCODINGS.get(f.encoding, ROLES[f.role]) if fmt.is_quantized else "the value"
        times = f"{f.count} x " if f.count > 1 else ""
        place = f"{start}-{end}" if end > start else f"{start}"
        lines.append(f"| {place} | `{f.name}` | {times}{bits}-bit {kind} | {held} |")
    return "\n".join(lines) + "\n\n" + END


def documents() -> dict[Path, str]:
    """Every generated document as it should be. A page without its hand-written part is an error."""
    wanted = {
        SPEC / "tables" / "blocks.json": block_table(),
        SPEC / "tables" / "codebooks.json": codebook_table(),
    }
    for fmt in FORMATS.values():
        path = SPEC / "blocks" / f"{fmt.name.lower()}.md"
        _, mark, prose = path.read_text(encoding="utf-8").partition(END)
        if not mark:
            raise SystemExit(f"{path}: the line {END!r} is missing")
        wanted[path] = layout(fmt) + prose
    return wanted


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="report what is out of date, write nothing")
    check = parser.parse_args().check
    stale = [(path, text) for path, text in documents().items() if not path.exists() or path.read_text() != text]
    for path, text in stale:
        print(f"{path.relative_to(SPEC.parent)}: {'out of date, run scripts/gen_spec.py' if check else 'written'}")
        if not check:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    return bool(stale) and check


if __name__ == "__main__":
    sys.exit(main())
