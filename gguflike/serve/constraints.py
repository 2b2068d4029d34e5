"""What an answer has to be, as a grammar: JSON by a schema, a call of a tool, or what the request's own grammar says.

What cannot be enforced is refused: an answer is never silently freer than asked.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from gguflike.chat.choice import bound
from gguflike.errors import ArgumentError, ArgumentTypeError, GGUFLikeError
from gguflike.serve.errors import ApiError, refused

if TYPE_CHECKING:
    from gguflike.chat import Prompt
    from gguflike.grammar import Source
    from gguflike.runner import Model
    from gguflike.serve.conversation import Talk

#: What errors of grammars name -> what requests name.
_NAMES = {"schema": "response_format", "tools": "tools", "tool_choice": "tool_choice"}


def constraint(model: Model, prompt: Prompt, talk: Talk) -> Source | None:
    """The grammar of an answer, None where it may be anything. 400 names what asks for what cannot be enforced."""
    strict = any(tool["function"].get("strict") for tool in talk.tools)
    must_call = talk.tool_choice != "none" if strict else talk.tool_choice not in ("auto", "none")
    if talk.grammar is None:
        schema = talk.schema if talk.schema is None else _object(talk.schema)
        choice, parallel = talk.tool_choice, talk.parallel_calls
        return _made(lambda: bound(prompt, model.grammars, choice=choice, schema=schema, parallel=parallel))
    if must_call or talk.schema is not None:
        raise refused("grammar", "cannot be asked for beside response_format, tool_choice or strict tools")
    return constraint_of_text(model, None, talk.grammar)


def constraint_of_text(model: Model, schema: Mapping[str, Any] | None, grammar: str | None) -> Source | None:
    """The same for a text that is no answer to a conversation."""
    if grammar is not None and schema is not None:
        raise refused("grammar", "cannot be asked for beside response_format")
    if grammar is not None:
        return _made(lambda: model.grammars.grammar(grammar))
    return None if schema is None else _made(lambda: model.grammars.json_schema(_object(schema)))


def _object(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """A schema; {} stands for any object."""
    return schema or {"type": "object"}


def _made(make: Callable[[], Source | None]) -> Source | None:
    try:
        return make()
    except (ArgumentError, ArgumentTypeError) as error:
        param = _NAMES.get(error.field or "", error.field or "response_format")
        raise ApiError(400, f"{param}: {_said(error)}", code="unsupported_schema", param=param) from None


def _said(error: GGUFLikeError) -> str:
    return error.what if error.got is None else f"{error.what}: {error.got}"
