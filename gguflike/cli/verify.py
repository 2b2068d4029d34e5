"""gguflike verify FILE"""

from __future__ import annotations

import argparse
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from gguflike.amounts import size
from gguflike.cli.arguments import MODEL
from gguflike.cli.output import clean, tell
from gguflike.cli.progress import progress_bar
from gguflike.cli.several import for_each, print_documents
from gguflike.errors import counted

if TYPE_CHECKING:
    from gguflike.verify import Report


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("files", metavar="FILE", nargs="+", help=MODEL)
    parser.add_argument("--strict", action="store_true", help="warnings count as errors do: exit status 1")
    parser.add_argument(
        "--against", metavar="HUB", help="compare with a repository's file by its digest: hf://org/repo[/file.gguf]"
    )
    parser.add_argument("--key", metavar="PUBLIC", help="public key in PEM with which the file must be signed")
    parser.add_argument("--json", action="store_true", help="one JSON document; of several files, a list")
    parser.set_defaults(listed="files")


def run(args: argparse.Namespace) -> int:
    from gguflike.verify import verify

    documents = []

    def check(name: str) -> int:
        with progress_bar() as progress:
            report = verify(name, progress, against=args.against, key=args.key)
        good = report.passes("warning" if args.strict else "error")
        if args.json:
            documents.append(_document(report, good))
        else:
            for finding in report.findings:
                tell(f"{finding.severity}: {clean(str(finding))}")
            which = f"{clean(name)}: " if len(args.files) > 1 else ""
            sizes = f"{size(report.file_bytes)}, {size(report.data_bytes)} of it in {counted(report.tensors, 'tensor')}"
            tell(f"{which}{'good' if good else 'BAD'}: {sizes}; {report.scope}")
        return 0 if good else 1

    status = for_each(args, check)
    if args.json:
        print_documents(args.files, documents)
    return status


def _document(report: Report, good: bool) -> dict[str, Any]:
    """The report as JSON; ``ok`` is what the exit status says."""
    from gguflike.container.findings import SEVERITIES

    return {
        "ok": good,
        "scope": report.scope,
        "counts": {severity: report.count(severity) for severity in SEVERITIES},
        **asdict(report),
        "findings": [finding.document() for finding in report.findings],
    }
