"""Sampling, stop strings, streaming and prompt lookup."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gguflike import runner
from gguflike.errors import ArgumentError, ArgumentTypeError
from gguflike.runner.generate import Generation, StopText
from gguflike.runner.model import Model
from gguflike.runner.speculate import Lookup
from tests import tiny_gguf

# Stop strings


@given(st.text("ab\n", max_size=30), st.lists(st.text("ab\n", max_size=4), max_size=3), st.data())
def test_stop_text_equals_searching_the_whole(text: str, stops: list[str], data: Any) -> None:
    filter_ = StopText(stops)
    out, rest = "", text
    while rest and not filter_.found:
        cut = data.draw(st.integers(1, len(rest)))
        out += filter_.push(rest[:cut])
        rest = rest[cut:]
        assert text.startswith(out)
    if not filter_.found:
        out += filter_.flush()
    # What comes first is decided by where a stop string ends: that is when it is seen.
    ends = [at + len(stop) for stop in stops if stop and (at := text.find(stop)) >= 0]
    if not ends:
        assert out == text
        assert not filter_.found
    else:
        assert filter_.found
        assert out == text[: len(out)]
        assert any(text[len(out) :].startswith(stop) for stop in stops if stop)
        assert not any(stop in out for stop in stops if stop)


def test_text_flows_when_it_cannot_be_a_stop() -> None:
    filter_ = StopText(["\n\nQ:"])
    assert [filter_.push(piece) for piece in ("one", "\n", "two", "\n\n", "Q", "R")] == [
        "one",
        "",
        "\ntwo",
        "",
        "",
        "\n\nQR",
    ]


# Lookup


def test_lookup_proposes_what_followed_before() -> None:
    tokens = [1, 2, 3, 4, 5, 6, 7, 1, 2]
    lookup = Lookup(tokens, 3)
    assert lookup.propose(tokens, 9) == [3, 4, 5]
    assert lookup.propose(tokens, 2) == [3, 4]
    assert lookup.propose(tokens, 0) == []
    tokens += [3, 9]
    assert lookup.propose(tokens, 9) == []
    tokens += [1, 2, 3]  # the ending (1, 2, 3) occurred twice: the later one counts
    assert lookup.propose(tokens, 9) == [9, 1, 2]
    assert Lookup([], 3).propose([], 3) == []


def test_lookup_drafts_as_much_as_was_accepted() -> None:
    """One token more than were accepted of the last draft, twice as many where all were, never more than the limit."""
    tokens = [*range(20), 99, 0, 1]
    lookup = Lookup(tokens, 8)
    assert lookup.propose(tokens, 99) == list(range(2, 10))
    tokens += [2, 3, 7]  # two accepted, then another
    assert lookup.propose(tokens, 99) == []
    tokens += [0, 1]
    assert lookup.propose(tokens, 99) == [2, 3, 7]
    tokens += [2, 3, 7, 0, 1]  # all of the three
    assert lookup.propose(tokens, 99) == [2, 3, 7, 0, 1]  # six, were there so many
    tokens += [50, 0, 1]  # none
    assert lookup.propose(tokens, 99) == [50]
    tokens += [2, 0, 1]  # none again
    assert lookup.propose(tokens, 99) == [2]
    tokens += [2, 0, 1]
    assert lookup.propose(tokens, 99) == [2, 0]
    tokens += [2, 0, 1]
    assert lookup.propose(tokens, 1) == [2]


def test_lookup_prefers_the_longest_ending() -> None:
    tokens = [1, 2, 3, 4, 50, 51, 9, 3, 4, 60, 61, 8, 1, 2, 3, 4]
    assert Lookup(tokens, 2).propose(tokens, 9) == [50, 51]  # what followed 1, 2, 3, 4, not what last followed 3, 4
    tokens = [7, 1, 2, 3, 4, 50, 0, 6, 1, 2, 3, 4, 60, 0, 7, 1, 2, 3, 4]
    assert Lookup(tokens, 1).propose(tokens, 9) == [60]  # no more than four tokens are compared
    assert Lookup([5, 6, 5], 1).propose([5, 6, 5], 9) == []  # and no fewer than two


# Whole generations


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    path = tmp_path_factory.mktemp("generate") / "m.gguf"
    tiny_gguf.write(path, "F32", seed=5, n_ctx=512)
    return runner.load(path)


class Scripted:
    """Stands for a model that continues any prompt with given tokens."""

    def __init__(self, model: Model, tokens: list[int]) -> None:
        self.tokens, self.model = tokens, model

    def __enter__(self) -> Model:
        start = 3

        def extend(ids: list[int], position: int, all_logits: bool = False, progress: Any = None) -> np.ndarray:
            at = position + len(ids) - start
            rows = np.zeros((1, 300), np.float32)
            rows[0, self.tokens[at] if at < len(self.tokens) else 256] = 1
            return rows

        self.model.extend = extend  # type: ignore[method-assign]
        return self.model

    def __exit__(self, *_: object) -> None:
        del self.model.extend


def test_streams_whole_characters(model: Model) -> None:
    text = "né 漢字 🙂!"
    with Scripted(model, list(text.encode())) as scripted:
        pieces = list(scripted.generate([1, 2, 3], 50))
    assert "".join(piece.text for piece in pieces) == text
    assert [piece.token for piece in pieces] == list(text.encode())
    assert not any("\ufffd" in piece.text for piece in pieces)
    assert [piece.text for piece in pieces[:3]] == ["n", "", "é"]


def test_unfinished_character_ends_as_a_replacement(model: Model) -> None:
    with Scripted(model, list(b"a\xf0\x9f")) as scripted:
        stream = scripted.generate([1, 2, 3], 50)
        assert "".join(piece.text for piece in stream) == "a\ufffd"
        assert stream.result().text == "a\ufffd"
        assert stream.result().finish_reason == "stop"


def test_stop_string_ends_the_text_before_it(model: Model) -> None:
    with Scripted(model, list(b"one two three")) as scripted:
        stream = scripted.generate([1, 2, 3], 50, stop=["w", "tw"])
        assert "".join(piece.text for piece in stream) == "one "
        assert stream.result().finish_reason == "stop"
        assert scripted.generate([1, 2, 3], 50, stop="three").result().text == "one two "
        assert scripted.generate([1, 2, 3], 50, stop=["threes"]).result().text == "one two three"


def test_a_stop_string_in_what_was_held_back_ends_the_text_too(model: Model) -> None:
    with Scripted(model, list(b"a\xf0\x9f")) as scripted:
        result = scripted.generate([1, 2, 3], 3, stop=["\ufffd"]).result()  # "length", but for the stop
    assert (result.text, result.finish_reason, result.stop) == ("a", "stop", "\ufffd")


def test_end_token_is_not_part_of_the_result(model: Model) -> None:
    with Scripted(model, [65, 66, 256, 67]) as scripted:
        result = scripted.generate([1, 2, 3], 50).result()
    assert (result.text, result.tokens, result.finish_reason) == ("AB", [65, 66], "stop")


def test_max_tokens(model: Model) -> None:
    with Scripted(model, [65] * 99) as scripted:
        assert scripted.generate([1, 2, 3], 5).result().tokens == [65] * 5
        assert scripted.generate([1, 2, 3], 0).result().tokens == []


def test_seed_decides_the_sample(model: Model) -> None:
    def sample(seed: int | None) -> list[int]:
        return model.generate([1, 2, 3], 20, temperature=1.5, seed=seed).result().tokens

    assert sample(1) == sample(1)
    assert sample(1) != sample(2)


def test_next_turn_reuses_the_cache(tmp_path: Path) -> None:
    tiny_gguf.write(tmp_path / "m.gguf", "Q8_0", seed=5)
    model = runner.load(tmp_path / "m.gguf")
    first = model.generate([1, 2, 3, 4, 5, 6], 4).result()
    again = model.generate([1, 2, 3, 4, 5, 6, *first.tokens[:3], 9], 4).result()
    assert (first.cached_tokens, again.cached_tokens) == (0, 9)
    fresh = model.logits([1, 2, 3, 4, 5, 6, *first.tokens[:3], 9, *again.tokens])
    assert again.tokens == fresh[9:-1].argmax(1).tolist()


@pytest.mark.parametrize("limit", [1, 4, 10])
def test_lookup_changes_nothing_at_temperature_0(model: Model, limit: int) -> None:
    prompt = [10, 20, 30, 40] * 6
    plain = model.generate(prompt, 60).result()
    quick = model.generate(prompt, 60, lookup=limit).result()
    assert quick.tokens == plain.tokens
    assert quick.text == plain.text
    assert model.generate(prompt, 7, lookup=limit).result().tokens == plain.tokens[:7]


SAMPLED: list[dict[str, Any]] = [
    {},
    {"temperature": 0.7, "seed": 3},
    {"temperature": 1.2, "seed": 4, "repetition_penalty": 1.2, "lookup": 3},
    {"logprobs": 2, "stop": ["\x10"]},
]


@pytest.mark.parametrize("kind", ["F32", "Q8_0"])
@pytest.mark.parametrize("settings", SAMPLED, ids=["greedy", "sampled", "with lookup", "with logprobs"])
def test_a_draft_model_changes_no_text(tmp_path: Path, kind: str, settings: dict[str, Any]) -> None:
    tiny_gguf.write(tmp_path / "m.gguf", kind, seed=5, n_ctx=128)
    tiny_gguf.write(tmp_path / "other.gguf", kind, seed=6, n_ctx=128, n_layer=1, n_ff=64)
    prompt = [10, 20, 30, 40] * 3
    with runner.load(tmp_path / "m.gguf") as model, runner.load(tmp_path / "other.gguf") as other:
        with runner.load(tmp_path / "m.gguf") as twin:
            want = model.generate(prompt, 50, **settings | {"lookup": 0}).result()
            assert want.drafted == 0
            for draft in (twin, other, model):
                made = model.generate(prompt, 50, draft=draft, draft_tokens=4, **settings).result()
                assert (made.tokens, made.text, made.finish_reason) == (want.tokens, want.text, want.finish_reason)
                assert made.logprobs == want.logprobs
                assert 0 <= made.accepted <= made.drafted
                if draft is twin and not settings:
                    assert made.accepted == made.drafted > 30
        with pytest.raises(ArgumentError, match="closed"):
            model.generate(prompt, 50, draft=twin).result()


def test_streams_of_two_models_may_share_a_draft_model(model: Model, tmp_path: Path) -> None:
    tiny_gguf.write(tmp_path / "m.gguf", "Q8_0", seed=6, n_ctx=128)
    prompts = [[10, 20, 30], [7] * 40, [10, 20, 31]]
    with runner.load(tmp_path / "m.gguf") as draft, runner.load(tmp_path / "m.gguf") as second:
        models = [model, second, model]
        want = [each.generate(prompt, 20).result().tokens for each, prompt in zip(models, prompts, strict=True)]
        streams = [each.generate(prompt, 20, draft=draft) for each, prompt in zip(models, prompts, strict=True)]
        for _ in zip(*streams, strict=False):  # in turns
            pass
        assert [stream.result().tokens for stream in streams] == want


def test_what_is_no_draft_model(model: Model, tmp_path: Path) -> None:
    tiny_gguf.write(tmp_path / "m.gguf", n_vocab=310)
    wrong: Any = "m.gguf"
    with pytest.raises(ArgumentTypeError, match="draft: not a model"):
        model.generate([1, 2], draft=wrong)
    with runner.load(tmp_path / "m.gguf") as other, pytest.raises(ArgumentError, match="another vocabulary"):
        model.generate([1, 2], draft=other)


def test_lookup_takes_fewer_passes(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    passes: list[int] = []
    original = Model.extend

    def counted(self: Model, ids: Any, position: int, **options: Any) -> Any:
        passes.append(len(ids))
        return original(self, ids, position, **options)

    monkeypatch.setattr(Model, "extend", counted)
    repeated = model.generate([10, 20, 30, 40] * 6, 100, lookup=8).result().tokens
    assert len(repeated) == 100
    assert len(passes) < 90  # greedy text of a random model falls into a cycle


def test_chat_applies_the_template(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    tiny_gguf.write(path, "F32", template="{% for m in messages %}{{ m.role }}:{{ m.content }}|{% endfor %}")
    with runner.load(path) as model:
        result = model.chat([{"role": "user", "content": "zq"}], 3, temperature=0.0).result()
        assert result.prompt_tokens == len("user:") + 1 + len("|")  # "zq" is one token
        marked = [{"role": "user", "content": "a</s>"}]
        assert model.chat(marked, 1).result().prompt_tokens == len("user:a</s>|")  # what a user types is text
        assert model.chat(marked, 1, special=True).result().prompt_tokens == len("user:a") + 1 + len("|")
        assert model.tokenize("zq") == [257]
        assert model.detokenize([257, 33]) == "zq!"


def test_speeds_leave_out_what_was_not_computed() -> None:
    done = Generation(
        prompt_tokens=30, cached_tokens=10, tokens=[1, 2, 3, 4, 5], prefill_seconds=4.0, decode_seconds=8.0
    )
    assert done.prefill_tokens_per_s == 5.0
    assert done.decode_tokens_per_s == 0.5  # the first token comes with the prompt
    assert (Generation().prefill_tokens_per_s, Generation().decode_tokens_per_s) == (0.0, 0.0)
    assert Generation(decode_seconds=1.0).decode_tokens_per_s == 0.0


def test_a_generation_that_has_not_begun_has_no_speed() -> None:
    nothing = Generation(prompt_tokens=5)
    assert (nothing.prefill_tokens_per_s, nothing.decode_tokens_per_s) == (0.0, 0.0)
