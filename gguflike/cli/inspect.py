"""gguflike inspect FILE"""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING, Any

from gguflike.amounts import size
from gguflike.cli.arguments import MODEL, positive
from gguflike.cli.output import clean
from gguflike.cli.several import for_each, print_documents
from gguflike.cli.usage import UsageError

if TYPE_CHECKING:
    from gguflike.container import GGUFFile

VALUES = 8  # of a tensor that are shown
CHOICES = ("key", "tensor", "template", "tokens")  # what is looked for, in place of the first screen


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("files", metavar="FILE", nargs="+", help=f"{MODEL}; a folder of them, or a checkpoint's folder")
    parser.add_argument("--metadata", action="store_true", help="all metadata behind the first screen")
    parser.add_argument("--tensors", action="store_true", help="all tensors behind it")
    parser.add_argument("--key", metavar="GLOB", help="only metadata of these names, such as 'tokenizer.*', all of it")
    parser.add_argument("--tensor", metavar="GLOB", help="only tensors of these names, such as 'blk.0.*'")
    parser.add_argument(
        "--values", metavar="N", type=positive, nargs="?", const=VALUES, help=f"their first values (default: {VALUES})"
    )
    parser.add_argument(
        "--stats", action="store_true", help="their range, mean, histogram, scales and codes at the ends of their range"
    )
    parser.add_argument("--template", action="store_true", help="only the chat templates, as they are")
    parser.add_argument(
        "--tokens", metavar="REGEX", help="only tokens in which a regular expression of Python's occurs (at most 10 s)"
    )
    parser.add_argument("--markdown", action="store_true", help="as Markdown, with all metadata and tensors")
    parser.add_argument("--html", metavar="PAGE", help="write one page to look at in a browser, which loads nothing")
    parser.add_argument("--overwrite", action="store_true", help="replace PAGE")
    parser.add_argument("--json", action="store_true", help="one JSON document; of several files, a list")
    parser.set_defaults(listed="files")


def run(args: argparse.Namespace) -> int:
    from gguflike.locate import open_header

    _check(args)
    documents: list[Any] = []

    def inspect(name: str) -> int:
        if os.path.isdir(name):  # noqa: PTH112 - text
            return _folder(args, name, documents)
        with open_header(name) as file:
            if args.html is not None:
                from gguflike.cli import pages

                pages.check(args, file)
                pages.write(args, file, name)
                return 0
            document = _document(args, file)
            fetched = file.fetched
        if args.json:
            documents.append(document)
        else:
            _print(args, document, name)
        if fetched:
            from gguflike.cli.streams import say

            say(f"read {size(fetched)} of {size(document.get('file_bytes', fetched))} of {clean(name)}")
        return 0

    status = for_each(args, inspect)
    if args.json:
        print_documents(args.files, documents)
    return status


def _check(args: argparse.Namespace) -> None:
    """UsageError for options that have no meaning together."""
    chosen = [f"--{name}" for name in CHOICES if getattr(args, name)]
    if len(chosen) > 1:
        raise UsageError(f"one of {' and '.join(chosen)} at a time")
    if (args.values or args.stats) and args.tensor is None:
        raise UsageError("--values and --stats are of the tensors that --tensor GLOB names")
    if args.markdown and (chosen or args.json):
        raise UsageError(f"--markdown is of a whole file, not with {(*chosen, '--json')[0]}")
    if args.html is None:
        if args.overwrite:
            raise UsageError("--overwrite is of the page that --html writes")
    elif chosen or args.json or args.markdown or len(args.files) > 1 or os.path.isdir(args.files[0]):  # noqa: PTH112
        raise UsageError("--html is of one whole file, and shows all that the other options do")


def _document(args: argparse.Namespace, file: GGUFFile) -> dict[str, Any]:
    """What was asked for, as JSON."""
    if _is_search(args):
        return _found(args, file)
    from gguflike.inspect import document

    return document(file)


def _is_search(args: argparse.Namespace) -> bool:
    return any(getattr(args, name) not in (None, False) for name in CHOICES)


def _found(args: argparse.Namespace, file: GGUFFile) -> dict[str, Any]:
    from gguflike.cli import looked_for

    if args.key is not None:
        return looked_for.values(file, args.key)
    if args.tensor is not None:
        return looked_for.tensors(file, args.tensor, args.values, args.stats)
    return looked_for.templates(file) if args.template else looked_for.tokens(file, args.tokens)


def _print(args: argparse.Namespace, document: dict[str, Any], name: str) -> None:
    if _is_search(args):
        _print_found(args, document, name)
        return
    from gguflike.cli import facts

    if args.markdown:
        print(facts.markdown(document, name))
        return
    print(facts.screen(document, name))
    if args.metadata:
        print(f"\nmetadata\n{facts.metadata(document)}")
    if args.tensors and document["tensors"]:
        print(f"\ntensors\n{facts.tensor_list(document['tensors'])}")


def _print_found(args: argparse.Namespace, document: dict[str, Any], name: str) -> None:
    from gguflike.cli import looked_for

    if args.tensor is not None:
        looked_for.print_tensors(document)
    elif args.tokens is not None:
        looked_for.print_tokens(document)
    else:
        looked_for.print_values(document, name if len(args.files) > 1 else None)


def _folder(args: argparse.Namespace, folder: str, documents: list[Any]) -> int:
    """What is in a folder: the models in GGUF files, or a checkpoint."""
    from gguflike.cli import facts
    from gguflike.inspect.summary import checkpoint
    from gguflike.inspect.summary import folder as models

    found = models(folder)
    document: dict[str, Any] = {"models": found} if found else {"checkpoint": checkpoint(folder)}
    if args.json:
        documents.append(document)
    else:
        print(facts.models(found) if found else facts.checkpoint(document["checkpoint"], folder))
    return 0
