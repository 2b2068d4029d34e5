"""Text to token ids and back, from the metadata of a GGUF file alone.

Encoding is `gguflike.checkpoint.encoder`'s; decoding joins bytes.
"""

from __future__ import annotations

import codecs
from collections.abc import Container, Iterable, Mapping, Set
from functools import cached_property
from typing import Any

from gguflike.checkpoint.encoder import Encoder
from gguflike.checkpoint.pretokenizers import by_name
from gguflike.checkpoint.tokenizer_json import chat_templates
from gguflike.checkpoint.vocabulary import BYTE_CHARACTERS, BYTE_TOKEN, SPACE, TokenType, Vocabulary
from gguflike.errors import (
    ArgumentError,
    ArgumentTypeError,
    TemplateError,
    as_integer,
    check_text,
)


class Tokenizer:
    """The tokenizer stored in a GGUF file. Safe to use from several threads."""

    def __init__(self, metadata: Mapping[str, Any]) -> None:
        """GGUFError or UnsupportedError where the vocabulary is broken or of a kind that is not handled."""
        self.vocabulary = Vocabulary.from_metadata(metadata)
        if self.vocabulary.bytewise:
            by_name(self.vocabulary.pre)  # before a text is given
        self._metadata = metadata
        self.bos_id = self.vocabulary.special.get("bos")
        self.eos_ids = self.vocabulary.end_ids
        self.vocab_size = len(self.vocabulary.texts)
        self._encoder = Encoder(self.vocabulary)
        self._bytes: dict[tuple[int, bool], bytes] = {}  # of the tokens that came, which come again

    @cached_property
    def chat_templates(self) -> dict[str, str]:
        """Jinja source of chat templates by name; the unnamed one is "default". GGUFError, for those who chat,
        where one is no text."""
        return chat_templates(self._metadata)

    def encode(self, text: str, add_special: bool = True, parse_special: bool = False) -> list[int]:
        """Token ids of ``text``.

        ``add_special`` adds BOS and EOS where the file asks for them. Unless ``parse_special``, markup such as
        "<|im_end|>" in the text is text: use it for templates, never for what a user typed. A surrogate that no UTF-8
        can hold becomes "?".
        """
        return self._encoder.encode(_encodable(text), add_special, parse_special)

    def first(self, text: str, count: int) -> list[int]:
        """The first ``count`` of the ids that `encode` gives for ``text``, or all, where there are no more: without
        looking at all of a long one."""
        return self._encoder.first(_encodable(text), count)

    def decode(self, ids: Iterable[int], skip_special: bool = False) -> str:
        """Text of token ids; bytes that are not UTF-8 become U+FFFD. The space that encode put before it is removed."""
        data = b"".join(self.token_bytes(index, skip_special) for index in ids)
        if self._begins_with_space:
            data = data.removeprefix(b" ")
        return data.decode("utf-8", "replace")

    @property
    def _begins_with_space(self) -> bool:
        vocabulary = self.vocabulary
        return vocabulary.model == "bert" or (vocabulary.model in ("llama", "t5") and vocabulary.add_space_prefix)

    def stream(self, skip_special: bool = True, shown: Container[int] = ()) -> StreamDecoder:
        """A decoder for ids that arrive one by one, continuing a text. Special tokens of ``shown`` are not skipped."""
        return StreamDecoder(self, skip_special, shown)

    def token_bytes(self, index: int, skip_special: bool = False) -> bytes:
        """The bytes that one token stands for."""
        known = self._bytes.get((index, skip_special))
        if known is None:
            if not 0 <= index < self.vocab_size:
                raise ArgumentError("no such token", expected=f"an id from 0 to {self.vocab_size - 1}", got=index)
            known = self._bytes_of(index, self.vocabulary.tokens[index], skip_special)
            self._bytes[index, skip_special] = known
        return known

    def vocabulary_bytes(self) -> list[bytes]:
        """The bytes that each token stands for, that of id i at place i."""
        return [self._bytes_of(index, text, False) for index, text in enumerate(self.vocabulary.texts.tolist())]

    def _bytes_of(self, index: int, text: str, skip_special: bool) -> bytes:
        vocabulary = self.vocabulary
        if index in vocabulary.raw:
            return vocabulary.raw[index]
        kind = int(vocabulary.types[index])
        if vocabulary.is_special(index):
            return b"" if skip_special else text.encode()
        if kind == _UNUSED:
            return b""
        if kind == _USER_DEFINED:
            return text.encode()
        if vocabulary.model == "gpt2":
            return self._byte_level(text)
        if kind == _BYTE and (found := BYTE_TOKEN.fullmatch(text)):
            return bytes.fromhex(found[1])
        return text.replace(SPACE, " ").encode()

    def _byte_level(self, text: str) -> bytes:
        try:
            return bytes(map(_BYTES.__getitem__, text))
        except KeyError:  # a word put into the vocabulary by hand
            return text.encode()

    def apply_chat_template(
        self,
        messages: list[dict[str, Any]],
        *,
        add_generation_prompt: bool = True,
        name: str = "default",
        **variables: Any,
    ) -> str:
        """The prompt for a conversation, ``[{"role": ..., "content": ...}, ...]``, as Transformers makes it.

        The template gets the messages as they are, but for what is None in them, and ``tools`` and ``documents``, which
        are None unless they are among ``variables``. Encode the text with ``parse_special=True`` and
        ``add_special=False``: templates write their own BOS. `gguflike.chat.Chat` does more: it gives ids in which
        control tokens of messages are text.

        TemplateError where the file has no such template, or the template fails or misbehaves; ArgumentTypeError where
        ``messages`` is no list of such objects, ArgumentError where one has no role or nothing to say.
        """
        from gguflike.chat.messages import check_messages

        check_messages(messages)
        source = self.chat_templates.get(name)
        if source is None:
            raise TemplateError(
                f"the file holds no chat template {name!r}",
                field="tokenizer.chat_template",
                got=", ".join(self.chat_templates) or "none",
                remedy="give a plain prompt instead",
            )
        from gguflike.chat import prompt, template  # and what it takes to run a child process

        said = [{key: value for key, value in each.items() if value is not None} for each in messages]
        given = {"messages": said, "tools": None, "documents": None, "add_generation_prompt": add_generation_prompt}
        return template.render(source, {**prompt.special_texts(self.vocabulary), **given, **variables})


