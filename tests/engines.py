"""Listeners of an engine, what holds one up, and tiny models of every kind for it to compute with."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gguflike import runner
from gguflike.engine import Engine, Event, Failed, Finished, Prefilled, Request
from gguflike.families.parts import Branch, FeedForward, Rope
from gguflike.families.parts.experts import Experts, Router
from gguflike.families.parts.latent import LatentAttention
from gguflike.families.parts.recurrent import DeltaNet, KimiDelta, Mamba, Mamba2, ShortConv
from gguflike.runner import Generation, Model, buffers, state
from tests import by_hand, tiny_gguf
from tests.by_hand import WIDTH, rms

SECONDS = 60  # a test that waits longer has failed


class Heard:
    """A listener that keeps what it hears, and says when the last has come."""

    def __init__(self, then: Callable[[Event], None] = lambda _: None) -> None:
        self.events: list[Event] = []
        self._then, self._last = then, threading.Event()

    def __call__(self, event: Event) -> None:
        self.events.append(event)
        if isinstance(event, Finished | Failed):
            self._last.set()
        self._then(event)

    def wait(self) -> Generation:
        """The outcome. Raises what the job failed by."""
        assert self._last.wait(SECONDS), self.events
        last = self.events[-1]
        if isinstance(last, Failed):
            raise last.error
        assert isinstance(last, Finished)
        return last.generation

    def of(self, kind: type) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]


def ask(engine: Engine, prompt: Any, max_tokens: int | None = 20, **settings: Any) -> Heard:
    heard = Heard()
    engine.submit(Request(prompt, max_tokens, **settings), heard)
    return heard


def until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.001)


class Gate:
    """A listener that keeps the engine's thread until it is opened: what is asked for meanwhile waits."""

    def __init__(self, engine: Engine, request: Request | None = None, at: type = Prefilled) -> None:
        """It waits at the first event of the kind ``at``."""
        self._open, entered = threading.Event(), threading.Event()

        def hold(event: Event) -> None:
            if isinstance(event, at):
                entered.set()
                assert self._open.wait(SECONDS)

        self.heard = Heard(hold)
        self.job = engine.submit(request or Request([1, 2, 3], 5), self.heard)
        assert entered.wait(SECONDS)

    def open(self) -> None:
        self._open.set()


MIXERS: dict[str, tuple[Any, ...]] = {
    "windows": (by_hand.attention(window=20), by_hand.attention(window=9), by_hand.attention()),
    "general attention": (by_hand.attention(softcap=20.0, sinks=True, q_norm=rms("attn_q_norm", 32)),),
    "recurrent": (
        DeltaNet(WIDTH, 2, 4, 32, 4, rms("ssm_norm", 32)),
        KimiDelta(WIDTH, 4, 32, 4, rms("ssm_norm", 32)),
        Mamba2(WIDTH, 128, 16, 2, 4, 4, rms("ssm_norm", 64, groups=2)),
        Mamba(WIDTH, 96, 16, 4, 4),
        ShortConv(WIDTH, 3),
        by_hand.attention(),
    ),
    "latent": (
        LatentAttention(WIDTH, 4, 0, 32, 32, 16, 32, 0.2, Rope(16, 10000.0, "norm"), rms("attn_kv_a_norm", 32)),
    ),
}

CONTEXT = 256


def loaded(folder: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> Model:
    """A tiny model: two types of a file and its cache, or a key of MIXERS."""
    path = folder / "m.gguf"
    if kind == "windows":  # so that caches are rings
        monkeypatch.setattr(buffers, "BATCH", 64)
        monkeypatch.setattr(state, "BATCH", 64)
    if kind in MIXERS or kind == "experts":
        feed = Experts(WIDTH, 32, 8, 3, Router()) if kind == "experts" else FeedForward(WIDTH, 96)
        mixers = MIXERS.get(kind, (by_hand.attention(),))
        blocks = [(Branch(rms("attn_norm"), mixer), Branch(rms("ffn_norm"), feed)) for mixer in mixers]
        made = by_hand.graph(*blocks)
        by_hand.write(path, made, "Q8_0", attends=1.0)
        return by_hand.load(path, made, monkeypatch, context=CONTEXT)
    weights, cache_type, *activations = kind.split()
    tiny_gguf.write(path, weights, seed=5, n_ctx=CONTEXT)
    return runner.load(path, cache_type=cache_type, threads=2, activations=activations[0] if activations else "dynamic")
