"""gguflike edit FILE"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from gguflike.amounts import size
from gguflike.cli.output import clean, named, print_json, tell
from gguflike.cli.usage import UsageError

if TYPE_CHECKING:
    from gguflike.container import Typed
    from gguflike.edit import Change, Edited

SHOWN = 60  # characters of a value


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", help="GGUF file; of a split model, any of its files")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="of the type that the key has; or KEY=TYPE:VALUE, KEY=[TYPE]:LIST, such as K=uint32:5, K=[int32]:[1,2]",
    )
    parser.add_argument("--unset", action="append", default=[], metavar="KEY", help="remove it")
    parser.add_argument("--rename", action="append", default=[], metavar="OLD=NEW", help="call it otherwise")
    parser.add_argument(
        "--set-file",
        action="append",
        default=[],
        metavar="KEY=PATH",
        help="what is in a file, such as tokenizer.chat_template=template.jinja",
    )
    parser.add_argument("-o", "--out", metavar="OUT", help="write a copy (default: FILE itself is changed)")
    parser.add_argument("--overwrite", action="store_true", help="replace OUT")
    parser.add_argument("--force", action="store_true", help="also to another type than the key has")
    parser.add_argument("--dry-run", action="store_true", help="say what would change, write nothing")
    parser.add_argument("--json", action="store_true", help="one JSON document")


def run(args: argparse.Namespace) -> int:
    from gguflike.container import open as open_file
    from gguflike.edit import edit, known_type, value_of

    if not (args.set or args.unset or args.rename or args.set_file):
        raise UsageError("nothing to change: give --set, --unset, --rename or --set-file")
    if args.overwrite and args.out is None:
        raise UsageError("--overwrite is of the copy that --out writes")
    if twice := next((key for key in args.unset if args.unset.count(key) > 1), None):
        raise UsageError(f"{twice} is given twice")
    with open_file(args.file) as file:
        values = {key: value_of(text, key, known_type(key, file)) for key, text in _pairs(args.set, "--set KEY=VALUE")}
    for key, path in _pairs(args.set_file, "--set-file KEY=PATH"):
        if key in values:
            raise UsageError(f"{key} is set twice")
        try:
            values[key] = _read(path).decode()
        except UnicodeDecodeError:
            raise UsageError(f"{path}: not UTF-8 text") from None
    result = edit(
        args.file,
        args.out,
        values=values,
        unset=args.unset,
        rename=dict(_pairs(args.rename, "--rename OLD=NEW")),
        force=args.force,
        overwrite=args.overwrite,
        dry_run=args.dry_run,
    )
    if args.json:
        print_json(_document(result, args.dry_run))
    else:
        _print(result, args.dry_run)
    return 0


def _read(path: str) -> bytes:
    """What is in a file, or comes from a pipe. UsageError where it is more than a header holds: a device has no end."""
    from gguflike.container.layout import MAX_HEADER_BYTES

    pieces, count = [], 0
    with open(path, "rb") as file:  # noqa: PTH123 - the empty name is no folder
        while piece := file.read(1 << 20):
            pieces.append(piece)
            count += len(piece)
            if count > MAX_HEADER_BYTES:
                raise UsageError(f"{path}: larger than any header: more than {MAX_HEADER_BYTES:,} bytes")
    return b"".join(pieces)


def _pairs(given: Iterable[str], usage: str) -> list[tuple[str, str]]:
    """(before, behind) the first "=" of each. UsageError where there is none, or a key comes twice."""
    found: list[tuple[str, str]] = []
    for text in given:
        key, sign, value = text.partition("=")
        if not sign or not key:
            raise UsageError(f"not {usage}: {text!r}")
        if key in [earlier for earlier, _ in found]:
            raise UsageError(f"{key} is given twice")
        found.append((key, value))
    return found


def _document(result: Edited, dry_run: bool) -> dict[str, Any]:
    return {
        "file": result.path,
        "out": result.out,
        "dry_run": dry_run,
        "changes": [
            {"key": each.key, "old": _plain(each.old), "new": _plain(each.new), "renamed": each.renamed}
            for each in result.changes
        ],
        "notices": list(result.notices),
        "header_bytes": result.header_bytes,
        "file_bytes": result.file_bytes,
        "keeps_place": result.keeps_place,
        "shares": result.shares,
    }


def _plain(value: Typed | None) -> Any:
    """A value as `inspect --key` has it in JSON, all of it; None where there is none."""
    from gguflike.inspect.description import listed

    return None if value is None else listed(value, longest=sys.maxsize)


def _print(result: Edited, dry_run: bool) -> None:
    for change in result.changes:
        tell(_line(change))
    for notice in result.notices:
        tell(f"note: {clean(notice)}")
    if not result.changes and result.out == result.path:
        print("nothing changes")
        return
    shared = ", its data shared with the old file's blocks" if result.shares else ""
    tell(f"{'would write' if dry_run else 'wrote'} {clean(result.out)} ({size(result.file_bytes)}){shared}")


def _line(change: Change) -> str:
    key = named(change.key)
    if change.renamed is not None:
        return f"{named(change.renamed)} is now {key}"
    if change.new is None:
        return f"{key}: {_shown(change.old)} is gone"
    if change.old is None:
        return f"{key} = {_shown(change.new)}, which is new"
    return f"{key} = {_shown(change.new)}, was {_shown(change.old)}"


def _shown(value: Typed | None) -> str:
    assert value is not None
    found = _plain(value)
    if value.item_type is not None:
        return f"{len(found)} x {value.item_type.name.lower()} {clean(str(found), SHOWN)}"
    return clean(repr(found), SHOWN)
