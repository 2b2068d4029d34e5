"""gguflike upload FILE... org/name"""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from typing import Any

from gguflike.cli.output import clean, print_json
from gguflike.cli.progress import progress_bar


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("files", metavar="FILE", nargs="+", help="GGUF file; of a split model, its first shard")
    parser.add_argument("repo", metavar="REPO", help="repository of the Hub, org/name or org/name@branch")
    parser.add_argument("--private", action="store_true", help="if the repository is made, only for you")
    parser.add_argument("--revision", metavar="BRANCH", help="branch to add to, made if it is not there")
    parser.add_argument("--overwrite", action="store_true", help="replace README.md and files of the same name")
    parser.add_argument("--dry-run", action="store_true", help="print what would be added and README.md, write nothing")
    parser.add_argument("--json", action="store_true", help="one JSON document")


def run(args: argparse.Namespace) -> int:
    from gguflike.upload import upload

    options = {"private": args.private, "revision": args.revision, "overwrite": args.overwrite}
    bars = sys.stderr is not None and sys.stderr.isatty()
    with progress_bar() as progress:
        plan = upload(args.files, args.repo, dry_run=args.dry_run, bars=bars, progress=progress, **options)
    if args.json:
        print_json(document(plan))
        return 0
    print("\n".join(map(clean, str(plan).splitlines())))
    if args.dry_run and plan.page is not None:
        print("\n" + "\n".join(map(clean, plan.page.splitlines())))
    elif plan.url:
        print(f"added: {clean(plan.url)}")
    elif not args.dry_run:
        print("nothing to add")
    return 0


def document(plan: Any) -> dict[str, Any]:
    """The plan as JSON."""
    files = [
        {"name": e.name, "bytes": e.nbytes, "sha256": e.sha256, "type": e.type, "added": e.name not in plan.unchanged}
        for e in plan.entries
    ]
    kept = {key: value for key, value in asdict(plan).items() if key not in ("entries", "unchanged", "paths", "page")}
    return {**kept, "files": files, "card": plan.page}
