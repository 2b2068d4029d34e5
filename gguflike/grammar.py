"""What a text may be: a JSON schema, a regular expression, or a grammar, as masks of the tokens that may follow.

llguidance compiles and follows them; it is imported when the first is asked for. What it cannot enforce is an error: a
text is never silently freer than was asked.

    grammars = Grammars(tokenizer, vocab_size)
    source = grammars.json_schema({"type": "object", ...})      checked and compiled
    grammar = source.start()                                    for one text: mask(), accept(token), forced(), finished
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from gguflike import jsontext
from gguflike.errors import ArgumentError, ArgumentTypeError, UnsupportedError, check_text

if TYPE_CHECKING:
    import llguidance
    import numpy.typing as npt

    from gguflike.checkpoint.vocabulary import Vocabulary

#: White space between the parts of JSON, so that a model cannot go on with it for ever. (Before 1.9 it can.)
WHITE_SPACE = r"[ \n\r\t]{0,32}"


class Tokenizer(Protocol):
    """What of a tokenizer is needed here (`gguflike.runner.tokenizer.Tokenizer`)."""

    vocabulary: Vocabulary
    eos_ids: frozenset[int]

    def encode(self, text: str, add_special: bool = True, parse_special: bool = False) -> list[int]: ...
    def vocabulary_bytes(self) -> list[bytes]: ...


class Grammars:
    """Compiles grammars for the tokens of one model. Safe to use from several threads.

    Making the vocabulary ready takes up to a second, at the first grammar.
    """

    def __init__(self, tokenizer: Tokenizer, vocab_size: int) -> None:
        """``vocab_size`` is how many logits the model gives, which may be more than the vocabulary has tokens."""
        self._tokenizer, self._size = tokenizer, vocab_size
        self._lock = threading.Lock()
        self._vocabulary: llguidance.LLTokenizer | None = None
        self._ends = np.zeros(-(-vocab_size // 32), np.uint32)
        self._end = -1

    def json_schema(self, schema: Any) -> Source:
        """JSON that a schema describes, which is an object, or JSON itself.

        ArgumentError where it asks for what cannot be enforced, or is no schema; ArgumentTypeError where it is no
        object.
        """
        return self._compiled("schema", _of_schema(checked_schema(schema)))

    def json_object(self) -> Source:
        """Any object in JSON."""
        return self.json_schema({"type": "object"})

    def regex(self, pattern: str) -> Source:
        """A text that the regular expression matches as a whole. ArgumentError where it is none, or looks around."""
        check_text("regex", pattern)
        from llguidance import LLMatcher

        return self._compiled("regex", LLMatcher.grammar_from_regex(_sound(pattern)))

    def grammar(self, text: str) -> Source:
        """A text that a grammar describes, in llama.cpp's GBNF or in Lark as llguidance has it. ArgumentError where it
        is none."""
        check_text("grammar", text)
        from llguidance import LLMatcher
        from llguidance.gbnf_to_lark import any_to_lark

        try:
            lark = any_to_lark(_sound(text))
        except Exception as error:  # of whatever kind the translator raises
            raise ArgumentError("not a grammar", field="grammar", got=str(error)[:300]) from error
        return self._compiled("grammar", LLMatcher.grammar_from_lark(lark))

    def lark(self, text: str, field: str) -> Source:
        """A text that a grammar in Lark describes, which was made of the argument ``field``. ArgumentError names that
        where it cannot be enforced."""
        from llguidance import LLMatcher

        return self._compiled(field, LLMatcher.grammar_from_lark(_sound(text)))

    def token(self, text: str) -> str:
        """``text`` as Lark has it: the control token of that text, or else a string."""
        index = self._control.get(text)
        return json.dumps(text, ensure_ascii=False) if index is None else f"<[{index}]>"

    @property
    def control(self) -> Iterable[str]:
        """The texts of control tokens, the longest first."""
        return self._control

    @cached_property
    def _control(self) -> Mapping[str, int]:
        return dict(sorted(self._tokenizer.vocabulary.markup.items(), key=lambda pair: -len(pair[0])))

    def _compiled(self, field: str, source: str) -> Source:
        from llguidance import LLMatcher

        matcher = LLMatcher(self._ready(), source, log_level=0)
        if not matcher.is_error():
            matcher.compute_bitmask()  # of some grammars, such as those that go round in circles, only this finds out
        if matcher.is_error():
            raise ArgumentError("cannot be enforced", field=field, got=_why(matcher, ours=field != "grammar"))
        return Source(matcher, self._ends, self._end)

    def _ready(self) -> llguidance.LLTokenizer:
        with self._lock:
            if self._vocabulary is None:
                from llguidance import LLTokenizer, TokenizerWrapper

                tokens = _Tokens(self._tokenizer, self._size)
                self._end = tokens.eos_token_id
                for index in tokens.ends:
                    self._ends[index >> 5] |= np.uint32(1 << (index & 31))
                self._vocabulary = LLTokenizer(TokenizerWrapper(tokens), n_vocab=self._size)
            return self._vocabulary


class _Tokens:
    """A vocabulary as llguidance reads one."""

    def __init__(self, tokenizer: Tokenizer, size: int) -> None:
        """ArgumentError where no token ends a text, since nothing could then end one that is complete."""
        vocabulary, ends = tokenizer.vocabulary, sorted(i for i in tokenizer.eos_ids if i < size)
        if not ends:
            raise ArgumentError(
                "the vocabulary has no token that ends a text, so no grammar can be enforced",
                expected="tokenizer.ggml.eos_token_id, or another end token",
                remedy="set it with `gguflike edit`, if the model has been trained with one",
            )
        self.ends, self.eos_token_id = ends, ends[0]
        self.bos_token_id = None
        data = tokenizer.vocabulary_bytes()[:size]
        special = {i for i in vocabulary.added_ids() if i < size and vocabulary.is_special(i)} | set(ends)
        # Ids without a text, which nothing may choose: those behind the vocabulary, and unused ones.
        data += [b""] * (size - len(data))
        empty = [i for i, text in enumerate(data) if not text]
        for index in empty:
            data[index] = f"<[unused {index}]>".encode()
        self.tokens = data
        self.special_token_ids = sorted(special | set(empty))
        self._encode = tokenizer.encode

    def __call__(self, text: bytes | str) -> list[int]:
        words = text.decode("utf-8", "replace") if isinstance(text, bytes) else text
        return self._encode(words, False, False)


class Source:
    """A grammar that is compiled, of which ``start`` begins as many texts as are wanted."""

    def __init__(self, matcher: llguidance.LLMatcher, ends: npt.NDArray[np.uint32], end: int) -> None:
        self._matcher, self._ends, self._end = matcher, ends, end

    def start(self) -> Following:
        return Following(self._matcher.deep_copy(), self._ends, self._end)


class Following:
    """A grammar followed along one text: what `runner.sampling.Grammar` says.

    UnsupportedError where a grammar turns out to be too complex to be followed.
    """

    def __init__(self, matcher: llguidance.LLMatcher, ends: npt.NDArray[np.uint32], end: int) -> None:
        self._matcher, self._ends, self._end = matcher, ends, end
        self.finished = False

    def mask(self) -> npt.NDArray[np.uint32] | None:
        """A bit for each token that may follow. Where the text may end, every end token may."""
        # There is a bit more than tokens, which takes a word of its own where these fill their words.
        mask = np.frombuffer(self._matcher.compute_bitmask(), np.uint32)[: len(self._ends)]
        self._check()
        if int(mask[self._end >> 5]) >> (self._end & 31) & 1:
            mask = mask | self._ends
        return mask

    def accept(self, token: int) -> None:
        """Follow the text by one token. ArgumentError where the grammar does not go on with it."""
        if int(self._ends[token >> 5]) >> (token & 31) & 1:
            self.finished = True  # the text is over
            return
        if not self._matcher.consume_token(token):
            raise ArgumentError("the grammar does not go on with this token", got=f"{token}: {_why(self._matcher)}")
        self.finished = self._matcher.is_stopped()
        self._check()

    def forced(self) -> list[int]:
        """The tokens that follow in any case."""
        return [] if self.finished else list(self._matcher.compute_ff_tokens())

    def _check(self) -> None:
        if self._matcher.is_error():
            raise UnsupportedError("the grammar cannot be followed any further", got=_why(self._matcher))


def checked_schema(schema: Any) -> dict[str, Any]:
    """A schema, which is an object or JSON, as an object of its own. ArgumentTypeError where it is neither,
    ArgumentError where it is no JSON."""
    if isinstance(schema, str):
        try:
            schema = jsontext.parsed(schema)
        except ValueError as error:
            raise ArgumentError("not JSON", field="schema", got=str(error)) from error
    if not isinstance(schema, Mapping):
        expected = "a JSON schema: an object"
        raise ArgumentTypeError("not a schema", field="schema", expected=expected, got=repr(schema)[:60])
    try:
        return dict(jsontext.parsed(_sound(json.dumps(schema, ensure_ascii=False))))
    except (TypeError, ValueError, RecursionError) as error:  # in Python there are other values than in JSON
        raise ArgumentError("not a schema: it is not made of JSON values", field="schema", got=str(error)) from error


def _of_schema(schema: dict[str, Any]) -> str:
    """A schema as llguidance reads it, with white space between parts that ends."""
    from llguidance import LLMatcher

    return LLMatcher.grammar_from_json_schema(schema, overrides={"whitespace_pattern": WHITE_SPACE})


def _sound(text: str) -> str:
    """A text that UTF-8 can hold, as the tokenizer reads it: "?" stands for half of a surrogate pair."""
    return text.encode("utf-8", "replace").decode()


#: Where in a grammar something is wrong: before the words that say what, and in the lines behind them.
_PLACE, _LINES = re.compile(r"at \d+\(\d+\): (failed to compile JSON schema: )?"), re.compile(r"\n +\d+ \| ")


def _why(matcher: llguidance.LLMatcher, *, ours: bool = False) -> str:
    """What is wrong. ``ours``: nobody else has seen the grammar, so nothing is said of its lines."""
    text = matcher.get_error().partition("<state>")[0]
    if ours:
        text = _LINES.split(_PLACE.sub("", text, count=1))[0]
    said = " ".join(text.split())[:300]
    return "nothing can be written that fits it" if said == "NoExtensionBias" else said
