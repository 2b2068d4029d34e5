"""The walk through a model layer by layer, against the reference, which sees it whole."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from gguflike import reference
from gguflike.calibrate import passes
from gguflike.calibrate import statistics as all_statistics
from gguflike.calibrate import stream as streams
from gguflike.calibrate.needs import BASE, choosing, disk, learning, memory
from gguflike.calibrate.statistics import StackStatistics, Statistics
from gguflike.calibrate.stream import stream
from gguflike.calibrate.sums import Hessians
from gguflike.calibrate.walk import Standing, groups, shared, stages
from gguflike.errors import ArgumentError, OutputError, QuantizationError
from gguflike.families import registry
from gguflike.families.parts import Attention, Branch, Embedding, FeedForward, Graph, Head, Norm, Rope
from gguflike.families.parts.extras import Path as Path_
from gguflike.families.parts.extras import Sum
from gguflike.reference.formulas import Context, normalize
from tests import by_hand
from tests.test_family_configs import ROWS, read
from tests.walks import DENSE, EXPERTS, TEXTS, walked, weights_of


def states(folder: Path, graph: Graph, kind: str) -> np.ndarray:
    """What the last layer left, normalized."""
    last = np.fromfile(folder / f"{kind}-{len(graph.blocks) % 2}.f32", np.float32)
    return normalize(graph.norm, weights_of(graph), last.reshape(-1, graph.embedding.n_embd))


def hidden(graph: Graph, weights: dict[str, np.ndarray]) -> np.ndarray:
    return np.concatenate([reference.hidden(graph, weights, ids) for ids in TEXTS])


SHARING = {  # models whose layers share keys, choices, inputs; experts, states, latents, heads that pool
    *("Gemma4ForCausalLM", "Gemma4ForCausalLM/experts", "DeepseekV32ForCausalLM/sparse", "DeepseekV3ForCausalLM"),
    *("MiniMaxM3SparseForConditionalGeneration/sparse", "GptOssForCausalLM", "Llama4ForConditionalGeneration"),
    *("Qwen3NextForCausalLM", "KimiLinearForCausalLM", "FalconH1ForCausalLM", "JambaForCausalLM", "Lfm2ForCausalLM"),
    *("CohereForCausalLM", "BertModel", "NomicBertModel/experts", "NemotronHForCausalLM/experts", "GPT2LMHeadModel"),
}


@pytest.mark.parametrize("row", ROWS, ids=[row.name for row in ROWS])
def test_every_family_can_be_walked(row: Any, tmp_path: Path) -> None:
    """Bit for bit as the reference computes it, and every matrix that multiplies tokens is seen."""
    config = {"architectures": [row.registered or row.model_class], **row.config}
    xielu = {key: [0.25, -0.5, 0.0, 1.0] for key in registry.for_config(config).small if "xielu" in key}
    family, c, _ = read({**config, **xielu})
    graph = family.graph(c)
    used = [place for place in graph.tensors() if place.tensor.used and len(place.tensor.shape) > 1]
    of_experts = {place.name for place in used if place.name.endswith(".bias")}
    matrices = {place.name for place in used if place.tensor.form in (None, "matrix")} - of_experts
    others = {place.name for place in used if place.tensor.form in ("rows", "beyond")}
    told: list[tuple[str, ...]] = []
    if row.name in SHARING:
        _, quantized = walked(graph, tmp_path, found=lambda some, _: told.append(some))
        np.testing.assert_array_equal(states(tmp_path, graph, "quantized"), hidden(graph, quantized))
    else:
        weights = weights_of(graph)
        stream(graph, weights.__getitem__, TEXTS, None, tmp_path, found=lambda some, _: told.append(some))
    np.testing.assert_array_equal(states(tmp_path, graph, "float"), hidden(graph, weights_of(graph)))
    assert matrices <= {name for some in told for name in some} <= matrices | others
    assert [names for names, _ in shared(graph)] == told  # without the weights, too


def test_the_rows_above_are_there() -> None:
    assert {row.name for row in ROWS} >= SHARING


def test_grams_are_those_of_the_inputs(tmp_path: Path) -> None:
    found, quantized = walked(DENSE, tmp_path)
    x_f, x_q = hidden(DENSE, weights_of(DENSE)), hidden(DENSE, quantized)
    last = found["output.weight"]
    assert isinstance(last, Statistics)
    assert last.tokens == len(x_f)
    assert last.cross is not None
    np.testing.assert_allclose(last.gram, x_q.T @ x_q / len(x_q), rtol=1e-4, atol=1e-5)
    moved = x_f - x_q  # of which products are by int8
    scales = np.sqrt(np.outer(np.square(moved).mean(axis=0), np.square(x_q).mean(axis=0)))
    assert (np.abs(last.cross - x_f.T @ x_q / len(x_q)) < 0.01 * scales + 1e-5).all()
    np.testing.assert_array_equal(last.gram, last.gram.T)


def test_matrices_that_share_an_input_share_statistics(tmp_path: Path) -> None:
    groups: list[tuple[str, ...]] = []
    walked(DENSE, tmp_path, found=lambda names, _: groups.append(names))
    assert [tuple(name.split(".")[-2] for name in each) for each in groups[:4]] == [
        ("attn_q", "attn_k", "attn_v"),
        ("attn_output",),
        ("ffn_up", "ffn_gate"),
        ("ffn_down",),
    ]
    assert groups[-1] == ("output.weight",)


def test_experts_see_the_tokens_that_are_sent_to_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(all_statistics, "FEW", 0)
    weights = weights_of(EXPERTS)
    seen: dict[str, list[list[np.ndarray]]] = {}

    def saw(name: str, x: np.ndarray, which: np.ndarray | None) -> None:
        if which is not None:
            rows = seen.setdefault(f"blk.0.{name}", [[] for _ in range(6)])
            for row, expert in zip(x, which, strict=True):
                rows[expert].append(row)

    layer = {name.removeprefix("blk.0."): value for name, value in weights.items()}
    for ids in TEXTS:
        x = reference.forward.embed(EXPERTS, weights, ids)
        for step in EXPERTS.blocks[0]:
            x = reference.forward.step(step, reference.Watched(layer, saw), x, reference.parts.Context(0, len(ids)))

    def found(names: tuple[str, ...], statistics: Any) -> None:
        if isinstance(statistics, StackStatistics):
            for name in names:
                for number, rows in enumerate(seen.pop(name)):
                    one = statistics.own(number)
                    assert one.tokens == len(rows)
                    inputs = np.array(rows or [np.zeros(one.gram.shape[0])])
                    np.testing.assert_allclose(one.gram, inputs.T @ inputs / len(inputs), rtol=1e-4, atol=1e-5)

    monkeypatch.setattr(streams, "SUMS", 4 * 4 * by_hand.WIDTH**2)  # four experts at a time
    stream(EXPERTS, weights.__getitem__, TEXTS, None, tmp_path, found=found, collecting=Hessians(cap=None))
    assert not seen


def test_bits_do_not_depend_on_the_number_of_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passes, "SLAB", 8)
    one, many = (walked(EXPERTS, tmp_path / str(threads), threads=threads)[0] for threads in (1, 5))
    assert one.keys() == many.keys()
    for name, statistics in one.items():
        for a, b in zip(*(x if isinstance(x, list) else [x] for x in (statistics, many[name])), strict=True):
            if a is not None:
                np.testing.assert_array_equal(a.gram, b.gram)
                assert (a.cross is None) == (b.cross is None)
                if a.cross is not None:
                    np.testing.assert_array_equal(a.cross, b.cross)


def test_a_walk_that_was_cut_off_goes_on_with_its_layer(tmp_path: Path) -> None:
    whole, _ = walked(DENSE, tmp_path / "whole")
    seen: list[str] = []

    class Cut(Exception):
        pass

    def cut(names: tuple[str, ...], _: Any) -> None:
        seen.append(names[0])
        if names[0] == "blk.1.ffn_down.weight" and seen.count(names[0]) == 1:
            raise Cut

    with pytest.raises(Cut):
        walked(DENSE, tmp_path / "cut", found=cut)
    first = len(seen)
    rest, _ = walked(DENSE, tmp_path / "cut", found=cut)
    assert seen[first] == "blk.1.attn_q.weight"  # the first layer is done
    assert set(rest) == {name for name in whole if name.startswith(("blk.1.", "output"))}
    for name, statistics in rest.items():
        np.testing.assert_array_equal(statistics.gram, whole[name].gram)
    again, _ = walked(DENSE, tmp_path / "cut", key="another")
    assert set(again) == set(whole)


def test_inputs_that_are_not_finite_name_the_matrix(tmp_path: Path) -> None:
    weights = weights_of(DENSE)
    weights["blk.0.attn_output.weight"][3, 3] = np.nan
    with pytest.raises(QuantizationError, match=r"blk\.0\.ffn_up\.weight.*not finite"):
        stream(DENSE, weights.__getitem__, TEXTS, None, tmp_path)


@pytest.mark.parametrize(
    ("texts", "message"),
    [([], "no text"), ([[1], []], "no text"), ([[1, 300]], "no such token"), ([[-1]], "no such token")],
)
def test_texts_that_cannot_be_read(texts: list[list[int]], message: str, tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match=message):
        stream(DENSE, weights_of(DENSE).__getitem__, texts, None, tmp_path)


def test_a_disk_without_room_is_told_before_anything_is_computed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=100))
    with pytest.raises(OutputError, match="no room for what calibrating keeps"):
        walked(DENSE, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("graph", [DENSE, EXPERTS])
def test_progress_counts_tokens_through_steps(graph: Graph, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passes, "SLAB", 8)
    told: list[tuple[int, int, str]] = []
    walked(graph, tmp_path, progress=lambda *said: told.append(said))
    tokens = sum(map(len, TEXTS))
    assert {total for _, total, _ in told} == {tokens * (2 * len(graph.blocks) + 1)}
    assert [done for done, *_ in told] == sorted(done for done, *_ in told)
    assert told[-1] == (told[0][1], told[0][1], "done")
    assert told[0] == (0, told[0][1], f"layer 1 of {len(graph.blocks)}")
    assert {what for *_, what in told} >= {"layer 1 of 2" if graph is DENSE else "layer 1 of 1", "output matrix"}


def closing(graph: Graph, index: int) -> list[bool]:
    """Which groups of a step end it."""
    weights = weights_of(graph)
    layer = {name.removeprefix("blk.0."): value for name, value in weights.items()}
    x = np.random.default_rng(0).standard_normal((5, by_hand.WIDTH), np.float32)
    return [each.closes for each in groups(stages(graph)[1][index], Standing(layer, {}), x, Context(0, 5))]


def test_a_step_that_ends_with_a_product_is_not_run_again_for_it() -> None:
    """Its last pass multiplies what the one before has kept."""
    after = by_hand.rms("post_norm")
    normed = Branch(by_hand.rms("attn_norm"), by_hand.attention(), after, scale=0.5)
    paths = (Path_(None, by_hand.attention()), Path_(None, FeedForward(by_hand.WIDTH, 96)))
    assert closing(DENSE, 0) == [False, True]
    assert closing(DENSE, 1) == [False, True]
    assert closing(EXPERTS, 1) == [False, False, False]
    assert closing(by_hand.graph((normed,)), 0) == [False, True]
    assert closing(by_hand.graph((Branch(None, by_hand.attention(), after, post=True),)), 0) == [False, True]
    assert closing(by_hand.graph((Branch(by_hand.rms("attn_norm"), Sum(paths)),)), 0) == [False, False, False]


def test_memory_and_disk_of_a_model_of_8_billion_weights() -> None:
    """At most 4 GiB, whatever the depth; what rounding takes comes when inputs are no longer there."""
    attention = Attention(4096, 32, 8, 128, Rope(128, 5e5, "norm"))
    block = (
        Branch(Norm("attn_norm", 4096, 1e-5), attention),
        Branch(Norm("ffn_norm", 4096, 1e-5), FeedForward(4096, 14336)),
    )
    graph = Graph(Embedding(128256, 4096), (block,) * 32, Norm("output_norm", 4096, 1e-5), Head(128256, 4096))
    weights, sums = 2 * 3 * 4096 * 14336 * 4, 2 * 14336**2 * 4
    for outputs in (False, True):
        assert weights + sums < BASE + memory(graph, 512, Hessians(), True, True, 2, streams.SUMS, outputs) < 4 * 2**30
    outputs = 2 * 14336**2 * 4
    assert weights + outputs < BASE + learning(graph, 512, 2) < 4 * 2**30
    assert weights + outputs < BASE + choosing(graph, 512, Hessians(), 2, streams.SUMS, True) < 4 * 2**30
    tokens = 131_072
    assert disk(graph, tokens, Hessians(), True) == tokens * 4 * (2 * 2 * 4096 + 14336)


def test_files_take_what_was_said(tmp_path: Path) -> None:
    walked(EXPERTS, tmp_path)
    taken = sum(path.stat().st_size for path in tmp_path.iterdir() if path.suffix == ".f32")
    assert taken == disk(EXPERTS, sum(map(len, TEXTS)), Hessians(), True)
