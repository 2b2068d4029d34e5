"""Passes of several sequences: each computes, to the bit, what it computes alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gguflike.kernels.attention.args import ATTENTION, ATTENTION_EACH, ATTENTION_ONE, MERGE, STORE_KV
from gguflike.kernels.attention.general_args import (
    EVERYWHERE,
    GENERAL,
    GENERAL_EACH,
    GENERAL_MERGE,
    GENERAL_ONE,
)
from gguflike.kernels.attention.sizes import ATTENTION_KEYS, part_bytes
from gguflike.kernels.engine.args import float_bits
from gguflike.kernels.engine.memory import ROW_TYPE
from gguflike.kernels.engine.program import Program, Team

KV_HEADS, N_HEAD, HEADS, DIM, SLOTS = 2, 6, 3, 32, 4
SPAN = 16  # less than the longest run
RUNS = [(2, 130, 1), (0, 5, 40), (3, 0, 1), (1, 290, 2)]  # slot, position, rows
POSITIONS = 320
BYTES = {"f16": np.float16, "f32": np.float32, "q8_0": np.int8}


@pytest.fixture(scope="module")
def team() -> Team:
    return Team(2)


def at(array: np.ndarray | None) -> int:
    return 0 if array is None else int(array.ctypes.data)


def rows_of(runs: list[tuple[int, int, int]]) -> np.ndarray:
    rows = np.zeros(sum(count for _, _, count in runs), ROW_TYPE)
    first = 0
    for slot, position, count in runs:
        run = rows[first : first + count]
        run["slot"], run["position"], run["first"], run["run"] = (
            slot,
            np.arange(position, position + count),
            first,
            count,
        )
        first += count
    return rows


class Pass:
    """One pass of attention over caches of its own, of the slots given."""

    def __init__(self, kind: str, cache_type: str, slots: list[int]) -> None:
        rng = np.random.default_rng(7)
        context = 256 if kind == "general" else POSITIONS  # a ring
        shape = SLOTS, KV_HEADS, context * DIM
        self.kind, self.cache_type = kind, cache_type
        if cache_type == "q8_0":
            data = [rng.integers(-127, 128, shape).astype(np.int8) for _ in range(2)]
            scales = [rng.uniform(0.005, 0.01, (SLOTS, KV_HEADS, context)).astype(np.float16) for _ in range(2)]
        else:
            data, scales = [rng.standard_normal(shape).astype(BYTES[cache_type]) for _ in range(2)], []
        self.cache = [np.ascontiguousarray(array[slots]) for array in (*data, *scales)]
        keys, values, key_scales, value_scales = [*self.cache, None, None][:4]
        seen = {"back": 99, "ahead": 0, "chunk": EVERYWHERE}
        self.sinks = rng.standard_normal(N_HEAD).astype(np.float32)
        self.seen: dict[str, Any] = {**seen, "sinks": at(self.sinks)} if kind == "general" else {}
        self.changed = {**self.seen, "cap": float_bits(20.0)} if kind == "general" else {}
        self.cos_sin = rng.standard_normal((POSITIONS, 2, DIM), np.float32)
        self.words = {
            **{"cos_sin": at(self.cos_sin), "n_rot": DIM, "neox": 1, "keys": at(keys), "values": at(values)},
            **{"key_scales": at(key_scales), "value_scales": at(value_scales)},
            **{"n_head_kv": KV_HEADS, "head_dim": DIM, "context": context},
        }

    def run(self, team: Team, runs: list[tuple[int, int, int]], chosen: slice, how: str) -> np.ndarray:
        """What the rows find: ``how`` is "together", "alone" or "one"; ``chosen`` are those of the inputs."""
        rng = np.random.default_rng(3)
        total = sum(count for _, _, count in RUNS)
        k, v = (rng.standard_normal((total, KV_HEADS, DIM), np.float32)[chosen].copy() for _ in range(2))
        q = rng.standard_normal((total, N_HEAD, DIM), np.float32)[chosen].copy()
        rows, tokens = rows_of(runs), len(q)
        out, parts = np.full(q.shape, np.nan, np.float32), np.zeros(4 * N_HEAD * part_bytes(1, DIM), np.uint8)
        store = {**self.words, "rows": at(rows), "k": at(k), "v": at(v)}
        asked = {**store, "q": at(q), "n_head": N_HEAD, "heads": HEADS, "scale": float_bits(0.2), **self.changed}
        result = {"out": at(out), "codes": 0, "scales": 0, "sums": 0}
        general, program, groups = self.kind == "general", Program(), N_HEAD // HEADS
        name = f"attention.{self.kind}:"
        if how == "one":
            words = (GENERAL_ONE if general else ATTENTION_ONE).pack(
                **asked, parts=at(parts), **({"stores": 1} if general else {})
            )
            program.add(f"{name}{self.cache_type}_{HEADS}", words, items=groups, per_keys=ATTENTION_KEYS)
            shape = {"parts": at(parts), "heads": HEADS, "n_head": N_HEAD, "head_dim": DIM, **self.seen}
            program.add(f"{name}merge", (GENERAL_MERGE if general else MERGE).pack(**shape, **result), items=groups)
        else:
            place = name if general else "attention.rope:"
            program.add(f"{place}store_{self.cache_type}", STORE_KV.pack(**store), items=1, per_tokens=1)
            together = how == "together"
            if together:
                words = (GENERAL_EACH if general else ATTENTION_EACH).pack(**asked, **result)
                program.add(f"{name}each_{self.cache_type}_{HEADS}", words, items=groups, per_tokens=1)
            words = (GENERAL if general else ATTENTION).pack(**asked, span=SPAN, least=1 + together, **result)
            settings = {"items": groups * SPAN, "per_tokens": SPAN, "barrier": not together}
            program.add(f"{name}{self.cache_type}", words, **settings)
        team.run(program.link(), tokens, int(rows["position"][0]))
        return out


@pytest.mark.parametrize("kind", ["causal", "general"])
@pytest.mark.parametrize("cache_type", ["f16", "f32", "q8_0"])
def test_attention_of_a_sequence_does_not_depend_on_others(team: Team, kind: str, cache_type: str) -> None:
    shared = Pass(kind, cache_type, list(range(SLOTS)))
    before = [array.copy() for array in shared.cache]
    found = shared.run(team, RUNS, slice(None), "together")
    assert np.isfinite(found).all()
    first = 0
    for slot, position, count in RUNS:
        chosen = slice(first, first + count)
        for how in ("alone", "one")[: 2 if count == 1 else 1]:
            alone = Pass(kind, cache_type, [slot])
            assert np.array_equal(alone.run(team, [(0, position, count)], chosen, how), found[chosen]), (slot, how)
            for ours, theirs in zip(alone.cache, shared.cache, strict=True):
                assert np.array_equal(ours[0], theirs[slot])
        first += count
        assert not np.array_equal(shared.cache[0][slot], before[0][slot])  # something was stored
