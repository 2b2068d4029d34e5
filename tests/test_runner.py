"""The runner against a forward pass in plain numpy float64, on tiny seeded models."""

from __future__ import annotations

import inspect
import math
import mmap
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gguflike import runner
from gguflike.errors import GGUFError, UnsupportedError
from gguflike.families.parts import Attention, Branch, Embedding, Graph, Head, Norm, Rope, Scaling
from gguflike.families.rope import llama3_factors, scaling_kind
from gguflike.kernels.attention.args import ATTENTION_ONE
from gguflike.kernels.attention.sizes import ATTENTION_KEYS, part_bytes
from gguflike.runner import parts
from gguflike.runner.buffers import Buffers
from gguflike.runner.model import Model
from gguflike.runner.parts.attention import attended
from gguflike.runner.rope import rotation
from gguflike.runner.schedule import OneToken
from gguflike.runner.state import KVCache, default_context, kv_bytes_per_position
from tests import naive_model, tiny_gguf
from tests.measures import relative_error

IDS = [5, 17, 256, 99, 3, 250, 42, 42, 7, 128, 0, 299, 64, 31]


def int8_activations(x: np.ndarray, w: np.ndarray) -> np.ndarray:
    """x @ w.T with the activations rounded as matmul/integer.py says."""
    blocks = x.astype(np.float32).reshape(*x.shape[:-1], -1, 32)
    exact = np.abs(blocks).max(-1, keepdims=True) / np.float32(127)
    scale = (exact.view(np.uint32) + np.uint32(1 << 12) & ~np.uint32((1 << 13) - 1)).view(np.float32)
    rounded = np.rint(blocks / exact).astype(np.float64) * scale
    return rounded.reshape(x.shape) @ w.T


@pytest.fixture(scope="module")
def q8(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("runner") / "q8.gguf"
    tiny_gguf.write(path, "Q8_0")
    return path


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"tied": True},
        {"bias": True},
        {"n_head": 6, "n_head_kv": 2, "head_dim": 16},
        {"n_head": 3, "n_head_kv": 3, "head_dim": 48},
        {"n_head": 8, "n_head_kv": 1, "head_dim": 16, "n_ff": 160, "n_embd": 48},
        {"n_rot": 16},
        {"n_embd": 100, "n_ff": 172},
    ],
    ids=lambda c: ",".join(f"{k}={v}" for k, v in c.items()) or "plain",
)
def test_float_model_equals_the_definition(tmp_path: Path, changes: dict[str, Any]) -> None:
    h, weights = tiny_gguf.write(tmp_path / "m.gguf", "F32", **changes)
    with runner.load(tmp_path / "m.gguf") as model:
        assert relative_error(model.logits(IDS), naive_model.forward(weights, h, IDS)) < 2e-4


@pytest.mark.parametrize("kind", ["F16", "BF16"])
def test_half_models_equal_the_definition(tmp_path: Path, kind: str) -> None:
    h, weights = tiny_gguf.write(tmp_path / "m.gguf", kind)
    with runner.load(tmp_path / "m.gguf") as model:
        assert relative_error(model.logits(IDS), naive_model.forward(weights, h, IDS)) < 2e-4


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_0", "Q5_1", "Q8_0,F16"])
def test_quantized_model_equals_int8_activations(tmp_path: Path, kind: str) -> None:
    h, weights = tiny_gguf.write(tmp_path / "m.gguf", kind)
    with runner.load(tmp_path / "m.gguf") as model:
        got = model.logits(IDS)
        exact = naive_model.forward(weights, h, IDS)
        assert relative_error(got, exact) < 3e-2
        if "," not in kind:
            # Now and then a value falls on the other side of a rounding step: a code of 1/127 of the block's largest.
            assert relative_error(got, naive_model.forward(weights, h, IDS, linear=int8_activations)) < 6e-3


