"""Prove model classes: usage: prove_families.py [--write] [NAME...]. Without names all; --write makes spec/families.md.

Needs torch, transformers, llama-cpp-python, sentencepiece and protobuf (`pip install -e '.[test,interop]'`).
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.interop.families import TABLE
from tests.interop.families.proofs import Oracles, Proofs


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="rows of tests/interop/families, or classes")
    asked = parser.parse_args()
    unknown = set(asked.names) - set(TABLE) - {row.model_class for row in TABLE.values()}
    if unknown:
        parser.error(f"no such class: {', '.join(sorted(unknown))}")
    rows = [row for row in TABLE.values() if not asked.names or {row.name, row.model_class} & set(asked.names)]
    oracles = Oracles()
    failed = 0
    for row in rows:
        start = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            cells = Proofs(row, Path(folder), oracles).run()
        print(f"{row.name}  ({row.architecture}, {time.perf_counter() - start:.1f} s)")
        for name, cell in cells.items():
            failed += not cell.proven
            print(f"    {name:<10} {'ok ' if cell.proven else 'NOT'}  {cell.text}"[:400])
    oracles.close()
    print(f"{len(rows)} rows, {failed} proofs missing")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
