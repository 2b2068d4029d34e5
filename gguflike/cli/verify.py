"""gguflike verify FILE"""

from __future__ import annotations

import argparse
from dataclasses import asdict

from gguflike.cli.arguments import MODEL
from gguflike.cli.output import clean, print_json, size
from gguflike.cli.progress import progress_bar
from gguflike.errors import counted


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", help=MODEL)
    parser.add_argument("--json", action="store_true", help="one JSON document")


def run(args: argparse.Namespace) -> int:
    from gguflike.verify import verify

    with progress_bar() as progress:
        report = verify(args.file, progress)
    if args.json:
        print_json({"ok": report.ok, "scope": report.scope, **asdict(report)})
    else:
        for finding in report.findings:
            print(f"{finding.severity}: {clean(str(finding))}")
        verdict = "good" if report.ok else "BAD"
        print(f"{verdict}: {counted(report.tensors, 'tensor')}, {size(report.data_bytes)}; {report.scope}")
    return 0 if report.ok else 1
