"""What a text may be: --schema and --grammar of ``gguflike run``."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from gguflike.cli.streams import read_file

if TYPE_CHECKING:
    from gguflike.chat import Prompt
    from gguflike.runner import Model


def add_bound_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_mutually_exclusive_group()
    group.add_argument(
        "--schema", metavar="FILE|JSON", help="the text is JSON of this schema: a file, or the schema itself"
    )
    group.add_argument("--grammar", metavar="FILE", help="the text is one of this grammar, in GBNF or Lark")


def bounds_of(args: argparse.Namespace) -> dict[str, Any]:
    """Keyword arguments of ``Model.generate`` that say what the text may be. Errors as of `read_file`."""
    schema, grammar = getattr(args, "schema", None), getattr(args, "grammar", None)
    if schema is not None:
        return {"schema": schema if schema.lstrip().startswith("{") else read_file(schema)}
    return {} if grammar is None else {"grammar": read_file(grammar)}


def bounds_of_answer(model: Model, prompt: Prompt, bounds: dict[str, Any]) -> dict[str, Any]:
    """The same for an answer in a conversation, before which a model may reason."""
    if "schema" not in bounds:
        return bounds
    from gguflike.chat import bound

    source = bound(prompt, model.grammars, schema=bounds["schema"])
    return {} if source is None else {"grammar": source.start()}
