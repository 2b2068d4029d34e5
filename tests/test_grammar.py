"""Schemas, expressions and grammars as masks: masks against all texts that there are, and random texts against json."""

from __future__ import annotations

import json
import math
import re
from importlib.metadata import version
from itertools import product
from typing import Any

import numpy as np
import pytest

from gguflike.errors import ArgumentError, ArgumentTypeError
from gguflike.grammar import Following, Grammars
from gguflike.runner.tokenizer import Tokenizer
from tests.small_tokenizers import SPACE, byte_vocabulary, spm_metadata


def byte_level() -> Tokenizer:
    metadata = byte_vocabulary("<|im_end|>", "<|tool|>", "<unk>", user_defined=("<call>", "ab"))
    return Tokenizer(metadata | {"tokenizer.ggml.eos_token_id": 0})


def byte_fallback() -> Tokenizer:
    """Pieces of words, and bytes for the rest. What is read is as it stands: no space is put before it."""
    words = ["a", "b", "ab", "abc", SPACE, SPACE + "a", '{"', '":', "</s>x", "é"]
    return Tokenizer(spm_metadata(words) | {"tokenizer.ggml.add_space_prefix": False})


@pytest.fixture(params=[byte_level, byte_fallback], ids=["bytes", "fallback"])
def tokens(request: pytest.FixtureRequest) -> Tokenizer:
    made: Tokenizer = request.param()
    return made


def grammars(tokens: Tokenizer, more: int = 5) -> Grammars:
    """With a few logits more than there are tokens."""
    return Grammars(tokens, tokens.vocab_size + more)


def allowed(grammar: Following) -> set[int]:
    mask = grammar.mask()
    assert mask is not None
    assert mask.dtype == np.uint32
    return {int(i) for i in np.flatnonzero(np.unpackbits(mask.view(np.uint8), bitorder="little"))}


def followed(grammar: Following, tokens: Tokenizer, seed: int, most: int = 400) -> str:
    """A random text that the masks allow."""
    random, ids = np.random.default_rng(seed), []
    while len(ids) < most and not grammar.finished:
        choices = sorted(allowed(grammar))
        ends = [i for i in choices if i in tokens.eos_ids]
        token = ends[0] if ends and len(ids) > 40 else choices[int(random.integers(len(choices)))]
        grammar.accept(token)
        if token not in tokens.eos_ids:
            ids.append(token)
    return b"".join(tokens.token_bytes(i) for i in ids).decode()


WORDS = {"".join(letters) for count in range(5) for letters in product("abc", repeat=count)}


@pytest.mark.parametrize("pattern", ["ab", "(ab|ac)b?", "a{1,3}", "[ab]c{0,2}", "(a|b)(b|c)(a|c)?"])
def test_masks_are_exactly_what_may_follow(pattern: str, tokens: Tokenizer) -> None:
    """A token may follow if some text of the language goes on with it, and an end token if the text is one.

    Of tokens that stand for the same bytes one is enough, and where only one text may follow, its first token.
    """
    language = {word for word in WORDS if re.fullmatch(pattern, word)}
    made = grammars(tokens).regex(pattern)
    data = tokens.vocabulary_bytes()
    plain = [i for i in range(len(data)) if not tokens.vocabulary.is_special(i) and i not in tokens.eos_ids and data[i]]

    def check(prefix: str, ids: list[int]) -> None:
        grammar = made.start()
        for i in ids:
            grammar.accept(i)
        if grammar.finished:
            assert prefix in language
            assert not any(word.startswith(prefix) and word != prefix for word in language)
            return
        want = {i for i in plain if any(word.encode().startswith(prefix.encode() + data[i]) for word in language)}
        may = allowed(grammar)
        ends = set(tokens.eos_ids) if prefix in language else set()
        assert may & tokens.eos_ids == ends
        may -= ends
        assert may <= want
        rests = {word.removeprefix(prefix) for word in language if word.startswith(prefix)}
        if len(rests) > 1:
            assert {data[i] for i in may} == {data[i] for i in want}
        else:
            assert len(may) == 1
        for i in sorted(may)[:4]:
            check(prefix + data[i].decode(), [*ids, i])

    check("", [])


SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 5},
        "n": {"type": "integer", "minimum": 0, "maximum": 20},
        "kind": {"enum": ["a", "b", None]},
        "list": {"type": "array", "items": {"type": "boolean"}, "maxItems": 2},
    },
    "required": ["name", "n", "kind"],
    "additionalProperties": False,
}


def test_texts_of_a_schema(tokens: Tokenizer) -> None:
    source = grammars(tokens).json_schema(SCHEMA)
    as_text = grammars(tokens).json_schema(json.dumps(SCHEMA))
    assert allowed(as_text.start()) == allowed(source.start())
    for seed in range(25):
        grammar = source.start()
        text = followed(grammar, tokens, seed)
        assert grammar.finished
        value = json.loads(text)
        assert set(value) - {"list"} == {"name", "n", "kind"}
        assert isinstance(value["name"], str)
        assert len(value["name"]) <= 5
        assert type(value["n"]) is int
        assert 0 <= value["n"] <= 20
        assert value["kind"] in ("a", "b", None)
        assert all(type(each) is bool for each in value.get("list", []))
        assert len(value.get("list", [])) <= 2


def test_any_object(tokens: Tokenizer) -> None:
    grammar = grammars(tokens).json_object().start()
    first = {tokens.token_bytes(i)[:1] for i in allowed(grammar)}
    assert first == {b"{"}
    grammar.accept(next(i for i in sorted(allowed(grammar)) if tokens.token_bytes(i) == b"{"))
    assert not {tokens.token_bytes(i)[:1] for i in allowed(grammar)} - set(map(bytes, ([c] for c in b'"} \n\r\t')))


@pytest.mark.skipif(version("llguidance") < "1.9", reason="white space cannot be bounded")
def test_white_space_ends(tokens: Tokenizer) -> None:
    grammar = grammars(tokens).json_schema(SCHEMA).start()
    grammar.accept(next(i for i in range(tokens.vocab_size) if tokens.token_bytes(i) == b"{"))
    space = next(i for i in range(tokens.vocab_size) if tokens.token_bytes(i) == b" ")
    count = 0
    while space in allowed(grammar):
        grammar.accept(space)
        count += 1
    assert 1 < count <= 32


def test_control_tokens_are_never_part_of_a_text(tokens: Tokenizer) -> None:
    """Not even where any text may stand, nor ids that have no text; but end tokens, where it may end."""
    special = {i for i in range(tokens.vocab_size) if tokens.vocabulary.is_special(i)} | set(tokens.eos_ids)
    grammar = grammars(tokens).regex(r"(.|\n)*").start()
    may = allowed(grammar)
    assert may & special == set(tokens.eos_ids)
    assert max(may) < tokens.vocab_size
    nothing = {i for i in range(tokens.vocab_size) if not tokens.token_bytes(i)}
    assert not may & nothing
    inside = grammars(tokens).json_schema({"type": "string"}).start()
    inside.accept(next(i for i in range(tokens.vocab_size) if tokens.token_bytes(i) == b'"'))
    assert not allowed(inside) & special


def test_what_has_to_follow(tokens: Tokenizer) -> None:
    grammar = grammars(tokens).json_schema({"const": {"abcab": 1}}).start()
    ids: list[int] = []
    while not grammar.finished:
        forced = grammar.forced()
        for token in forced or [next(i for i in sorted(allowed(grammar)) if tokens.token_bytes(i).strip())]:
            grammar.accept(token)
            if token not in tokens.eos_ids:
                ids.append(token)
    assert json.loads(b"".join(map(tokens.token_bytes, ids))) == {"abcab": 1}


@pytest.mark.parametrize("text", ['root ::= "ab" ("c" | "b")?', 'start: "ab" ("c" | "b")?'])
def test_grammars_in_both_notations(text: str, tokens: Tokenizer) -> None:
    made = grammars(tokens).grammar(text)
    assert {followed(made.start(), tokens, seed) for seed in range(30)} == {"ab", "abc", "abb"}


