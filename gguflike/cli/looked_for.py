"""What `inspect` finds in a file by name: metadata, tensors, templates, tokens."""

from __future__ import annotations

import json
import re
import signal
import sys
import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from gguflike.cli.output import LONGEST_NAME, MOST_TEXT, clean, columns, named, table
from gguflike.errors import ArgumentError, GGUFError, did_you_mean

if TYPE_CHECKING:
    from gguflike.container import GGUFFile

SECONDS = 10  # for a regular expression, which may take for ever


def values(file: GGUFFile, pattern: str) -> dict[str, Any]:
    """Metadata whose names the pattern fits, all of it."""
    from gguflike.inspect.description import value

    return {key: value(file, key, whole=True) for key in _named(file, pattern, file.metadata, "metadata")}


def tensors(file: GGUFFile, pattern: str, count: int | None, stats: bool) -> dict[str, Any]:
    """Tensors whose names the pattern fits, with their first ``count`` values, and their statistics."""
    from gguflike.inspect.description import plain, tensor
    from gguflike.inspect.statistics import first_values, statistics

    found = {}
    for name in _named(file, pattern, file.infos, "tensors"):
        found[name] = tensor(file.infos[name])
        if count is not None:
            found[name]["values"] = [plain(value) for value in first_values(file, name, count)]
        if stats:
            found[name]["statistics"] = {key: plain(value) for key, value in statistics(file, name).document().items()}
    return found


def templates(file: GGUFFile) -> dict[str, Any]:
    """The chat templates by their names. GGUFError where there are none."""
    from gguflike.checkpoint.tokenizer_json import chat_templates

    found = chat_templates(file.metadata)
    if not found:
        remedy = "base models have none; `gguflike edit --set-file tokenizer.chat_template=FILE` gives it one"
        raise GGUFError("the file has no chat template", path=file.path, field="tokenizer.chat_template", remedy=remedy)
    return dict(found)


def tokens(file: GGUFFile, pattern: str) -> dict[str, Any]:
    """The tokens, as the file stores them, in which a regular expression occurs: by id their text, type and score.

    ArgumentError for what is no regular expression, and for one that takes more than SECONDS where the system has a
    timer of processes (elsewhere that is looked at between tokens only). GGUFError where there are no tokens.
    """
    from gguflike.checkpoint.vocabulary import SCORES, TOKENS, TYPES, TokenType
    from gguflike.inspect.description import plain

    metadata = file.metadata
    texts = metadata.texts(TOKENS) if TOKENS in metadata else None
    if texts is None:
        raise GGUFError("the file has no vocabulary", path=file.path, field=TOKENS)
    try:
        search = re.compile(pattern).search
    except (re.error, OverflowError, RecursionError) as error:  # the others are of numbers and of nesting
        raise ArgumentError("no regular expression", field="tokens", got=f"{pattern!r}: {error}") from None
    with _limited(pattern):
        found = {index: text for index, text in enumerate(texts.tolist()) if isinstance(text, str) and search(text)}
    columns = {"type": TYPES, "score": SCORES}  # whatever a file has there: what is no type or score is shown as it is
    more = {name: metadata[key] for name, key in columns.items() if key in metadata and metadata.item_type_of(key)}
    names: dict[Any, str] = {int(kind): kind.name.lower() for kind in TokenType}
    document = {}
    for index, text in found.items():
        known = {name: plain(items[index]) for name, items in more.items() if index < len(items)}
        kind = known.get("type")
        if isinstance(kind, int):
            known["type"] = names.get(kind, str(kind))
        document[str(index)] = {"text": text, **known}
    return document


@contextmanager
def _limited(pattern: str) -> Iterator[None]:
    """A block that may take SECONDS: Python looks for signals while it looks for an expression."""
    able = hasattr(signal, "setitimer") and threading.current_thread() is threading.main_thread()
    if not able:
        yield
        return

    def stop(*_: object) -> None:
        raise ArgumentError(
            f"looking for it takes more than {SECONDS} s", field="tokens", got=repr(pattern), remedy="simplify it"
        )

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _named(file: GGUFFile, pattern: str, names: Collection[str], what: str) -> list[str]:
    found = [name for name in names if fnmatchcase(name, pattern)]
    if not found:
        raise GGUFError(f"no such {what}", path=file.path, field=pattern, remedy=did_you_mean(pattern, names))
    return found


# Printing


def print_values(found: dict[str, Any], path: str | None) -> None:
    """Names and values, texts with their lines; of a single one, the value alone. ``path``: the file, if there are
    several."""
    if path is not None:
        print(f"{clean(path)}:")
    for key, value in found.items():
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        most = MOST_TEXT if sys.stdout.isatty() else len(text)
        shown = "\n".join(clean(line) for line in text[:most].split("\n"))
        rest = f"\n… {len(text):,} characters, all of them where this goes into a file" if len(text) > most else ""
        print(shown + rest if len(found) == 1 else f"{named(key)}: {shown}{rest}")


def print_tokens(found: dict[str, Any]) -> None:
    """A line for each token."""
    if not found:
        print("no token fits")
        return
    rows = [
        [index, clean(repr(each["text"]), LONGEST_NAME), _figure(each.get("type", "")), _figure(each.get("score", ""))]
        for index, each in found.items()
    ]
    print(table([["id", "text", "type", "score"], *rows], right=(0, 3)))


def _figure(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else clean(str(value), 20)


def print_tensors(found: dict[str, Any]) -> None:
    """A line for each tensor, or several where values or statistics are there."""
    from gguflike.cli.facts import tensor_list

    print(tensor_list(list(found.values())))
    for name, each in found.items():
        if "values" in each:
            figures = [value if isinstance(value, str) else f"{value:.6g}" for value in each["values"]]
            print(f"\n{named(name)}\n{_lines('  values   ', ', '.join(figures))}")
        if "statistics" in each:
            if "values" not in each:
                print(f"\n{named(name)}")
            print(_statistics(each["statistics"]))


def _lines(label: str, text: str) -> str:
    """A text behind its label, on a terminal in as many lines as it takes."""
    if not sys.stdout.isatty():
        return label + text
    import textwrap

    return textwrap.fill(text, columns(), initial_indent=label, subsequent_indent=" " * len(label))


def _statistics(figures: dict[str, Any]) -> str:
    def shown(value: float | None) -> str:
        return "none" if value is None else f"{value:.5g}"

    rows = [
        ["  range", f"{shown(figures['minimum'])} to {shown(figures['maximum'])}"],
        ["  mean", f"{shown(figures['mean'])}, standard deviation {shown(figures['deviation'])}"],
        ["  zeros", f"{figures['zeros']:,} of {figures['weights']:,}"],
    ]
    if figures["bad"]:
        rows.append(["  NaN, inf", f"{figures['bad']:,}"])
    if figures["scales"]:
        least, middle, most = figures["scales"]
        rows.append(["  scales", f"{least:.4g} to {most:.4g}, median {middle:.4g}, a spread of {most / least:.3g}"])
    if figures["saturated"] is not None:
        rows.append(["  ends", f"{figures['saturated']:.2%} of codes are the least or the largest there is"])
    lines = [table(rows)]
    if figures["minimum"] is not None and figures["maximum"] > figures["minimum"]:
        width = (figures["maximum"] - figures["minimum"]) / len(figures["histogram"])
        most = max(figures["histogram"])
        for number, count in enumerate(figures["histogram"]):
            bar = "#" * max(round(40 * count / most), count > 0)
            lines.append(f"  {figures['minimum'] + number * width:>11.4g}  {bar:<40} {count:>12,}".rstrip())
    return "\n".join(lines)
