"""Guesses by a draft model change the speed, and no text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gguflike import runner
from gguflike.engine import Engine
from gguflike.engine.drafting import MOST_ROWS
from gguflike.errors import ArgumentError
from gguflike.runner import Model
from gguflike.runner.sampling import Sampling
from tests import tiny_gguf
from tests.engines import ask, loaded, until

PROMPTS = [[10, 20, 30], [7] * 50, [*range(60, 100)], [5, 6], [10, 20, 31]]
SETTINGS: list[dict[str, Any]] = [
    {},
    {"sampling": Sampling(temperature=1.0, seed=4)},
    {"sampling": Sampling(temperature=0.5, seed=4, repetition_penalty=1.3), "lookup": 3},
]


def write(path: Path, **changes: Any) -> Path:
    tiny_gguf.write(path, "Q8_0", n_ctx=128, **changes)
    return path


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return runner.load(write(tmp_path_factory.mktemp("drafts") / "m.gguf", seed=5))


def texts(engine: Engine, settings: dict[str, Any]) -> list[list[int]]:
    heard = [ask(engine, prompt, 30, **settings) for prompt in PROMPTS]
    return [each.wait().tokens for each in heard]


@pytest.mark.parametrize("settings", SETTINGS, ids=["greedy", "sampled", "with lookup"])
@pytest.mark.parametrize("seed", [5, 6], ids=["itself", "another"])
def test_texts_stay_what_they_are(model: Model, tmp_path: Path, seed: int, settings: dict[str, Any]) -> None:
    with Engine(model, parallel=3, queue=9) as engine:
        want = texts(engine, settings | {"lookup": 0})
    changes = {} if seed == 5 else {"n_layer": 1, "n_ff": 64}
    with (
        runner.load(write(tmp_path / "draft.gguf", seed=seed, **changes)) as draft,
        Engine(model, parallel=3, queue=9, draft=draft, draft_tokens=4) as engine,
    ):
        assert texts(engine, settings) == want
        until(lambda: engine.stats().done == len(PROMPTS))
        stats = engine.stats()
    assert stats.drafted > 0
    if seed == 5 and not settings:
        assert stats.accepted == stats.drafted > stats.generated_tokens / 2
        assert stats.steps < stats.generated_tokens / 2
    else:
        assert stats.accepted < stats.drafted
    assert stats.rows - stats.prompt_tokens <= MOST_ROWS * stats.steps


def test_recurrent_models_draft_and_are_drafted_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = loaded(tmp_path, "recurrent", monkeypatch)
    with Engine(model, parallel=2, queue=9) as engine:
        want = texts(engine, SETTINGS[0])
    with Engine(model, parallel=2, queue=9, draft=model) as engine:
        assert texts(engine, SETTINGS[0]) == want
        assert engine.stats().accepted > 0


def test_a_shorter_context_of_the_draft_model_ends_its_guesses(model: Model, tmp_path: Path) -> None:
    prompt = PROMPTS[2]
    with Engine(model, parallel=1) as engine:
        want = ask(engine, prompt, None).wait().tokens
    with (
        runner.load(write(tmp_path / "m.gguf", seed=5), context=64) as draft,
        Engine(model, parallel=1, draft=draft) as engine,
    ):
        result = ask(engine, prompt, None).wait()
        assert result.tokens == want
        assert 0 < result.drafted < len(want)
        draft.close()
        assert ask(engine, prompt, None).wait().tokens == want


def test_another_vocabulary_is_refused(model: Model, tmp_path: Path) -> None:
    with (
        runner.load(write(tmp_path / "m.gguf", n_vocab=310)) as other,
        pytest.raises(ArgumentError, match=r"the draft model has another vocabulary.*300 tokens"),
    ):
        Engine(model, draft=other)
    with pytest.raises(ArgumentError, match="draft_tokens"):
        Engine(model, draft_tokens=0)
