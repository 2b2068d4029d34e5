"""The general ops between matrix products against their definitions in numpy float64."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from gguflike.families.parts import FeedForward
from gguflike.kernels.engine import native
from gguflike.kernels.engine.args import Args, float_bits
from gguflike.kernels.engine.memory import op_state
from gguflike.kernels.rows.args import CAP, CAPPED, GATE, GATE_Q8, LAYER, NORM, NORM_Q8, PLAIN, RMS
from gguflike.reference.parts import gated

INFINITE = float("inf")
XIELU = (0.7, 0.9, 0.5, -1e-6)
RNG = np.random.default_rng(5)


def run(name: str, args: Args, items: int, **words: Any) -> None:
    """Runs an op over all items. Arrays stand for their addresses, floats for their bits."""
    made = {}
    for key, value in words.items():
        if isinstance(value, np.ndarray):
            made[key] = value.ctypes.data
        else:
            made[key] = float_bits(value) if isinstance(value, float) else value
    packed, state = np.array(args.pack(**made), np.int64), op_state(tokens=items, scratch=0)
    native.call(name)(packed.ctypes.data, state.ctypes.data, 0, items)


def of_int8(codes: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """What int8 activations stand for."""
    return (codes.reshape(-1, 32) * scales.reshape(-1, 1)).reshape(codes.shape)


def int8_arrays(rows: int, columns: int) -> dict[str, np.ndarray]:
    return {
        "codes": np.zeros((rows, columns), np.int8),
        "scales": np.zeros((rows, columns // 32), np.float32),
        "sums": np.zeros((rows, columns // 16), np.int32),
    }


def defined_norm(x: np.ndarray, kind: int, eps: float) -> np.ndarray:
    x = x.astype(np.float64)
    if kind == LAYER:
        x = x - x.mean(-1, keepdims=True)
    return x if kind == PLAIN else x / np.sqrt((x * x).mean(-1, keepdims=True) + eps)


@pytest.mark.parametrize("columns", [1, 15, 16, 32, 100, 173])
@pytest.mark.parametrize("kind", [PLAIN, RMS, LAYER])
def test_norms_of_any_width(columns: int, kind: int) -> None:
    x, added = (RNG.standard_normal((6, columns)).astype(np.float32) + np.float32(3) for _ in range(2))
    weight, bias = RNG.standard_normal((3, columns)).astype(np.float32), RNG.standard_normal(columns).astype(np.float32)
    for weighted, biased, adding in itertools.product((0, 1, 3), (False, True), (False, True)):
        out = np.full((6, columns + 1), 7, np.float32).reshape(-1)  # a float more than the op may write
        run(
            "rows.norms:norm",
            NORM,
            6,
            x=x,
            columns=columns,
            kind=kind,
            weight=weight if weighted else 0,
            bias=bias if biased else 0,
            groups=weighted or 1,
            eps=1e-3,
            scale=0.25,
            added=added if adding else 0,
            out=out,
        )
        want = defined_norm(x, kind, 1e-3)
        if weighted:
            want = want * weight[np.arange(6) % weighted]
        want = (want + bias * biased) * 0.25 + added * np.float64(adding)
        np.testing.assert_allclose(out[: 6 * columns].reshape(6, columns), want, rtol=3e-6, atol=3e-6)
        assert (out[6 * columns :] == 7).all()


@pytest.mark.parametrize("kind", [PLAIN, RMS, LAYER])
def test_norms_as_int8(kind: int) -> None:
    x, weight = (RNG.standard_normal(shape).astype(np.float32) for shape in ((4, 96), (96,)))
    arrays = int8_arrays(4, 96)
    words: dict[str, Any] = {"x": x, "columns": 96, "kind": kind, "weight": weight, "bias": 0, "groups": 1}
    run("rows.norms:norm_q8", NORM_Q8, 4, **words, eps=1e-5, scale=1.0, added=0, **arrays)
    want = defined_norm(x, kind, 1e-5) * weight
    assert np.abs(of_int8(arrays["codes"], arrays["scales"]) - want).max() < np.abs(want).max() / 200
    assert (arrays["sums"] == arrays["codes"].reshape(4, -1, 16).sum(-1)).all()


def gate_words(part: FeedForward, columns: int, gate: np.ndarray, up: np.ndarray | None) -> dict[str, Any]:
    names = dict(zip(("alpha_n", "alpha_p", "beta", "eps"), part.xielu or (0.0,) * 4, strict=True))
    return {
        "gate": gate,
        "gate_stride": gate.strides[0] // 4,
        "up": 0 if up is None else up,
        "up_stride": 0 if up is None else up.strides[0] // 4,
        "columns": columns,
        "limit": part.clamp or INFINITE,
        **names,
    }


SETTINGS = [
    *(("silu", True, 0.0), ("silu", True, 1.5), ("silu", False, 0.0)),
    *((name, is_gated, 0.0) for name in ("gelu", "gelu_tanh", "relu", "relu2") for is_gated in (True, False)),
    *(("sigmoid", True, 0.0), ("softplus", False, 0.0), ("xielu", False, 0.0), ("swiglu_oai", True, 2.0)),
]


@pytest.mark.parametrize(("name", "is_gated", "clamp"), SETTINGS)
def test_gates_equal_the_reference(name: Any, is_gated: bool, clamp: float) -> None:
    columns = 171
    part = FeedForward(8, columns, activation=name, gated=is_gated, clamp=clamp, xielu=XIELU)
    both = np.concatenate([RNG.standard_normal((5, 2 * columns)) * scale for scale in (1e-3, 0.3, 1, 4)])
    both = both.astype(np.float32)
    gate, up = both[:, :columns], both[:, columns:] if is_gated else None
    out = np.zeros((20, columns), np.float32)
    run(f"rows.gates:{name}", GATE, 20 * 6, **gate_words(part, columns, gate, up), out=out)
    gate, up = gate.astype(np.float64), None if up is None else up.astype(np.float64)
    want = gated(part, gate, up) if is_gated else gated(part, None, gate)
    # xielu is a difference that vanishes in places, so it is exact to the size of what is subtracted.
    np.testing.assert_allclose(out, want, rtol=1e-6, atol=1e-6 if name == "xielu" else 3e-8)


def test_gates_as_int8() -> None:
    part = FeedForward(8, 96, activation="gelu_tanh")
    gate, up = (RNG.standard_normal((3, 96)).astype(np.float32) for _ in range(2))
    arrays = int8_arrays(3, 96)
    run("rows.gates:gelu_tanh_q8", GATE_Q8, 9, **gate_words(part, 96, gate, up), **arrays)
    want = gated(part, gate.astype(np.float64), up.astype(np.float64))
    assert np.abs(of_int8(arrays["codes"], arrays["scales"]) - want).max() < np.abs(want).max() / 200
    assert (arrays["sums"] == arrays["codes"].reshape(3, -1, 16).sum(-1)).all()


@pytest.mark.parametrize("cap", [0.0, 2.0])
def test_caps_scale_first(cap: float) -> None:
    columns = 2 * CAPPED + 37
    x = (RNG.standard_normal((3, columns)) * np.array([[1e-3], [1], [20]])).astype(np.float32)
    scaled = x.astype(np.float64) * 0.5
    run("rows.caps:cap", CAP, 3 * 3, x=x, columns=columns, scale=0.5, cap=cap)
    np.testing.assert_allclose(x, np.tanh(scaled / cap) * cap if cap else scaled, rtol=1e-6, atol=1e-9)
