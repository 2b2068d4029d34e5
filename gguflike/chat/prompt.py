"""A conversation to the token ids of a prompt.

A template writes its markup and the texts of messages into one string, in which control tokens have to be found, but
only those of the template: "<|im_end|>" in what a user typed is text. So a mark, a character that occurs nowhere else,
is put before each control token's text in messages and tools. Templates copy it along. A prompt without marks is
encoded as a whole; in another, control tokens without a mark are tokens, and what is between them is encoded as text.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from gguflike.chat.formats import TOLD, Format, format_of
from gguflike.chat.harmony import ChannelReader
from gguflike.chat.messages import normalized, normalized_tools
from gguflike.chat.reading import Reader
from gguflike.chat.shape import Shape, shape_of, shaped
from gguflike.chat.template import FIELD, render
from gguflike.errors import ArgumentError, TemplateError
from gguflike.frozen import frozen

if TYPE_CHECKING:
    from gguflike.checkpoint.vocabulary import Vocabulary


class Tokenizer(Protocol):
    """What of a tokenizer is needed here (`gguflike.runner.tokenizer.Tokenizer`)."""

    vocabulary: Vocabulary

    @property
    def chat_templates(self) -> dict[str, str]: ...

    def encode(self, text: str, add_special: bool = True, parse_special: bool = False) -> list[int]: ...


@frozen
class Prompt:
    """A conversation as a model reads it: ``ids``, and the ``text`` that the template made.

    ``form`` is how the model writes what it answers; ``reader`` reads it. For that the text of the answer has to hold
    the control tokens ``shown``, which a text has not otherwise. ``tools`` are those that it may call, normalized.
    """

    ids: tuple[int, ...]
    text: str
    form: Format
    tools: tuple[dict[str, Any], ...]
    shown: frozenset[int]

    @property
    def in_reasoning(self) -> bool:
        """Whether the prompt ends within reasoning, which the answer continues."""
        reasoning = self.form.reasoning
        return reasoning is not None and self.text.rstrip().endswith(reasoning.begin.rstrip())

    def reader(self) -> Reader | ChannelReader:
        """What reads one answer's text: its answer, its reasoning and its calls."""
        if self.form.channels:
            header, body, _ = self.text.rpartition("<|start|>assistant")[2].partition("<|message|>")
            return ChannelReader(calls=bool(self.tools), header=header + body)
        return Reader(self.form, tools=self.tools, reasoning=self.in_reasoning)


