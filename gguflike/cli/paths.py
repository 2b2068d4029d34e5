"""What convert, quantize and export share: where from, where to, and what may be replaced.

The places of llama-quantize's arguments are kept, ``IN [OUT] [TYPE] [THREADS]``, and so are the flags of llama.cpp's
converter.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping

from gguflike.cli.arguments import positive
from gguflike.cli.progress import progress_bar
from gguflike.cli.usage import UsageError

#: Flags of llama.cpp's programs that have no place here, and what to do without them.
FOREIGN: Mapping[str, str] = {
    "--remote": "leave it out: a Hub id such as org/name is read from the Hub",
    "--no-lazy": "leave it out: tensors are streamed",
    "--use-temp-file": "leave it out: tensors are streamed",
    "--max-buffer-size": "leave it out: memory is bounded at any size",
    "--bigendian": "files are little-endian, which llama.cpp reads on every machine",
    "--verbose": "leave it out: the plan is always printed; --json has all of it",
    "--vocab-only": "files of a vocabulary alone are not written",
    "--mmproj": "parts of a model for images and sound are not converted, its text model is",
    "--trust-remote-code": "leave it out: no code of a checkpoint is ever run",
}


def add_path_arguments(parser: argparse.ArgumentParser, source: str, help_source: str, out: str, help_out: str) -> None:
    parser.add_argument("source", metavar=source, help=help_source)
    parser.add_argument("rest", nargs="*", metavar=out, help=argparse.SUPPRESS)
    parser.add_argument("-o", "--out", "--outfile", metavar=out, help=help_out)
    parser.add_argument("--overwrite", action=argparse.BooleanOptionalAction, default=False, help="replace the target")
    parser.set_defaults(listed="rest")


def fetched(file: str) -> str:
    """The path of a GGUF file, which is fetched where ``file`` names one on the Hub or behind a URL."""
    if os.path.lexists(file):
        return file
    from gguflike.locate import locate

    with progress_bar() as progress:
        return os.fspath(locate(file, progress))


def take_rest(args: argparse.Namespace, *, typed: bool) -> None:
    """Give the arguments behind the source their meaning: OUT and, where ``typed``, TYPE and THREADS. UsageError where
    there are too many, or one is given twice."""
    rest: list[str] = args.rest
    if typed and args.type is not None and args.type.isdecimal():
        raise UsageError(f"-t is the type, such as -t Q8_0; {args.type} threads are --threads {args.type}")
    if rest and args.out is None and not (typed and _type(rest[0])):
        args.out = rest.pop(0)
    kind = rest.pop(0) if rest and typed else None
    threads = rest.pop(0) if rest and typed else None
    if rest:
        raise UsageError(f"unrecognized arguments: {' '.join(rest)}")
    if kind is not None:
        if _type(kind) is None:
            raise UsageError(f"{kind!r} is no type{near_type(kind)}")
        _take(args, "type", _type(kind))
    if threads is not None:
        try:
            _take(args, "threads", positive(threads))
        except argparse.ArgumentTypeError as error:
            raise UsageError(f"threads: {error}") from None


def take_out(args: argparse.Namespace, missing: str) -> None:
    """Give the argument behind the source its meaning: OUT. UsageError where there are more, and one that says what is
    ``missing`` where there is none."""
    take_rest(args, typed=False)
    if args.out is None:
        raise UsageError(missing)


def default_out(args: argparse.Namespace) -> None:
    """Without OUT, the file goes into the source's folder, as llama.cpp's programs have it; into the current one, where
    that is on the Hub. UsageError where the source is not there."""
    if args.out is not None or args.dry_run:
        return
    if not os.path.exists(args.source):  # noqa: PTH110 - text
        from gguflike.checkpoint.hub import reference

        found = reference.parse(args.source)
        if found is not None and found.repo:
            args.out = os.path.join(".", "")  # noqa: PTH118 - ends as a folder does
            return
        raise UsageError("OUT is required: a file, or a folder for FOLDER/NAME-TYPE.gguf")
    folder = args.source if os.path.isdir(args.source) else os.path.dirname(args.source)  # noqa: PTH112, PTH120
    args.out = os.path.join(folder or ".", "")  # noqa: PTH118 - ends as a folder does


def _take(args: argparse.Namespace, name: str, value: object) -> None:
    if getattr(args, name) is not None:
        raise UsageError(f"{name} is given twice: {getattr(args, name)} and {value}")
    setattr(args, name, value)


def _type(text: str) -> str | None:
    """The type that a word in a type's place means: its name, or llama-quantize's number of it."""
    from gguflike.convert.quantize import by_name
    from gguflike.convert.recipe import RECIPES
    from gguflike.errors import ArgumentError

    numbers = {str(recipe.file_type): recipe.name for recipe in [*RECIPES.values()][::-1]}
    try:
        return numbers.get(text) or by_name(text).name
    except ArgumentError:
        return None


def near_type(text: str) -> str:
    """What to add to an error about a word that may be meant as a type."""
    from gguflike.convert.recipe import ALIASES, RECIPES
    from gguflike.errors import did_you_mean

    near = did_you_mean(text, [*RECIPES, *ALIASES])
    return f"; {near}" if near else ""
