"""Many texts on one engine: each is what it is alone, whatever is asked for, taken back or goes wrong beside it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gguflike import runner
from gguflike.engine import Engine, Event, Finished, Full, Job, Prefilled, Queued, Request, Token
from gguflike.engine.pace import LEAST, Pace
from gguflike.errors import ArgumentError, ArgumentTypeError, UnsupportedError
from gguflike.runner import Model
from gguflike.runner.sampling import Sampling
from tests import tiny_gguf
from tests.engines import Gate, Heard, ask, until


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    path = tmp_path_factory.mktemp("engine") / "m.gguf"
    tiny_gguf.write(path, "Q8_0", seed=5, n_ctx=256)
    return runner.load(path, threads=2)


@pytest.fixture
def engine(model: Model) -> Iterator[Engine]:
    with Engine(model, parallel=3, queue=2) as made:
        yield made


@pytest.mark.parametrize("length", [1, 2])
def test_times_are_known_when_a_text_is_told_to_have_ended(engine: Engine, length: int) -> None:
    times: list[float] = []

    def told(event: Event) -> None:
        if isinstance(event, Finished):
            times.extend((event.generation.prefill_seconds, event.generation.decode_seconds))

    heard = Heard(told)
    engine.submit(Request([10, 20, 30], length, ignore_end=True), heard)
    heard.wait()
    until(lambda: times)
    assert times[0] > 0
    assert (times[1] > 0) == (length > 1)


def test_a_text_is_told_as_it_comes(engine: Engine, model: Model) -> None:
    prompt = [10, 20, 30, 40, 50]
    heard = ask(engine, prompt, 12)
    result = heard.wait()
    alone = model.generate(prompt, 12).result()
    assert (result.tokens, result.text, result.finish_reason) == (alone.tokens, alone.text, "length")
    assert [token.id for token in heard.of(Token) if token.id is not None] == result.tokens
    assert "".join(token.text for token in heard.of(Token)) == result.text
    assert heard.of(Prefilled)[-1] == Prefilled(5, 5)
    assert result.prompt_tokens == 5
    assert result.prefill_seconds > 0
    assert result.decode_seconds > 0
    order = [type(event) for event in heard.events]
    assert order.index(Token) > max(i for i, kind in enumerate(order) if kind is Prefilled)
    assert order[-1] is Finished


def test_it_is_told_once_for_each_pass(model: Model) -> None:
    """All that listeners have heard before the next pass, and what comes behind the last one."""
    heard, before = Heard(), []
    with Engine(model, parallel=3, queue=2, told=lambda: before.append(len(heard.events))) as engine:
        engine.submit(Request([1, 2, 3], 5, ignore_end=True), heard)
        heard.wait()
        until(lambda: before[-1:] == [len(heard.events)])
        passes = engine.stats().steps
    new = [count for count, last in zip(before, [0, *before], strict=False) if count > last]
    assert passes == 5
    assert new == [1, 3, 4, 5, 6, len(heard.events)]  # that it begins; that the prompt is read, with a token; tokens


def test_the_queue_is_bounded_and_says_where_one_stands(engine: Engine) -> None:
    gate = Gate(engine)
    waiting = [ask(engine, [7, number], 3) for number in range(4)]  # two begin beside the first
    with pytest.raises(Full, match="at most 2 jobs waiting"):
        ask(engine, [9], 3)
    assert engine.stats().refused == 1
    assert engine.health() > 0
    gate.open()
    for heard in (gate.heard, *waiting):
        heard.wait()
    assert waiting[2].of(Queued)[0] == Queued(0)
    assert waiting[3].of(Queued)[0] == Queued(1)
    assert not waiting[0].of(Queued)
    until(lambda: engine.health() == 0.0)
    assert engine.stats().done == 5


def test_cancelled_while_it_computes_waits_or_is_over(engine: Engine) -> None:
    jobs: list[Job] = []
    heard = Heard(lambda event: jobs[0].cancel() if isinstance(event, Token) else None)
    gate = Gate(engine)
    jobs.append(engine.submit(Request([5, 6], None), heard))
    ask(engine, [1], 2)
    queued = Heard()
    never_begins = engine.submit(Request([5, 6, 7], None), queued)
    never_begins.cancel()
    never_begins.cancel()
    gate.open()
    assert heard.wait().finish_reason == "cancelled"
    assert len([token for token in heard.of(Token) if token.id is not None]) == 1
    assert queued.wait().tokens == []
    assert not queued.of(Prefilled)
    done = gate.heard.wait()
    gate.job.cancel()
    assert done.finish_reason == "length"
    until(lambda: engine.stats().cancelled == 2)


def test_a_listener_that_raises_ends_its_own_job_only(engine: Engine) -> None:
    def fails(event: Event) -> None:
        if isinstance(event, Token):
            raise OSError("gone")

    broken = Heard(fails)
    job = engine.submit(Request([3, 4], 50), broken)
    assert len(ask(engine, [1, 2], 10).wait().tokens) == 10
    until(lambda: engine.stats().failed == 1)
    assert isinstance(job.error, OSError)
    assert len(broken.of(Token)) == 1


def test_logits_that_are_not_finite_fail_one_job(engine: Engine, model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    original = engine._together._passes.together

    def damaged(runs: Any) -> Any:
        pairs = zip(runs, original(runs), strict=True)
        return [np.full_like(rows, np.nan) if 66 in run.ids else rows for run, rows in pairs]

    monkeypatch.setattr(engine._together._passes, "together", damaged)
    bad, good = ask(engine, [66, 1], 10), ask(engine, [1, 2], 10)
    with pytest.raises(Exception, match="NaN or infinite"):
        bad.wait()
    assert len(good.wait().tokens) == 10


def test_wrong_requests_are_errors_at_once(engine: Engine) -> None:
    with pytest.raises(ArgumentError, match="no tokens"):
        ask(engine, [])
    with pytest.raises(ArgumentError, match="vocabulary"):
        ask(engine, [1, 300])
    with pytest.raises(UnsupportedError, match="context"):
        ask(engine, [1] * 257)
    for wrong in ({"max_tokens": -1}, {"lookup": -1}, {"logprobs": -1}):
        with pytest.raises(ArgumentError, match=next(iter(wrong))):
            Request([1], **wrong)  # type: ignore[arg-type]
    with pytest.raises(ArgumentTypeError, match="stop"):
        Request([1], stop=b"x")  # type: ignore[arg-type]
    assert engine.stats().submitted == 0


def test_the_end_is_max_tokens_the_context_a_stop_string_or_an_end_token(engine: Engine, model: Model) -> None:
    assert ask(engine, [1, 2], 0).wait().tokens == []
    full = ask(engine, [1] * 250, None).wait()
    assert (full.finish_reason, len(full.tokens)) == ("context", 6)
    text = ask(engine, [10, 20], 30).wait().text
    stop = text[5:7]
    heard = ask(engine, [10, 20], 30, stop=[stop])
    assert heard.wait().finish_reason == "stop"
    assert "".join(token.text for token in heard.of(Token)) == heard.wait().text == text[: text.index(stop)]
    assert model.tokenizer.eos_ids


def test_a_stop_string_in_what_was_held_back_ends_the_text_too(engine: Engine) -> None:
    """A byte that begins a character is no text until it is told that no more comes."""
    sampling = Sampling(logit_bias={0xC3: 1e6})
    assert ask(engine, [1, 2], 1, sampling=sampling).wait().text == "\ufffd"
    for stop, text, reason in ((["\ufffd"], "", "stop"), (["\ufffd\ufffd"], "\ufffd", "length")):
        result = ask(engine, [1, 2], 1, sampling=sampling, stop=stop).wait()
        assert (result.text, result.finish_reason, result.stop) == (text, reason, stop[0] if reason == "stop" else None)


def test_logprobs_are_those_of_the_model(engine: Engine, model: Model) -> None:
    prompt = [10, 20, 30]
    heard = ask(engine, prompt, 5, logprobs=3)
    tokens = heard.wait().tokens
    rows = model.logits([*prompt, *tokens])[2:-1].astype(np.float64)
    want = rows - rows.max(1, keepdims=True)
    want -= np.log(np.exp(want).sum(1, keepdims=True))
    for told, row in zip(heard.of(Token), want, strict=True):
        assert told.logprob == pytest.approx(row[told.id], abs=1e-4)
        assert list(told.alternatives) == np.argsort(-row)[:3].tolist()


def test_tokens_of_a_stop_string_are_not_told_with_logprobs(model: Model) -> None:
    """Neither those whose text is held back when it turns out to be the stop string's, nor any of their text."""
    bias = dict.fromkeys([97, 98, 99, 32], 100.0)  # the tokens of four bytes: texts that nearly are what is looked for
    asked: dict[str, Any] = {"sampling": Sampling(temperature=1.0, seed=3, logit_bias=bias), "logprobs": 1}
    with Engine(model, parallel=1) as engine:
        whole = ask(engine, [1, 2], 24, **asked).wait()
        stops = {whole.text[at : at + size] for at in range(4, 20) for size in (1, 2, 3)}
        for stop in [*sorted(stops), "never"]:
            heard = ask(engine, [1, 2], 24, stop=[stop], **asked)
            result, told = heard.wait(), heard.of(Token)
            assert (result.text, result.stop) == (whole.text.partition(stop)[0], stop if stop in whole.text else None)
            assert "".join(token.text for token in told) == result.text
            listed = [token.id for token in told if token.id is not None]
            assert listed == result.tokens[: len(result.text)]  # a character is a token here
            assert all(token.logprob is not None for token in told if token.id is not None)