class Chat:
    """Conversations with the model of one tokenizer. Safe to use from several threads."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._markup: Markup | None = None

    @property
    def has_template(self) -> bool:
        """Whether the file holds a chat template: base models do not."""
        return bool(self._tokenizer.chat_templates)

    def shape(self, name: str = "default") -> Shape:
        """What the template of that name takes. TemplateError as of ``prompt``."""
        texts = special_texts(self._tokenizer.vocabulary)
        return shape_of(self._source(name), texts["bos_token"], texts["eos_token"])

    def prompt(
        self,
        messages: Any,
        *,
        tools: Any = None,
        template: str | None = None,
        variables: Mapping[str, Any] | None = None,
        continue_last: bool = False,
        special: bool = False,
    ) -> Prompt:
        """The prompt for an answer to ``messages``, those of OpenAI's API.

        ``tools`` are functions that the model may call. ``template`` is the name of one in the file (default:
        "tool_use" where there are tools and one of that name, else "default"), ``variables`` what it knows beside the
        conversation, such as ``enable_thinking``. With ``continue_last`` the prompt ends within the last message, which
        the answer continues. Unless ``special``, control tokens' texts in messages, tools and variables are text.

        TemplateError where the file has no such template, or it fails, misbehaves or refuses the conversation;
        ArgumentTypeError and ArgumentError for messages and tools that are none (``messages.normalized``), for a last
        message that cannot be continued, and for variables that are part of the conversation.
        """
        made, functions = normalized(messages), normalized_tools(tools)
        for name in ("messages", "tools"):
            if name in (variables or {}):
                remedy = "leave it out"
                raise ArgumentError(f"{name!r} is said by the conversation", field="variables", remedy=remedy)
        if template is None:
            template = "tool_use" if functions and "tool_use" in self._tokenizer.chat_templates else "default"
        source, shape = self._source(template), self.shape(template)
        mark, end = _unused((source, made, functions, variables))
        if continue_last:
            _open(made, end)
        markup, tools = self._found_markup(), tuple(functions or ())
        texts = special_texts(self._tokenizer.vocabulary)
        form = format_of(source, markup.texts, bool(tools), told=not shape.tools)
        made, functions = shaped(made, functions, shape, form.calls or TOLD)
        if not special:
            own = frozenset(form.markup)
            made = [markup.marked(message, mark, own if message["role"] == "assistant" else ()) for message in made]
            functions = markup.marked(functions, mark)
            variables = {
                name: value if name in texts else markup.marked(value, mark)
                for name, value in (variables or {}).items()
            }
        text = render(
            source,
            {
                **texts,
                "messages": made,
                "tools": functions,
                "documents": None,
                "add_generation_prompt": not continue_last,
                **(variables or {}),
            },
        )
        for character in (mark, end):  # a template may have written JSON in ASCII
            text = text.replace(f"\\u{ord(character):04x}", character)
        if continue_last:
            text, found, _ = text.partition(end)
            if not found:
                raise TemplateError(
                    "the template leaves out the last message, so it cannot be continued",
                    field=FIELD,
                    remedy="end with a message of the user, or give the text as a plain prompt",
                )
        ids = markup.encode(text, mark) if mark in text else self._tokenizer.encode(text, False, True)
        return Prompt(tuple(ids), text.replace(mark, ""), form, tools, markup.shown(form))

    def _source(self, name: str) -> str:
        templates = self._tokenizer.chat_templates
        if name not in templates:
            raise TemplateError(
                f"the file holds no chat template {name!r}",
                field=FIELD,
                got=", ".join(templates) or "none",
                remedy="give a plain prompt instead",
            )
        return templates[name]

    def _found_markup(self) -> Markup:
        if self._markup is None:
            self._markup = Markup(self._tokenizer)
        return self._markup


def special_texts(vocabulary: Vocabulary) -> dict[str, str]:
    """The texts of special tokens by the names that templates know, "" for those that there are not."""
    special, tokens = vocabulary.special, vocabulary.tokens
    roles = ("bos", "eos", "unk", "pad")
    return {f"{role}_token": tokens[special[role]] if role in special else "" for role in roles}


class Markup:
    """The control tokens of a vocabulary, as texts."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self.texts = tokenizer.vocabulary.markup
        longest_first = sorted(self.texts, key=lambda text: (-len(text), text))
        self._pattern = "|".join(map(re.escape, longest_first)) or r"(?!)"
        self._starts = re.compile(f"(?=({self._pattern}))")

    def marked(self, value: Any, mark: str, own: Collection[str] = ()) -> Any:
        """``value`` (JSON) with ``mark`` before each control token in the texts of it, but for those of ``own``."""
        if isinstance(value, str):
            return self._starts.sub(lambda match: "" if match[1] in own else mark, value)
        if isinstance(value, Mapping):
            return {self.marked(key, mark, own): self.marked(item, mark, own) for key, item in value.items()}
        if isinstance(value, Sequence) and not isinstance(value, bytes):
            return [self.marked(item, mark, own) for item in value]
        return value

    def shown(self, form: Format) -> frozenset[int]:
        """The control tokens of which the format's markup is made."""
        markup = form.markup
        return frozenset(i for text, i in self.texts.items() if any(text in mark or mark in text for mark in markup))

    def encode(self, text: str, mark: str) -> list[int]:
        """Token ids of a text with marks: control tokens that have none are tokens."""
        ids: list[int] = []
        strips, position, strip_next = self._tokenizer.vocabulary.strips, 0, False
        matches = [*re.finditer(f"(?<!{mark})(?:{self._pattern})", text), None]
        for match in matches:
            piece = text[position : match.start() if match else len(text)].replace(mark, "")
            if strip_next:
                piece = piece.lstrip()
            if match and strips.takes(match[0], "lstrip"):
                piece = piece.rstrip()
            if piece:
                ids += self._tokenizer.encode(piece, False, False)
            if match:
                ids.append(self.texts[match[0]])
                position, strip_next = match.end(), strips.takes(match[0], "rstrip")
        return ids


def _unused(values: Any) -> tuple[str, str]:
    """Two characters for private use that occur nowhere in ``values``."""
    taken = repr(values)
    unused = (c for c in map(chr, range(0xE000, 0xF8FF)) if c not in taken and f"{ord(c):04x}" not in taken)
    return next(unused), next(unused)


def _open(messages: list[dict[str, Any]], end: str) -> None:
    """Put ``end`` where the last message is to be continued."""
    last = messages[-1] if messages else {}
    if last.get("role") != "assistant" or "tool_calls" in last:
        raise ArgumentError(
            "the last message cannot be continued",
            field=f"messages[{len(messages) - 1}]",
            expected="words of the assistant",
            got=f"role {last.get('role')!r}" + (" with calls" if "tool_calls" in last else ""),
        )
    last["content"] += end