@pytest.mark.parametrize("scaling", ["linear", "yarn", "llama3"])
def test_rope_scaling(tmp_path: Path, scaling: str) -> None:
    base = 10000.0 ** (-np.arange(0, 32, 2) / 32)
    extra: dict[str, Any] = {}
    tensors = {}
    if scaling == "llama3":
        factors = llama3_factors(10000.0, 32, 8.0, 1.0, 4.0, 8.0)
        tensors = {"rope_freqs.weight": factors}
        frequencies, magnitude = base / factors, 1.0
    else:
        extra = {"rope.scaling.type": scaling, "rope.scaling.factor": 4.0}
        extra |= {"rope.scaling.original_context_length": 32.0} if scaling == "yarn" else {}
        frequencies, magnitude = base / 4.0, 1.0
    if scaling == "yarn":
        # The paper's "NTK-by-parts" (Peng et al. 2023), with the bounds rounded outwards as Transformers does.
        low, high = (32 * math.log(32 / (beta * 2 * math.pi)) / (2 * math.log(10000.0)) for beta in (32.0, 1.0))
        low, high = max(math.floor(low), 0), min(math.ceil(high), 31)
        ramp = np.clip((np.arange(16) - low) / (high - low), 0, 1)
        frequencies, magnitude = base / 4.0 * ramp + base * (1 - ramp), 0.1 * math.log(4.0) + 1.0
    h, weights = tiny_gguf.write(tmp_path / "m.gguf", "F32", extra=extra, tensors=tensors)
    scaled = dict(weights)
    for layer in range(h["n_layer"]):  # cosines and sines times m rotate and scale: q . k grows by m**2
        scaled[f"blk.{layer}.attn_q.weight"] = weights[f"blk.{layer}.attn_q.weight"] * magnitude**2
    want = naive_model.forward(scaled, h, IDS, frequencies=frequencies)
    with runner.load(tmp_path / "m.gguf") as model:
        assert relative_error(model.logits(IDS), want) < 5e-4
    plain = naive_model.forward(weights, h, IDS)
    assert relative_error(plain, want) > 1e-2  # the scaling matters here


def test_prefill_equals_token_by_token(q8: Path) -> None:
    with runner.load(q8) as model:
        ids = (IDS * 9)[:120]
        at_once = model.logits(ids)
        for position, token in enumerate(ids):
            assert np.array_equal(model.extend([token], position)[0], at_once[position]), position


def test_pieces_equal_the_whole(q8: Path) -> None:
    with runner.load(q8) as model:
        ids = (IDS * 9)[:100]
        whole = model.logits(ids)
        parts = [model.extend(ids[a:b], a, all_logits=True) for a, b in ((0, 33), (33, 34), (34, 100))]
        assert np.array_equal(np.concatenate(parts), whole)
        assert np.array_equal(model.extend(ids, 0), whole[-1:])


def test_long_prompt_takes_several_batches(tmp_path: Path) -> None:
    h, weights = tiny_gguf.write(tmp_path / "m.gguf", "F32", n_ctx=640)
    ids = np.random.default_rng(1).integers(0, 300, 600).tolist()
    with runner.load(tmp_path / "m.gguf") as model:
        assert relative_error(model.logits(ids), naive_model.forward(weights, h, ids)) < 2e-4


@pytest.mark.parametrize("threads", [2, 3])
def test_thread_count_does_not_change_the_result(q8: Path, threads: int) -> None:
    with runner.load(q8, threads=1) as one, runner.load(q8, threads=threads) as several:
        assert several.threads == threads
        assert np.array_equal(one.logits(IDS), several.logits(IDS))
        assert np.array_equal(one.extend([9], len(IDS)), several.extend([9], len(IDS)))


def test_greedy_generation_is_the_argmax_of_the_definition(tmp_path: Path) -> None:
    h, weights = tiny_gguf.write(tmp_path / "m.gguf", "F32", seed=3)
    ids = list(IDS)
    while len(ids) < len(IDS) + 12:
        ids.append(int(naive_model.forward(weights, h, ids)[-1].argmax()))
        assert ids[-1] != 256, "the seed must not end early"
    with runner.load(tmp_path / "m.gguf") as model:
        result = model.generate(IDS, max_tokens=12).result()
        assert result.tokens == ids[len(IDS) :]
        assert result.prompt_tokens == len(IDS)
        assert result.finish_reason == "length"
        assert result.prefill_tokens_per_s > 0
        assert result.decode_tokens_per_s > 0


