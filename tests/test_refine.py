"""Activations that are rounded twice where once is too coarse: the lists of blocks, and what they add to products."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import gguflike
from gguflike.blocks import FORMATS
from gguflike.errors import ArgumentError
from gguflike.families.parts import Branch, FeedForward
from gguflike.families.parts.experts import Experts, Router
from gguflike.kernels.dispatch import linear_plan
from gguflike.kernels.engine import native
from gguflike.kernels.engine.args import float_bits
from gguflike.kernels.engine.memory import ROW_TYPE, SCRATCH_BYTES, op_state
from gguflike.kernels.matmul.args import REFINE, REPACK
from gguflike.kernels.matmul.records import LinearPlan, activation_arrays
from gguflike.kernels.vector.args import REFINE_ROWS
from gguflike.kernels.vector.sizes import BLOCKS_AT, CODES_AT, LISTS_AT, SUMS_AT, refined_bytes
from tests import by_hand, test_parts, tiny_gguf
from tests.by_hand import IDS, WIDTH, rms
from tests.measures import largest_error, relative_error
from tests.test_matmul import decoded, quantized, random_tensor

# One type for each way to read a record: minima, levels, folded scales, planes, sizes of records and of sub-blocks.
TYPES = ["Q4_1", "Q8_0", "IQ4_NL", "Q2_K", "Q4_K", "NVFP4", "Q1_0"]
EXPERTS = by_hand.graph(
    (
        by_hand.branches()[0],
        Branch(rms("ffn_norm"), Experts(WIDTH, 32, 4, 2, Router(), shared=FeedForward(WIDTH, 64, suffix="_shexp"))),
    ),
)


def with_outliers(tokens: int, columns: int) -> np.ndarray:
    x = np.random.default_rng(1).standard_normal((tokens, columns)).astype(np.float32)
    x[0, columns // 2] = 300
    x[1:, 7] = -80
    x[-1, [3, -1]] = 90, 70
    return x


def refined(
    x: np.ndarray, crest: float, position: int = 1, positions: list[int] | None = None
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """What the op makes of activations, of tokens at successive positions or at these: the arrays of `quantize`, and
    the lists."""
    tokens, columns = x.shape
    arrays = activation_arrays(tokens, columns)
    lists = np.zeros((tokens, refined_bytes(columns)), np.uint8)
    places = {name: values.ctypes.data for name, values in arrays.items()}
    rows = np.zeros(tokens, ROW_TYPE)
    rows["position"] = np.arange(position, position + tokens) if positions is None else positions
    lists_at, rows_at = lists.ctypes.data, rows.ctypes.data
    words = REFINE_ROWS.pack(
        x=x.ctypes.data, columns=columns, **places, rows=rows_at, refined=lists_at, crest=float_bits(crest)
    )
    state = op_state(tokens=tokens)
    native.call("vector.refine:rows")(np.array(words, np.int64).ctypes.data, state.ctypes.data, 0, tokens)
    return arrays, lists


def read(one: np.ndarray, columns: int) -> tuple[list[int], np.ndarray, np.ndarray]:
    """Of a token's list: numbers of the blocks, the values that they stand for, and their sums of codes."""
    blocks = columns // 32
    count = int(one[:8].view(np.int64)[0])
    lists = one[LISTS_AT:]
    scales = lists.view(np.float32)[:count]
    sums = lists[SUMS_AT * blocks :].view(np.int32)[: 2 * count]
    numbers = lists[BLOCKS_AT * blocks :].view(np.int32)[:count]
    codes = lists[CODES_AT * blocks :][: 32 * count].view(np.int8).reshape(count, 32)
    assert np.array_equal(codes.reshape(-1, 16).sum(axis=1), sums)
    return numbers.tolist(), codes * scales[:, None].astype(np.float64), sums


def test_blocks_above_the_crest_are_rounded_twice() -> None:
    x = with_outliers(3, 512)
    arrays, lists = refined(x, 8)
    once = quantized(x)
    assert np.array_equal(
        arrays["codes"].reshape(3, 16, 32) * arrays["scales"].astype(np.float64)[..., None], once.reshape(3, 16, 32)
    )
    assert [read(one, 512)[0] for one in lists] == [[8], [0], [0, 15]]
    for row, first, one in zip(x, once, lists, strict=True):
        numbers, values, _ = read(one, 512)
        for number, value in zip(numbers, values, strict=True):
            here = slice(32 * number, 32 * number + 32)
            assert np.abs(first[here] + value - row[here]).max() < np.abs(first[here] - row[here]).max() / 100


def test_of_the_first_token_of_a_text_all_is_refined() -> None:
    _, lists = refined(with_outliers(3, 512), 8, position=0)
    assert [read(one, 512)[0] for one in lists] == [list(range(16)), [0], [0, 15]]


