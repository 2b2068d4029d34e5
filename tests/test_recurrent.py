"""Recurrent mixers: the reference against closed forms, the ops of both schedules against the reference, and states
that go back, take turns and are bounded."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gguflike.errors import UnsupportedError
from gguflike.families.parts import Branch, FeedForward, Graph
from gguflike.families.parts.recurrent import DeltaNet, KimiDelta, Mamba, Mamba2, ShortConv
from gguflike.kernels.engine import waiting
from gguflike.reference.formulas import Context, softplus
from gguflike.reference.parts import mix
from gguflike.reference.recurrent import convolve, delta_rule
from gguflike.runner import Model
from gguflike.runner.parts import ops
from gguflike.runner.recurrent import CHECKPOINTS, Recurrent
from tests import by_hand
from tests.by_hand import WIDTH, rms
from tests.measures import relative_error

IDS = [(7 * i * i + 3 * i) % by_hand.TOKENS for i in range(40)]
OTHERS = [(11 * i + 5) % by_hand.TOKENS for i in range(12)]

DELTA = DeltaNet(WIDTH, 2, 4, 32, 4, rms("ssm_norm", 32))
MAMBA2 = Mamba2(WIDTH, 128, 16, 2, 4, 4, rms("ssm_norm", 64, groups=2))
MAMBA = Mamba(WIDTH, 96, 16, 4, 4)
PARTS = {
    "delta": DELTA,
    "delta, one matrix of gates, odd heads": DeltaNet(
        WIDTH, 3, 18, 16, 3, rms("ssm_norm", 16), tiled=False, joint=True
    ),
    "delta, channels": KimiDelta(WIDTH, 4, 32, 4, rms("ssm_norm", 32)),
    "delta, channels, odd heads": KimiDelta(WIDTH, 18, 16, 3, rms("ssm_norm", 16)),
    "short convolution": ShortConv(WIDTH, 3),
    "short convolution, biases": ShortConv(WIDTH, 4, bias=True),
    "mamba 2": MAMBA2,
    "mamba 2, only gated": Mamba2(WIDTH, 96, 24, 1, 3, 2, None, conv_bias=False, bias=True),
    "mamba": MAMBA,
    "mamba, norms": Mamba(
        WIDTH, 64, 5, 7, 4, rms("ssm_dt_norm", 7), rms("ssm_b_norm", 5), rms("ssm_c_norm", 5, weight=False)
    ),
}


def graph(part: Any) -> Graph:
    """Two layers with the part, one with attention."""
    layer = (Branch(rms("attn_norm"), part), Branch(rms("ffn_norm"), FeedForward(WIDTH, 96)))
    return by_hand.graph(layer, by_hand.branches(), layer)


@pytest.mark.parametrize("name", PARTS)
def test_ops_compute_the_reference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    made = graph(PARTS[name])
    weights = by_hand.write(tmp_path / "m.gguf", made)
    want = by_hand.truth(made, weights, IDS)
    with by_hand.load(tmp_path / "m.gguf", made, monkeypatch) as model:
        assert relative_error(model.logits(IDS), want) < 5e-5
        model.forget(0)
        assert relative_error(by_hand.in_pieces(model, IDS, (1, 2, 17, 1, 1)), want) < 5e-5
        model.forget(0)
        assert relative_error(by_hand.token_by_token(model, IDS), want) < 5e-5


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Model:
    """A model of all kinds of layers whose products are exact."""
    mixers = (DELTA, MAMBA2, ShortConv(WIDTH, 3))
    made = by_hand.graph(
        *((Branch(rms("attn_norm"), part), Branch(rms("ffn_norm"), FeedForward(WIDTH, 96))) for part in mixers),
        by_hand.branches(),
    )
    by_hand.write(tmp_path / "m.gguf", made, "Q8_0")
    return by_hand.load(tmp_path / "m.gguf", made, monkeypatch)


def test_one_token_and_many_give_the_same_bits(model: Model) -> None:
    assert model.weights.exact
    want = model.logits(IDS)
    model.forget(0)
    assert np.array_equal(by_hand.token_by_token(model, IDS), want)
    model.forget(0)
    assert np.array_equal(by_hand.in_pieces(model, IDS, (5, 1, 20)), want)


@pytest.mark.parametrize("position", [0, 1, 13, 20, 21, 39])
def test_a_text_goes_on_from_any_earlier_position(model: Model, position: int) -> None:
    want = model.logits([*IDS[:position], *OTHERS])[position:]
    model.forget(0)
    by_hand.in_pieces(model, IDS, (13, 7, 1, 1))
    model.extend(OTHERS, position)  # twice, as a state that was put back must not have been changed
    assert np.array_equal(model.extend(OTHERS, position, all_logits=True), want)


def test_what_a_prompt_left_is_used_again(model: Model) -> None:
    model.extend(IDS[:20], 0)
    for i in range(20, 30):
        model.extend([IDS[i]], i)
    assert model.common_prefix([*IDS[:30], 1]) == 30  # where it stands
    assert model.common_prefix([*IDS[:25], *OTHERS]) == 20  # where the prompt ended
    assert model.common_prefix([*IDS[:15], *OTHERS]) == 0
    model.forget(20)
    assert model.common_prefix([*IDS[:20], *OTHERS]) == 20


def text(model: Model, prompt: list[int], **settings: Any) -> list[int]:
    return model.generate(prompt, 16, **settings).result().tokens


def test_streams_in_turns_and_guesses_give_the_text_of_each_alone(model: Model) -> None:
    prompts = [IDS[:9], IDS[:9] + OTHERS[:3], OTHERS * 2]
    alone = []
    for prompt in prompts:
        model.forget(0)
        alone.append(text(model, prompt))
    model.forget(0)
    streams = [model.generate(prompt, 16, lookup=4 * (i % 2)) for i, prompt in enumerate(prompts)]
    pieces = [iter(stream) for stream in streams]
    left = list(pieces)
    while left:
        for each in list(left):
            if next(each, None) is None:
                left.remove(each)
            model.logits(OTHERS[:4])  # in between
    assert [stream.generation.tokens for stream in streams] == alone
    for prompt, want in zip(prompts, alone, strict=True):
        assert text(model, prompt, lookup=6) == want


def test_an_interrupt_leaves_nothing_behind(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C where threads wait in Python: the pass that it stops must not go on in a state that was cleared."""
    monkeypatch.setenv(waiting.VARIABLE, "python")
    want = model.logits(IDS)
    model._passes.team.close()  # its threads come back, and wait in Python

    def interrupted(thread: int) -> None:
        raise KeyboardInterrupt

    for ids, position in ((IDS[:1], 0), (IDS, 0), (OTHERS, 7)):
        model.logits(IDS[:7])
        team = model._passes.team
        deadline = time.monotonic() + 10
        while not team._team["blocks"][0]["asleep"][1] and time.monotonic() < deadline:
            time.sleep(0.001)
        with monkeypatch.context() as patched:
            patched.setattr(team._waiting, "post", interrupted)
            with pytest.raises(KeyboardInterrupt):
                model.extend(ids, position)
        assert np.array_equal(model.logits(IDS), want)