class Alternating:
    """A grammar of tokens 65 and 66 in turns, with 67, 68 after each 66, up to ``length`` tokens."""

    def __init__(self, length: int) -> None:
        self.seen: list[int] = []
        self._length = length

    @property
    def finished(self) -> bool:
        return len(self.seen) >= self._length

    def next(self) -> int:
        return {65: 66, 66: 67, 67: 68}.get(self.seen[-1] if self.seen else 0, 65)

    def mask(self) -> np.ndarray | None:
        mask = np.zeros(10, np.uint32)
        mask[self.next() // 32] = 1 << self.next() % 32
        return mask

    def accept(self, token: int) -> None:
        assert token == self.next()
        self.seen.append(token)

    def forced(self) -> list[int]:
        return [67, 68][: self._length - len(self.seen)] if self.seen[-1] == 66 else []


@pytest.mark.parametrize("logprobs", [None, 1])
@pytest.mark.parametrize("length", [3, 9])
def test_a_grammar_says_what_may_and_what_must_come(engine: Engine, logprobs: int | None, length: int) -> None:
    result = ask(engine, [1, 2], 50, grammar=Alternating(length), logprobs=logprobs).wait()
    assert result.tokens == [65, 66, 67, 68, 65, 66, 67, 68, 65][:length]
    assert result.finish_reason == "stop"


class Failing(Alternating):
    """A grammar that fails, or leaves nothing, after two tokens."""

    def __init__(self, raises: bool) -> None:
        super().__init__(9)
        self._raises = raises

    def mask(self) -> np.ndarray | None:
        if len(self.seen) < 2:
            return super().mask()
        if self._raises:
            raise KeyError("lost")
        return np.zeros(10, np.uint32)

    def forced(self) -> list[int]:
        return []


def test_a_grammar_that_fails_ends_its_own_job_only(engine: Engine) -> None:
    beside = ask(engine, [3, 4], 30, ignore_end=True)
    with pytest.raises(KeyError, match="lost"):
        ask(engine, [1, 2], 50, grammar=Failing(raises=True)).wait()
    with pytest.raises(ArgumentError, match="no token is left"):
        ask(engine, [1, 2], 50, grammar=Failing(raises=False)).wait()
    assert len(beside.wait().tokens) == 30
    until(lambda: (engine.stats().failed, engine.stats().done) == (2, 1))


def test_no_memory_for_a_text_fails_it_only(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(engine._places.kept, "load", lambda *_: exec("raise MemoryError"))
        with pytest.raises(MemoryError):
            ask(engine, [1, 2], 5).wait()
    assert len(ask(engine, [1, 2], 5, ignore_end=True).wait().tokens) == 5
    until(lambda: engine.stats().failed == 1)
    assert len(engine._places._free) == 3


def test_end_tokens_may_be_ruled_out(engine: Engine, monkeypatch: pytest.MonkeyPatch, model: Model) -> None:
    likeliest = ask(engine, [10, 20], 1).wait().tokens[0]
    monkeypatch.setattr(model.tokenizer, "eos_ids", frozenset({likeliest}))
    assert ask(engine, [10, 20], 3).wait().tokens == []
    going_on = ask(engine, [10, 20], 3, ignore_end=True).wait().tokens
    assert len(going_on) == 3
    assert likeliest not in going_on


def test_many_threads_may_ask_at_once(model: Model) -> None:
    with Engine(model, parallel=4, queue=400) as engine:
        heard: list[Heard] = []

        def work(number: int) -> None:
            for each in range(50):
                heard.append(ask(engine, [number, each], each % 3))

        threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for each in heard:
            each.wait()
        until(lambda: engine.stats().done == 200)
    with pytest.raises(ArgumentError, match="parallel"):
        Engine(model, parallel=1000)


def test_closing_fails_what_is_left(model: Model) -> None:
    engine = Engine(model, parallel=1, queue=1)
    gate = Gate(engine)
    waiting = ask(engine, [1], 2)
    closing = threading.Thread(target=engine.close)
    closing.start()
    until(lambda: engine._closing)
    gate.open()
    closing.join()
    for heard in (gate.heard, waiting):
        with pytest.raises(ArgumentError, match="closed"):
            heard.wait()
    with pytest.raises(ArgumentError, match="closed"):
        ask(engine, [1])
    engine.close()


def test_a_closed_model_fails_jobs_and_not_the_engine(tmp_path: Path) -> None:
    tiny_gguf.write(tmp_path / "m.gguf", "Q8_0")
    with Engine(runner.load(tmp_path / "m.gguf")) as engine:
        engine.model.close()
        for _ in range(2):
            with pytest.raises(ArgumentError, match="closed"):
                ask(engine, [1, 2]).wait()
        until(lambda: engine.stats().failed == 2)


def test_pieces_of_prompts_are_short_while_others_wait() -> None:
    pace = Pace(512)
    assert LEAST <= pace.piece(beside=0) < 512  # nothing is known yet
    pace.took(LEAST - 1, 100.0)  # too few to tell
    pace.took(100, 0.1)
    assert (pace.piece(beside=0), pace.piece(beside=3)) == (512, 150)
    for _ in range(50):
        pace.took(64, 6.4)  # a slow model
    assert (pace.piece(beside=0), pace.piece(beside=3)) == (LEAST, LEAST)


def test_short_prompts_overtake_long_ones_which_wait_for_a_while_only(engine: Engine, model: Model) -> None:
    jobs = [Job(number, Request([1] * length), Heard(), model) for number, length in enumerate((200, 10, 30))]
    turns = [[job.id for job in engine._in_turn(jobs)] for _ in range(8)]
    assert turns.count([1, 2, 0]) == 6
    assert turns.count([0, 1, 2]) == 2


def test_decoding_goes_on_beside_a_long_prompt(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine._pace, "piece", lambda **_: LEAST)
    order: list[str] = []
    first = Heard(lambda event: order.append("token") if isinstance(event, Token) else None)
    gate = Gate(engine)
    engine.submit(Request([7], 30, ignore_end=True), first)
    long = Heard(lambda event: order.append("piece") if isinstance(event, Prefilled) else None)
    engine.submit(Request([1] * 200, 1), long)
    gate.open()
    long.wait()
    pieces = [index for index, what in enumerate(order) if what == "piece"]
    assert len(pieces) == 1 + -(-200 // LEAST)
    assert all("token" in order[a:b] for a, b in pairwise(pieces[1:]))
