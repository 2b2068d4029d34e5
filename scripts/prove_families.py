"""Prove model classes and say what is missing; --write makes spec/families.md of it.

Needs torch, transformers, llama-cpp-python, sentencepiece and protobuf: `pip install -e '.[test,interop]'`. llama.cpp's
converter comes from the source archive of llama-cpp-python on PyPI.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def main() -> int:
    sys.path.insert(0, str(ROOT))
    from tests.interop.families import TABLE
    from tests.interop.families.proofs import PROOFS, Oracles, Proofs
    from tests.interop.families.report import missing, page

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="rows of tests/interop/families, or classes; all without")
    parser.add_argument("--only", action="append", choices=list(PROOFS), help="a proof; all without")
    parser.add_argument("--write", action="store_true", help="write spec/families.md (of all rows)")
    asked = parser.parse_args()
    unknown = set(asked.names) - set(TABLE) - {row.model_class for row in TABLE.values()}
    if unknown:
        parser.error(f"no such class: {', '.join(sorted(unknown))}")
    if asked.write and (asked.names or asked.only):
        parser.error("--write is for all rows and proofs")
    rows = [row for row in TABLE.values() if not asked.names or {row.name, row.model_class} & set(asked.names)]
    oracles = Oracles()
    results = []
    failed = 0
    for row in rows:
        start = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            found = Proofs(row, Path(folder), oracles).run(asked.only or PROOFS)
        results.append((row, found))
        print(f"{row.name}  ({row.architecture}, {time.perf_counter() - start:.1f} s)")
        for name, cell in found.items():
            print(f"    {name:<10} {'ok ' if cell.proven else 'NOT'}  {cell.text}"[:400])
        wrong = missing(row, found)
        failed += bool(wrong)
        print(
            f"    {'proven' if not wrong else 'MISSING ' + ', '.join(said.partition(':')[0] for said in wrong)}",
            flush=True,
        )
    oracles.close()
    print(f"{len(rows)} rows, {failed} not proven")
    if asked.write:
        (ROOT / "spec" / "families.md").write_text(page(results), encoding="utf-8")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