def test_a_state_keeps_few_checkpoints() -> None:
    [state] = Recurrent(4, 16, 32).in_slots(1)
    kept = []
    for start in range(0, 64 * 40, 64):
        state.before(start, 64)
        state.advance(start, 64)
        kept = [position for position in range(64, start + 1, 64) if state.reusable(position) == position]
        assert len(kept) <= CHECKPOINTS
        assert start in [0, *kept]
    gaps = np.diff([0, *kept])
    assert gaps[0] > 4 * gaps[-1]  # the older, the farther apart
    assert state.nbytes == 4 * (3 * 16 + 32) * (1 + CHECKPOINTS)


def test_a_state_goes_back_to_what_it_was() -> None:
    [state] = Recurrent(2, 4, 4).in_slots(1)
    state.before(0, 3)
    state._matrices[:] = 1
    state.advance(0, 3)
    saved = state.save(3)
    state.before(3, 1)  # the pass before was of several tokens
    state._matrices[:] = 2
    state.advance(3, 1)
    assert [state.reusable(n) for n in (0, 2, 3, 4)] == [0, 0, 3, 4]
    state.cut(3)
    assert state._matrices.tolist() == [1] * 4
    state.cut(0)
    assert state._matrices.tolist() == [0] * 4
    assert state.reusable(3) == 0  # another text from now on
    state.restore(saved)
    assert (state._matrices.tolist(), state.reusable(3)) == ([1] * 4, 3)


def test_parts_of_unusable_sizes_are_refused() -> None:
    parts: tuple[Any, ...] = (
        DeltaNet(WIDTH, 2, 4, 24, 4, rms("ssm_norm", 24)),
        Mamba2(WIDTH, 128, 6, 2, 4, 4, None),
        Mamba(WIDTH, 40, 16, 4, 4),
        ShortConv(40, 3),
    )
    for part in parts:
        with pytest.raises(UnsupportedError):
            ops(part).check(part)