_UNUSED, _USER_DEFINED, _BYTE = int(TokenType.UNUSED), int(TokenType.USER_DEFINED), int(TokenType.BYTE)
_BYTES = {character: byte for byte, character in enumerate(BYTE_CHARACTERS)}


def _encodable(text: str) -> str:
    """``text`` with "?" for what no UTF-8 can hold. ArgumentTypeError for what is no text."""
    check_text("text", text)
    return text.encode("utf-8", "replace").decode()


def token_ids(ids: Iterable[int], expected: str = "a flat list of integers") -> list[int]:
    """Token ids as a list of int. ArgumentTypeError for text, bytes, and whatever does not hold integers alone."""
    if type(ids) is list and all(type(token) is int for token in ids):
        return ids  # as every generated token comes: nothing else is worth a microsecond
    dtype = getattr(ids, "dtype", None)
    wrong = isinstance(ids, str | bytes | bytearray | memoryview | Mapping | Set) or not isinstance(ids, Iterable)
    if wrong or getattr(ids, "ndim", 1) != 1 or getattr(dtype, "kind", "i") not in "iu":
        shape = f"{dtype} of shape {ids.shape}" if hasattr(ids, "shape") else f"{type(ids).__name__} {repr(ids)[:60]}"
        raise ArgumentTypeError("not token ids", expected=expected, got=shape)
    numbers: list[int] = []
    for token in ids:
        number = as_integer(token)
        if number is None:
            got = f"{type(token).__name__} {repr(token)[:60]}"
            raise ArgumentTypeError(f"item {len(numbers)} is no token id", expected=expected, got=got)
        numbers.append(number)
    return numbers


class StreamDecoder:
    """Text of tokens as they arrive; the bytes of a character are held back until it is complete."""

    def __init__(self, tokenizer: Tokenizer, skip_special: bool, shown: Container[int] = ()) -> None:
        self._tokenizer, self._shown = tokenizer, shown
        self._skip_special = skip_special
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, index: int) -> str:
        """The text that this token completes, which may be empty: that of ids for which only the model has a row."""
        if index >= self._tokenizer.vocab_size:
            return ""
        skip = self._skip_special and index not in self._shown
        return self._decoder.decode(self._tokenizer.token_bytes(index, skip))

    def flush(self) -> str:
        """What is left at the end: U+FFFD for an incomplete character, else nothing."""
        return self._decoder.decode(b"", final=True)