def test_perplexity_by_definition(tmp_path: Path) -> None:
    h, weights = tiny_gguf.write(tmp_path / "m.gguf", "F32")
    ids = np.random.default_rng(2).integers(0, 300, 70).tolist()
    total, count = 0.0, 0
    for start in range(0, 70, 32):
        part = ids[start : start + 32]
        rows = naive_model.forward(weights, h, part)
        p = np.exp(rows - rows.max(-1, keepdims=True))
        p /= p.sum(-1, keepdims=True)
        total -= np.log([p[i, part[i + 1]] for i in range(len(part) - 1)]).sum()
        count += len(part) - 1
    with runner.load(tmp_path / "m.gguf") as model:
        assert model.perplexity(ids, window=32) == pytest.approx(math.exp(total / count), rel=1e-4)
        with pytest.raises(UnsupportedError, match="too few tokens"):
            model.perplexity([1])


def rounded_to_q8(x: np.ndarray) -> np.ndarray:
    """What a q8_0 cache makes of keys or values (tokens, heads, head_dim)."""
    blocks = x.reshape(*x.shape[:-1], -1, 32)
    scale = (np.abs(blocks).max(-1, keepdims=True) / 127).astype(np.float16).astype(np.float64)
    return (np.rint(blocks / scale) * scale).reshape(x.shape)


@pytest.mark.parametrize("changes", [{}, {"n_head": 8, "n_head_kv": 1, "head_dim": 64}])
def test_q8_cache(tmp_path: Path, changes: dict[str, Any]) -> None:
    h, weights = tiny_gguf.write(tmp_path / "m.gguf", "F32", n_ctx=320, **changes)
    ids = np.random.default_rng(1).integers(0, 300, 300).tolist()
    with runner.load(tmp_path / "m.gguf", cache_type="q8_0") as model:
        got = model.logits(ids)
        assert relative_error(got, naive_model.forward(weights, h, ids, cached=rounded_to_q8)) < 1e-3
        assert relative_error(got, naive_model.forward(weights, h, ids)) < 2e-2
        assert relative_error(model.extend(ids[-1:], 299), got[-1:]) < 1e-5


# What is refused


def test_unknown_architecture_names_those_like_it(tmp_path: Path) -> None:
    tiny_gguf.write(tmp_path / "m.gguf", architecture="mamba9")
    with pytest.raises(UnsupportedError, match=r"such as mamba,.*mamba9"):
        runner.load(tmp_path / "m.gguf")


@pytest.mark.parametrize("drop", ["blk.1.ffn_down.weight", "output_norm.weight"])
def test_missing_tensor_is_named(tmp_path: Path, drop: str) -> None:
    tiny_gguf.write(tmp_path / "m.gguf", drop=drop)
    with pytest.raises(GGUFError, match="tensor is missing") as error:
        runner.load(tmp_path / "m.gguf")
    assert error.value.tensor == drop