@pytest.mark.parametrize("size", [319, 320, 321, 352])
def test_vocabularies_of_any_size(tokens: Tokenizer, size: int) -> None:
    """Also of whole words of bits, where a text may end or go on."""
    assert tokens.vocab_size <= 319
    following = Grammars(tokens, size).regex("a*").start()
    mask = following.mask()
    assert mask is not None
    assert len(mask) == -(-size // 32)
    assert tokens.eos_ids < allowed(following) <= set(range(tokens.vocab_size))


def test_many_texts_of_one_source(tokens: Tokenizer) -> None:
    source = grammars(tokens).regex("abc")
    one, two = source.start(), source.start()
    one.accept(min(allowed(one)))
    assert allowed(one) != allowed(two)
    with pytest.raises(ArgumentError, match=r"does not go on with this token; got \d+"):
        two.accept(next(i for i in range(tokens.vocab_size) if tokens.token_bytes(i) == b"b"))


@pytest.mark.parametrize(
    ("schema", "match"),
    [
        ({"type": "array", "uniqueItems": True}, "schema: cannot be enforced.*uniqueItems"),
        ({"not": {"type": "string"}}, "not"),
        ({"type": "string", "format": "made-up"}, "made-up"),
        ({"type": "string", "pattern": "(?<=a)b"}, "look-around"),
        ({"type": "text"}, "text"),
        ({"$ref": "#/nowhere"}, "nowhere"),
        ({"$ref": "#"}, "schema: cannot be enforced; got nothing can be written that fits it$"),
        ({"maximum": math.inf}, "schema: not a schema: it is not made of JSON values"),
        ({"enum": [{1, 2}]}, "schema: not a schema: it is not made of JSON values"),
        ("{", "schema: not JSON"),
    ],
)
def test_schemas_that_cannot_be_enforced(schema: Any, match: str) -> None:
    with pytest.raises(ArgumentError, match=match):
        grammars(byte_level()).json_schema(schema)


def test_expressions_and_grammars_that_are_none() -> None:
    made = grammars(byte_level())
    for pattern in ("(", "(?=a)b"):
        with pytest.raises(ArgumentError, match="regex: cannot be enforced"):
            made.regex(pattern)
    for text in ("root ::= (", "start: nothing", "", 'root ::= "a'):
        with pytest.raises(ArgumentError, match="grammar"):
            made.grammar(text)
    for wrong in (lambda: made.json_schema([1]), lambda: made.regex(b"a"), lambda: made.grammar(None)):  # type: ignore[arg-type]
        with pytest.raises(ArgumentTypeError):
            wrong()


def test_grammars_of_ours_are_not_told_of() -> None:
    """What somebody reads of a schema is about the schema, not about the grammar that was made of it."""
    with pytest.raises(ArgumentError) as error:
        grammars(byte_level()).lark('%llguidance {}\nstart: r0\nr0: %json {"not": {}}', "schema")
    assert str(error.value) == 'schema: cannot be enforced; got Unimplemented keys: ["not"]'


def test_halves_of_characters_are_question_marks() -> None:
    """As for the tokenizer."""
    made, half = grammars(byte_level()), "\ud800"
    texts = (made.regex(f"[{half}]x"), made.grammar(f'root ::= "{half}x"'), made.lark(f'start: "{half}x"', "tools"))
    for source in texts:
        assert source.start().forced() == byte_level().encode("?x", False)
    assert made.json_schema({"const": half}).start().forced() == byte_level().encode('"?"', False)


def test_a_vocabulary_without_an_end() -> None:
    metadata = byte_vocabulary("<x>")
    del metadata["tokenizer.ggml.eos_token_id"]
    with pytest.raises(ArgumentError, match="no token that ends a text"):
        grammars(Tokenizer(metadata)).regex("a")


def test_fewer_logits_than_tokens() -> None:
    tokens = byte_fallback()
    size = tokens.vocab_size - 3
    made = Grammars(tokens, size).regex("(.|\\n)*").start()
    may = allowed(made)
    assert max(may) < size
    assert may >= set(tokens.eos_ids)


def test_tokens_as_a_grammar_has_them() -> None:
    tokens = byte_level()
    made = grammars(tokens)
    assert made.token("<|tool|>") == "<[1]>"
    assert made.token("<call>") == '"<call>"'
    grammar = made.grammar(f'start: {made.token("<|tool|>")} "a"').start()
    assert allowed(grammar) == {1}