# The reference


def test_a_convolution_is_that_of_numpy() -> None:
    rng = np.random.default_rng(0)
    x, weight, bias = rng.standard_normal((9, 3)), rng.standard_normal((3, 4)), rng.standard_normal(3)
    want = [np.convolve(x[:, c], weight[c, ::-1])[:9] + bias[c] for c in range(3)]
    assert np.allclose(convolve({"f.weight": weight, "f.bias": bias}, "f", x), np.transpose(want))


def test_the_delta_rule_replaces_what_a_key_holds() -> None:
    rng = np.random.default_rng(0)
    keys = np.linalg.qr(rng.standard_normal((8, 8)))[0]
    order = [0, 1, 2, 1, 0, 2, 1]
    k, v = keys[order][:, None], rng.standard_normal((7, 1, 8))
    ones = np.ones((7, 1))
    assert np.allclose(delta_rule(k, k, v, ones, ones), v)  # each key reads what was last written under it
    old = np.stack([k[0], k[0], k[1], k[2], k[3], k[4], k[0]])
    assert np.allclose(delta_rule(old, k, v, ones, ones)[[1, 2, 4, 6]], v[[0, 1, 3, 4]])
    halved = delta_rule(old, k, v, np.full((7, 1), 0.5), ones)
    assert np.allclose(halved[1], v[0] / 2)


def test_mamba_2_is_attention_with_decay() -> None:
    """Dao and Gu 2024, section 3: y_t = sum over s of (C_t . B_s) * product of decays behind s * dt_s * x_s."""
    part = Mamba2(8, 16, 4, 1, 2, 1, None, conv_bias=False)
    rng = np.random.default_rng(0)
    weights = {t.role: rng.standard_normal(t.shape) for t in part.tensors() if t.used}
    weights["ssm_a"] = -abs(weights["ssm_a"])
    weights["ssm_out.weight"] = np.eye(16)[:8]
    x = rng.standard_normal((6, 8))
    z, inner, b, c, dt = np.split(x @ weights["ssm_in.weight"].T, [16, 32, 36, 40], axis=1)
    silu = lambda v: v / (1 + np.exp(-v))  # noqa: E731
    taps = weights["ssm_conv1d.weight"][:, 0]
    inner, b, c = silu(inner * taps[:16]), silu(b * taps[16:20]), silu(c * taps[20:])
    dt = softplus(dt + weights["ssm_dt.bias"])
    want = np.zeros((6, 16))
    for head in range(2):
        rows = slice(8 * head, 8 * head + 8)
        total = np.cumsum(dt[:, head] * weights["ssm_a"][head, 0])
        decay = np.tril(np.exp(total[:, None] - total))
        want[:, rows] = (c @ b.T * decay * dt[:, head]) @ inner[:, rows] + weights["ssm_d"][head] * inner[:, rows]
    assert np.allclose(mix(part, weights, x, Context()), (want * silu(z))[:, :8])


def test_mamba_forgets_each_value_at_a_rate_of_its_own() -> None:
    part = Mamba(4, 8, 3, 2, 1)
    rng = np.random.default_rng(0)
    weights = {t.role: rng.standard_normal(t.shape) for t in part.tensors()}
    weights["ssm_a"] = -abs(weights["ssm_a"])
    weights["ssm_out.weight"] = np.eye(8)[:4]
    x = rng.standard_normal((5, 4))
    values, z = np.split(x @ weights["ssm_in.weight"].T, 2, axis=1)
    silu = lambda v: v / (1 + np.exp(-v))  # noqa: E731
    values = silu(values * weights["ssm_conv1d.weight"][:, 0] + weights["ssm_conv1d.bias"])
    dt, b, c = np.split(values @ weights["ssm_x.weight"].T, [2, 5], axis=1)
    dt = softplus(dt @ weights["ssm_dt.weight"].T + weights["ssm_dt.bias"])
    want = values * weights["ssm_d"]
    for t in range(5):
        for s in range(t + 1):
            decay = np.exp(dt[s + 1 : t + 1].sum(0)[:, None] * weights["ssm_a"])
            want[t] += (decay * c[t] * b[s]).sum(1) * dt[s] * values[s]
    assert np.allclose(mix(part, weights, x, Context()), (want * silu(z))[:, :4])