def test_wrong_shape_is_named(tmp_path: Path) -> None:
    wrong = np.zeros((64, 64), np.float32)
    name = "blk.0.attn_k.weight"
    tiny_gguf.write(tmp_path / "m.gguf", drop="blk.0.attn_k.weight", tensors={name: wrong}, n_head_kv=1)
    with pytest.raises(GGUFError, match="wrong shape") as error:
        runner.load(tmp_path / "m.gguf")
    assert (error.value.tensor, error.value.expected, error.value.got) == (name, (32, 64), (64, 64))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_head": 4, "n_head_kv": 3}, "multiple of n_head_kv"),
        ({"n_rot": 48}, "n_rot even, it and value_dim at most head_dim"),
    ],
)
def test_shapes_that_ops_cannot_compute(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    tiny_gguf.write(tmp_path / "m.gguf", **changes)
    with pytest.raises(UnsupportedError, match=message):
        runner.load(tmp_path / "m.gguf")


def test_every_part_has_its_ops() -> None:
    """A table names the module of each part, whose functions are all there and take what they are given."""
    taken = {
        "check": ["part"],
        "new_state": ["part", "context", "cache_type"],
        "bytes_per_position": ["part", "cache_type"],
        "emit": ["part", "s", "weights", "state", "source", "target"],
    }
    for name in parts.MODULES:
        ops = parts.ops(type(name, (), {})())
        assert {each: list(inspect.signature(getattr(ops, each)).parameters) for each in taken} == taken
    with pytest.raises(UnsupportedError, match=r"no ops for a part.*expected one of Attention.*got Path"):
        parts.ops(type("Path", (), {})())


@pytest.mark.parametrize(("ids", "message"), [([5, 300], "got 300"), ([-1], "got -1"), ([], "no tokens")])
def test_bad_token_ids(q8: Path, ids: list[int], message: str) -> None:
    with runner.load(q8) as model:
        with pytest.raises(UnsupportedError, match=message):
            model.logits(ids)
        with pytest.raises(UnsupportedError, match=message):
            model.generate(ids)


def test_context_overflow(q8: Path) -> None:
    with runner.load(q8, context=10) as model:
        with pytest.raises(UnsupportedError, match="at most 10 tokens; got 11"):
            model.logits([1] * 11)
        result = model.generate([1] * 7, max_tokens=50).result()
        assert len(result.tokens) == 3
        assert result.finish_reason == "context"


@pytest.mark.parametrize(("setting", "value"), [("context", 0), ("cache_type", "q4_0")])
def test_bad_load_settings(q8: Path, setting: str, value: Any) -> None:
    with pytest.raises(UnsupportedError, match=setting.split("_")[0]):
        Model(q8, **{setting: value})


def test_file_without_architecture(tmp_path: Path) -> None:
    tiny_gguf.write(tmp_path / "m.gguf")
    data = (tmp_path / "m.gguf").read_bytes().replace(b"general.architecture", b"general.brchitecture")
    (tmp_path / "x.gguf").write_bytes(data)
    with pytest.raises(GGUFError, match=r"general\.architecture"):
        runner.load(tmp_path / "x.gguf")


def test_the_cache_says_what_it_takes() -> None:
    for kind, size in (
        ("f16", 2 * 2 * 64 * 2 * 64),
        ("f32", 4 * 2 * 64 * 2 * 64),
        ("q8_0", 2 * 64 * 2 * 64 * 34 // 32),
    ):
        cache = KVCache(kv_heads=2, head_dim=64, context=50, cache_type=kind)
        assert (cache.positions, cache.nbytes) == (64, size)
        assert kv_bytes_per_position(2, 64, kind) * 64 == size
    with pytest.raises(UnsupportedError, match="head_dim a multiple of 32; got 48"):
        KVCache(1, 48, 32, "q8_0")
    with pytest.raises(UnsupportedError, match="expected f16, q8_0, f32; got 'q4_0'"):
        KVCache(1, 64, 32, "q4_0")


@pytest.mark.parametrize(("pages", "context"), [(10**9, 4096), (16384, 4096), (16383, 2048), (4096, 1024), (1, 512)])
def test_the_default_context_takes_half_of_the_memory(
    monkeypatch: pytest.MonkeyPatch, pages: int, context: int
) -> None:
    monkeypatch.setattr(os, "sysconf", {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": pages}.__getitem__)
    assert default_context(4096, 8192) == context


def test_unknown_rope_scaling_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="none, linear, yarn or longrope; got 'dynamic'"):
        scaling_kind("dynamic")


def test_vectors_must_be_floats(tmp_path: Path) -> None:
    name = "output_norm.weight"
    tiny_gguf.write(tmp_path / "m.gguf", drop=name, tensors={name: np.ones(64, np.int32)})
    with pytest.raises(UnsupportedError, match="vectors must be floating point; got I32") as error:
        runner.load(tmp_path / "m.gguf")
    assert error.value.tensor == name


def test_loading_and_measuring_tell_how_far_they_are(tmp_path: Path) -> None:
    tiny_gguf.write(tmp_path / "m.gguf", "Q8_0", n_vocab=300)
    seen: list[tuple[int, int, str]] = []
    model = runner.load(tmp_path / "m.gguf", progress=lambda *call: seen.append(call))
    loading = [call for call in seen if call[2].startswith("load")]
    assert loading[0][0] == 0
    assert loading[0][2].startswith("loading ")
    assert loading[-1] == (loading[-1][1], loading[-1][1], "loaded")
    del seen[:]
    model.perplexity(list(range(100)), window=40, progress=lambda *call: seen.append(call))
    assert seen == [(40, 100, "perplexity"), (80, 100, "perplexity"), (100, 100, "perplexity")]


@pytest.mark.parametrize(("kind", "scaled"), [("f16", False), ("q8_0", True)])
def test_addresses_of_the_cache_are_apart(kind: str, scaled: bool) -> None:
    [cache] = KVCache(kv_heads=2, head_dim=64, context=64, cache_type=kind).in_slots(1)
    places = cache.addresses()
    assert (places["key_scales"] != 0) == (places["value_scales"] != 0) == scaled
    taken = sorted(place for place in places.values() if place)
    assert len(taken) == (4 if scaled else 2)
    assert all(place % mmap.PAGESIZE == 0 for place in taken)


def yarn_definition(n_rot: int, base: float, factor: float, context: int, fast: float, slow: float) -> np.ndarray:
    """Frequencies by the paper's formulas, one dimension at a time, with the ends rounded as llama.cpp rounds them."""

    def place(turns: float) -> float:
        return n_rot * math.log(context / (turns * 2 * math.pi)) / (2 * math.log(base))

    low, high = max(0, math.floor(place(fast))), min(n_rot - 1, math.ceil(place(slow)))
    made = []
    for i in range(n_rot // 2):
        extrapolated = base ** (-2 * i / n_rot)
        share = 1 - min(1.0, max(0.0, (i - low) / max(0.001, high - low)))
        made.append(extrapolated / factor * (1 - share) + extrapolated * share)
    return np.array(made)


@pytest.mark.parametrize(
    ("base", "context", "fast", "slow"),
    [(1e4, 4096, 32.0, 1.0), (1e4, 128, 32.0, 1.0), (10.0, 725, 32.0, 1.0), (10.0, 725, 4096.0, 1.0)],
    ids=["usual", "low end at 0", "high end at the last", "both"],
)
def test_yarn_frequencies(base: float, context: int, fast: float, slow: float) -> None:
    rope = rotation(Rope(32, base, "norm", Scaling("yarn", 4.0, context, fast, slow)), None)
    np.testing.assert_allclose(rope.frequencies, yarn_definition(32, base, 4.0, context, fast, slow), rtol=1e-12)
    assert rope.magnitude == pytest.approx(1 + 0.1 * math.log(4))


@pytest.mark.parametrize("positions", [1, 64, 4096])
def test_memory_holds_every_part_of_attention(positions: int) -> None:
    part = Attention(64, 4, 2, 32, Rope(32, 10000.0, "norm"))
    norm = Norm("attn_norm", 64, 1e-5)
    graph = Graph(Embedding(300, 64), ((Branch(norm, part),),), norm, Head(300, 64))
    schedule = OneToken(Buffers(graph, positions, 1))
    attended(part, schedule, *KVCache(2, 32, positions).in_slots(1), [])
    place = schedule.program.ops[0].args[ATTENTION_ONE.parts // 8]
    [nbytes] = [count for (_, count), temp in schedule.buffers._temps.items() if temp == place]
    assert nbytes >= -(-positions // ATTENTION_KEYS) * 4 * part_bytes(1, 32)
