"""JSON of others: a value, or a ValueError."""

from __future__ import annotations

import json
import math

import pytest

from gguflike.jsontext import first, parsed

NONE = ["", "{", "NaN", '{"a": NaN}', "[Infinity]", "-Infinity", "1e999", "[-1e999]", "[" * 100_000, "9" * 5000, "'a'"]


@pytest.mark.parametrize("text", NONE, ids=[text[:20] for text in NONE])
def test_what_is_none(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parsed(text)
    with pytest.raises(ValueError, match=r"."):
        first(f"  {text}", 2)


def test_options_of_files() -> None:
    """The last value of a key that stands twice is as good as the first where nobody minds; a file is refused. Infinity
    is a number where Python wrote the text, NaN nowhere."""
    assert parsed('{"a": 1, "a": 2}') == {"a": 2}
    for settings in ({"unique": True}, {"infinite": True}):
        with pytest.raises(ValueError, match="duplicate key 'a'"):
            parsed('[{"a": 1, "a": 2}]', **settings)
    assert parsed("[-Infinity, Infinity, 1e999]", infinite=True) == [-math.inf, math.inf, math.inf]
    with pytest.raises(ValueError, match="is not JSON"):
        parsed("NaN", infinite=True)
    with pytest.raises(ValueError, match="is beyond"):
        parsed("1e999", unique=True)


@pytest.mark.parametrize("text", ["0", '{"a": [1, -2.5e-3, 1e308, null, true, "\\ud83d\\ude00"]}', "9" * 400])
def test_values_are_those_of_json(text: str) -> None:
    assert parsed(text) == json.loads(text)
    assert first(f"{text} more", 0) == (json.loads(text), len(text))