def test_first_tokens_of_several_texts_in_a_pass() -> None:
    _, lists = refined(with_outliers(3, 512), 8, positions=[9, 0, 4])
    assert [read(one, 512)[0] for one in lists] == [[8], list(range(16)), [0, 15]]


@pytest.mark.parametrize("value", [np.nan, np.inf, 0.0])
def test_what_is_not_finite_or_zero_is_not_refined(value: float) -> None:
    x = np.zeros((1, 64), np.float32)
    x[0, 5] = value
    arrays, lists = refined(x, 1)
    assert read(lists[0], 64)[0] == []
    assert np.isnan(arrays["scales"][0, 0]) == np.isnan(value)


@pytest.mark.parametrize("name", TYPES)
def test_every_type(name: str) -> None:
    """Every block of a record, rows that fill no group; products alone and with others are the same bits."""
    plan, block = linear_plan(FORMATS[name]), max(32, FORMATS[name].block_size)
    assert plan.refine is not None
    for rows, columns in ((1, block), (40, 2 * block)):
        tensor = random_tensor(name, rows, columns)
        exact = decoded(tensor)
        packed = plan.allocate(rows, columns)
        assert packed is not None
        source, target = tensor.data.ctypes.data, packed.ctypes.data
        words = np.array(REPACK.pack(blocks=source, records=target, rows=rows, columns=columns), np.int64)
        native.call(plan.repack)(words.ctypes.data, 0, 0, plan.matvec_items(rows))
        x = with_outliers(5, columns)
        for crest in (0.0, 2.0):
            got = products(plan, packed, rows, x, crest)
            want = quantized(x)
            if crest == 0:
                assert largest_error(got, x @ exact.T) < 2e-4, (rows, columns)
            assert largest_error(got, x @ exact.T) < largest_error(want @ exact.T, x @ exact.T), (rows, columns)
            for t in range(len(x)):
                assert np.array_equal(products(plan, packed, rows, x[t : t + 1], crest)[0], got[t])


def products(plan: LinearPlan, packed: np.ndarray, rows: int, x: np.ndarray, crest: float) -> np.ndarray:
    tokens, columns = x.shape
    x = np.ascontiguousarray(x)
    arrays, lists = refined(x, crest)
    out = np.full((tokens, rows + 3), 7, np.float32)
    places = {
        "weights": packed.ctypes.data,
        "rows": rows,
        "columns": columns,
        **{name: values.ctypes.data for name, values in arrays.items()},
        "out": out.ctypes.data,
        "stride": rows + 3,
        "bias": 0,
        "factor": 0,
    }
    scratch = np.zeros(SCRATCH_BYTES, np.uint8)
    state = op_state(tokens=tokens, scratch=scratch.ctypes.data)
    op, row_blocks, items = (
        (plan.matvec, 1, plan.matvec_items(rows)) if tokens == 1 else (plan.matmul, 2, plan.matmul_items(rows))
    )
    function = native.load([op])[op]
    words = REFINE.pack(function=function, row_blocks=row_blocks, **places, add=0, refined=lists.ctypes.data)
    native.call(str(plan.refine))(np.array(words, np.int64).ctypes.data, state.ctypes.data, 0, items)
    assert (out[:, rows:] == 7).all()
    return out[:, :rows]


@pytest.mark.parametrize("name", ["llama", "gelu, not gated", "fused gelu", "vectors for each layer", "experts"])
def test_an_adaptive_model_is_nearer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """A model whose inputs have large channels: less than half the error of the logits, and the same bits alone and
    with others, in pieces of any size. (Of 64 values, none is more than 8 times their root mean square.)"""
    monkeypatch.setattr("gguflike.runner.network.CREST", 4.0)
    made = {**test_parts.GRAPHS, "llama": by_hand.graph(), "experts": EXPERTS}[name]
    weights = by_hand.write(tmp_path / "m.gguf", made, "Q8_0", gain=40)
    want = by_hand.truth(made, weights, IDS)
    errors = {}
    for mode in ("dynamic", "adaptive"):
        with by_hand.load(tmp_path / "m.gguf", made, monkeypatch, activations=mode, cache_type="f32") as model:
            got = model.logits(IDS)
            errors[mode] = relative_error(got, want)
            assert np.array_equal(by_hand.token_by_token(model, IDS), got)
            assert np.array_equal(by_hand.in_pieces(model, IDS, (3, 1, 6)), got)
    assert errors["adaptive"] < 0.5 * errors["dynamic"]


def test_modes_of_activations_are_checked(tmp_path: Path) -> None:
    tiny_gguf.write(tmp_path / "m.gguf")
    with pytest.raises(ArgumentError, match="dynamic, adaptive, static, hybrid"):
        gguflike.load(tmp_path / "m.gguf", activations="exact")
