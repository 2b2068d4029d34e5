"""gguflike rerank FILE QUERY [DOCUMENT ...]"""

from __future__ import annotations

import argparse

from gguflike.cli.embed import add_truncate, lines, numbers
from gguflike.cli.generation import add_model_arguments, load
from gguflike.cli.output import print_json, terminal


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model_arguments(parser)
    parser.add_argument("query", metavar="QUERY", help="what documents are to answer")
    parser.add_argument(
        "documents", metavar="DOCUMENT", nargs="*", help="documents (default: each line of standard input is one)"
    )
    add_truncate(parser)
    parser.set_defaults(listed="documents")
    parser.add_argument("--json", action="store_true", help="one JSON document")


def run(args: argparse.Namespace) -> int:
    documents = lines(args.documents, "documents")
    with load(args) as model:
        scores = numbers(model.rerank(args.query, documents, truncate=args.truncate))
    ranked = sorted(range(len(documents)), key=lambda index: -scores[index])
    if args.json:
        print_json([{"index": i, "score": scores[i], "document": documents[i]} for i in ranked])
    else:
        for index in ranked:
            print(f"{scores[index]:.6g}\t{terminal(documents[index])}")
    return 0
