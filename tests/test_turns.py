"""Several texts on one model: each is what it is alone, however they take turns, and logits are finite or an error."""

from __future__ import annotations

import gc
import threading
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gguflike import runner
from gguflike.cli import main
from gguflike.errors import ArgumentError, GGUFError
from gguflike.families.rope import frequencies
from gguflike.runner import Piece
from gguflike.runner.model import Model
from gguflike.runner.sampling import Sampler
from gguflike.runner.state import KVCache
from tests import tiny_gguf

PROMPTS = [[10, 20, 30, 40, 50], [10, 20, 31], [7], [*range(60, 100)], [10, 20, 30, 40, 50]]
SETTINGS: list[dict[str, Any]] = [
    {},
    {"temperature": 1.0, "seed": 5},
    {"temperature": 2.0, "top_k": 40, "repetition_penalty": 1.2, "seed": 1},
    {"lookup": 6},
]


@pytest.fixture(scope="module", params=["F16 f16", "Q8_0 f16", "Q8_0 q8_0"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Model:
    kind, cache_type = request.param.split()
    path = tmp_path_factory.mktemp("turns") / "m.gguf"
    tiny_gguf.write(path, kind, seed=5, n_ctx=256)
    return runner.load(path, cache_type=cache_type, threads=2)


def alone(model: Model, settings: dict[str, Any], count: int = 40) -> list[list[int]]:
    """The tokens of each prompt on an empty cache."""
    tokens = []
    for prompt in PROMPTS:
        model.forget(0)
        tokens.append(model.generate(prompt, count, **settings).result().tokens)
    return tokens


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_streams_in_turns(model: Model, settings: dict[str, Any]) -> None:
    want = alone(model, settings)
    streams = [model.generate(prompt, 40, **settings) for prompt in PROMPTS]
    waiting = list(map(iter, streams))
    rng = np.random.default_rng(0)
    while waiting:
        turn = waiting[rng.integers(len(waiting))]
        if next(turn, None) is None:
            waiting.remove(turn)
    assert [stream.generation.tokens for stream in streams] == want


@pytest.mark.parametrize("settings", SETTINGS[:2], ids=str)
def test_other_calls_between_pieces(model: Model, settings: dict[str, Any]) -> None:
    want = alone(model, settings)[0]
    model.forget(0)
    stream = model.generate(PROMPTS[0], 40, **settings)
    for number, _ in enumerate(stream):
        if number % 3 == 0:
            model.logits([1, 2, 3, 4])
        elif number % 3 == 1:
            model.forget(number % 7)
        else:
            model.perplexity(list(range(30)), window=10)
    assert stream.generation.tokens == want


def test_what_was_computed_before_does_not_matter(model: Model) -> None:
    settings = SETTINGS[1]
    want = alone(model, settings)
    for number in (0, 4, 1, 0, 3, 4, 2, 1):
        assert model.generate(PROMPTS[number], 40, **settings).result().tokens == want[number]
    longer = [*PROMPTS[0], *want[0][:20]]
    again = model.generate(longer, 20, temperature=1.0, seed=9).result().tokens
    model.forget(0)
    assert model.generate(longer, 20, temperature=1.0, seed=9).result().tokens == again


def test_the_same_prompt_gives_the_same_logits(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """To the bit, whatever is cached: a seed must not depend on a tie that rounding decides."""
    seen: list[np.ndarray] = []
    original = Sampler.choose

    def recorded(self: Sampler, logits: np.ndarray, mask: Any) -> int:
        seen.append(logits.copy())
        return original(self, logits, mask)

    monkeypatch.setattr(Sampler, "choose", recorded)
    model.forget(0)
    first = model.generate(PROMPTS[3], 8).result()
    longer = [*PROMPTS[3], *first.tokens]
    runs = []
    for prompt in (PROMPTS[3], longer, longer, PROMPTS[3]):
        seen.clear()
        model.generate(prompt, 2).result()
        runs.append(np.array(seen))
    assert np.array_equal(runs[0], runs[3])
    model.forget(0)
    seen.clear()
    model.generate(longer, 2).result()
    assert np.array_equal(runs[1], np.array(seen))
    assert np.array_equal(runs[2], np.array(seen))


def test_a_turn_between_does_not_cost_the_prompt_again(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = iter(model.generate(PROMPTS[3], 10))
    next(stream)
    model.logits([1, 2])
    computed: list[int] = []
    original = Model.extend

    def counted(self: Model, ids: Any, position: int, all_logits: bool = False, progress: Any = None) -> Any:
        computed.append(len(ids))
        return original(self, ids, position, all_logits)

    monkeypatch.setattr(Model, "extend", counted)
    assert len(list(stream)) == 9
    assert computed == [1] * 9


@pytest.mark.parametrize("settings", SETTINGS[:2], ids=str)
def test_threads(model: Model, settings: dict[str, Any]) -> None:
    want = alone(model, settings)
    got: dict[int, list[int]] = {}
    start = threading.Barrier(len(PROMPTS))

    def work(number: int) -> None:
        start.wait()
        got[number] = model.generate(PROMPTS[number], 40, **settings).result().tokens

    threads = [threading.Thread(target=work, args=(number,)) for number in range(len(PROMPTS))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [got[number] for number in range(len(PROMPTS))] == want


def test_a_dropped_stream_costs_nothing(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    gc.disable()  # it goes at once, not at some later time
    try:
        stream = model.generate(PROMPTS[0], 10)
        reference = weakref.ref(stream)
        next(iter(stream))
        del stream
        assert reference() is None
        monkeypatch.setattr(model.states, "save", lambda _: pytest.fail("nobody needs it"))
        assert len(model.generate(PROMPTS[1], 10).result().tokens) == 10
        first: Piece | None = None
        for piece in model.generate(PROMPTS[2], 10):
            first = piece
            break
        assert first is not None
    finally:
        gc.enable()
    model.logits([1, 2, 3])


def test_saved_positions_come_back(model: Model) -> None:
    ids = list(range(100, 137))
    want = model.logits(ids)
    saved = model.states.save(36)
    model.logits([5] * 80)
    model.states.restore(saved)
    model._passes.slots[0].tokens = ids[:36]
    assert np.allclose(model.extend(ids[36:], 36)[0], want[-1], atol=1e-3)
    assert sum(part.nbytes for copy in saved for part in copy) < model.states.nbytes / 4


def test_an_interrupt_between_two_texts_leaves_neither(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a text's keys and values come back, layer by layer, what is held belongs to no text."""
    ids, others = list(range(100, 137)), list(range(200, 250))
    model.forget(0)
    want = model.logits(others)
    model.logits(ids)
    saved = model._passes.save()
    model.logits(others)
    restored: list[Any] = []
    restore = KVCache.restore

    def interrupted(self: KVCache, copy: Any) -> None:
        restored.append(copy)
        if len(restored) > 1:
            raise KeyboardInterrupt
        restore(self, copy)

    with monkeypatch.context() as patched:
        patched.setattr(KVCache, "restore", interrupted)
        with pytest.raises(KeyboardInterrupt):
            model._passes.restore(saved)
    assert model.common_prefix([*others, 1]) == 0
    assert np.array_equal(model.logits(others), want)


def test_a_closed_model(tmp_path: Path) -> None:
    tiny_gguf.write(tmp_path / "m.gguf", "F32")
    with runner.load(tmp_path / "m.gguf") as model:
        stream = iter(model.generate([1, 2], 5))
        next(stream)
    for call in (lambda: next(stream), lambda: model.logits([1]), lambda: model.generate([1]).result()):
        with pytest.raises(ArgumentError, match=r"m\.gguf: the model is closed"):
            call()


# Logits that are not finite


@pytest.fixture(params=["output_norm.weight", "blk.1.ffn_down.weight", "output.weight", "token_embd.weight"])
def damaged(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, str]:
    path, name = tmp_path / "m.gguf", request.param
    _, weights = tiny_gguf.write(path, "F32")
    value = np.inf if name.startswith("blk") else np.nan
    bad = weights[name].copy()
    bad.reshape(-1)[7 if bad.ndim == 1 else 5 * bad.shape[1] + 7] = value
    tiny_gguf.write(path, "F32", drop=name, tensors={name: bad})
    return path, name


def test_no_token_is_chosen_by_nan(damaged: tuple[Path, str], capsys: pytest.CaptureFixture[str]) -> None:
    path, name = damaged
    with runner.load(path) as model:
        calls = [
            lambda: model.logits([5, 5]),
            lambda: model.logits([5]),
            lambda: model.generate([5, 5], 3).result(),
            lambda: model.generate([5], 3, temperature=1.0, seed=1).result(),
            lambda: model.perplexity([5, 5, 5]),
        ]
        for call in calls:
            with pytest.raises(GGUFError, match="logits are NaN or infinite") as caught:
                call()
            assert caught.value.tensor == name
            assert f"gguflike verify {path}" in str(caught.value)
    assert main(["run", str(path), "-p", "\x05\x05", "-n", "3"]) == 1
    assert "gguflike verify" in capsys.readouterr().err


def test_sums_that_overflow_are_said_so(tmp_path: Path) -> None:
    path, name = tmp_path / "m.gguf", "output.weight"
    _, weights = tiny_gguf.write(path, "F32")
    tiny_gguf.write(path, "F32", drop=name, tensors={name: np.full_like(weights[name], 3e38)})
    with runner.load(path) as model, pytest.raises(GGUFError, match="the model overflows") as caught:
        model.generate([1, 2, 3]).result()
    assert caught.value.tensor is None


def test_a_small_tensor_that_is_not_finite_though_the_logits_are(tmp_path: Path) -> None:
    """Divisors of infinity stand still, as NaN in norms of heads or in sinks disappears in the softmax."""
    path, name = tmp_path / "m.gguf", "rope_freqs.weight"
    tiny_gguf.write(path, "F32")
    with runner.load(path) as model:
        [rope] = set(model.graph.ropes())
    divisors = np.full(len(frequencies(rope)[0]), np.inf, np.float32)
    tiny_gguf.write(path, "F32", tensors={name: divisors})
    with runner.load(path) as model, pytest.raises(GGUFError, match="tensor of the model is NaN or infinite") as caught:
        model.logits([5, 5])
    assert caught.value.tensor == name
