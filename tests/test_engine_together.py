"""Random requests on one engine, with cancels, drafts and common beginnings: every text is what it is alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gguflike.engine import Engine, Job, Request, Token
from gguflike.runner.sampling import Sampling
from gguflike.runner.weights import Weights
from tests.engines import CONTEXT, MIXERS, Heard, loaded, until

# Types of matrices, of the cache, and how activations are rounded.
TINY = ["Q8_0 f16", "Q8_0 q8_0", "Q8_0 f32", "Q4_0 f16 adaptive", "F16 f16", "F32,Q8_0 f16"]
SETTINGS: list[dict[str, Any]] = [
    {},
    {"temperature": 1.0},
    {"temperature": 2.0, "top_k": 40, "repetition_penalty": 1.2},
    {"temperature": 0.5, "logit_bias": {1: 1e4, 2: 1e4, 3: 1e4}},  # repeats itself
]


def requests(rng: np.random.Generator, count: int) -> list[Request]:
    """Texts of which many begin alike."""
    stems = [rng.integers(0, most, length).tolist() for length, most in ((5, 256), (40, 3), (40, 256), (170, 256))]
    made: list[Request] = []
    for number in range(count):
        stem = stems[rng.integers(len(stems))]
        if number % 4 == 3:  # what was asked before, and more
            stem = made[rng.integers(len(made))].prompt
        begin = stem if number % 4 == 3 else stem[: rng.integers(1, len(stem) + 1)]
        prompt = [*begin, *rng.integers(0, 256, rng.integers(1, 10)).tolist()][: CONTEXT - 30]
        made.append(
            Request(
                prompt,
                int(rng.integers(1, 24)),
                Sampling(**SETTINGS[rng.integers(len(SETTINGS))], seed=number),
                lookup=int(rng.integers(0, 4)) * 2,
                logprobs=None if rng.integers(4) else 2,
                cache=bool(rng.integers(5)),
            )
        )
    return made


@pytest.mark.parametrize("kind", [*TINY, "experts", *MIXERS])
def test_every_text_is_what_it_is_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    model = loaded(tmp_path, kind, monkeypatch)
    rng = np.random.default_rng(len(kind))
    asked = requests(rng, 40)
    with Engine(model, parallel=1, cache_bytes=0) as single:
        alone = []
        for request in asked:
            heard = Heard()
            changes = {"cache": False, "lookup": 0}
            single.submit(Request(**{**request.__dict__, **changes}), heard)
            alone.append(heard.wait())
        assert single.stats().cached_tokens == 0
    for request, want in list(zip(asked, alone, strict=True))[:8]:
        model.forget(0)
        settings = {key: value for key, value in request.sampling.__dict__.items() if key != "order"}
        assert model.generate(request.prompt, request.max_tokens, **settings).result().tokens == want.tokens
    with Engine(model, parallel=4, queue=100, cache_bytes=1 << 20) as engine:
        told: list[Heard] = []
        cancelled = set(rng.choice(len(asked), 6, replace=False).tolist())
        for number, request in enumerate(asked):
            jobs: list[Job] = []

            def then(event: Any, jobs: list[Job] = jobs, number: int = number) -> None:
                if number in cancelled and isinstance(event, Token) and jobs:
                    jobs[0].cancel()

            told.append(Heard(then))
            jobs.append(engine.submit(request, told[-1]))
        for number, (heard, want) in enumerate(zip(told, alone, strict=True)):
            got = heard.wait()
            if number in cancelled:
                assert got.tokens == want.tokens[: len(got.tokens)]
            else:
                assert (got.tokens, got.text) == (want.tokens, want.text), (number, asked[number])
                of_model = [token.logprob for token in heard.of(Token) if token.id is not None]
                assert len(of_model) == len(got.tokens)
        until(lambda: engine.stats().done + engine.stats().cancelled == len(asked))
        stats = engine.stats()
    assert stats.rows > 1.5 * stats.steps  # texts did share passes
    assert 0 < stats.cached_tokens < stats.prompt_tokens
    assert stats.drafted > stats.accepted > 0
    assert stats.cache_bytes <= stats.cache_limit


def test_whether_bits_are_the_same_is_asked_when_all_programs_are_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only then it is known which matrices meet tokens one by one: a router in F32 must not cost a cache."""
    monkeypatch.setattr(Weights, "exact", property(lambda self: bool(self._alone)))
    model = loaded(tmp_path, "experts", monkeypatch)
    model.generate([1, 2, 3], 5).result()
    assert model.common_prefix([*model._passes.tokens, 9]) == len(model._passes.tokens) > 3
