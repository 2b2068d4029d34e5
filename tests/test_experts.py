"""Mixtures of experts: the reference against plain loops, and the ops of both schedules against the reference."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from gguf.quants import dequantize, quantize

from gguflike import container, reference
from gguflike.errors import GGUFError, UnsupportedError
from gguflike.families.parts import Branch, Embedding, FeedForward, Graph, Head, Norm
from gguflike.families.parts.experts import Experts, Router
from gguflike.frozen import replace
from gguflike.kernels.engine.args import Own
from gguflike.kernels.engine.program import Op, Program, Team
from gguflike.reference.experts import route
from gguflike.reference.formulas import Context
from gguflike.runner import schedule as schedules
from gguflike.runner.buffers import Buffers, address
from gguflike.runner.parts import ops
from gguflike.runner.schedule import OneToken, Source, Target, Tokens
from gguflike.runner.weights import Weights
from tests import by_hand

N_EMBD, N_FF, COUNT, TOKENS = 64, 32, 8, 7
NORM = Norm("ffn_norm", N_EMBD, 1e-5)
SIGMOID = Router("sigmoid", choice_bias="exp_probs_b.bias")
PLAIN = Experts(N_EMBD, N_FF, COUNT, 3, Router())

# Every setting of the router and of the experts at least once.
PARTS = {
    "plain": PLAIN,
    "sigmoid": replace(PLAIN, router=replace(SIGMOID, scale=2.5, bias=True)),
    "groups": replace(PLAIN, router=replace(SIGMOID, groups=4, groups_used=2)),
    "best of groups": replace(PLAIN, router=Router(groups=4, groups_used=2, group_score="max", normalize=False)),
    "softplus": replace(PLAIN, router=Router("sqrt_softplus", choice_bias="exp_probs_b")),
    "chosen softmax, biases": replace(
        PLAIN,
        router=Router("softmax_chosen", normalize=False, bias=True),
        activation="swiglu_oai",
        clamp=1.0,
        bias=True,
    ),
    "sparse mixer": replace(PLAIN, router=Router("sparse_mixer", normalize=False, near=0.4), used=2),
    "weight first": replace(PLAIN, router=Router("raw", normalize=False), used=1, weight_first=True),
    "fused, scaled": replace(PLAIN, fused=True, bias=True, output_scaled=True, activation="gelu_tanh"),
    "no gate, latent": replace(
        PLAIN, gated=False, activation="relu2", latent=32, shared=FeedForward(N_EMBD, 96, suffix="_shexp")
    ),
    "clamped": replace(PLAIN, clamp=0.05),
    "shared": replace(
        PLAIN, shared=FeedForward(N_EMBD, 96, suffix="_shexp"), shared_gate=True, total_scale=0.5, used=COUNT
    ),
}
# Where the experts stand behind no norm of the branch.
OWN_NORMS = replace(
    PLAIN,
    router=Router(norm=Norm("router_norm", N_EMBD, 1e-5, weight=False), input_scale=0.125, scaled=True),
    input_norm=Norm("pre_ffw_norm_2", N_EMBD, 1e-5),
)


def graph_of(part: Experts, norm: Norm | None) -> Graph:
    return Graph(
        Embedding(TOKENS, N_EMBD),
        ((Branch(norm, part),),),
        Norm("output_norm", N_EMBD, 1e-5),
        Head(TOKENS, N_EMBD, True),
    )


def write(path: Path, graph: Graph, kind: str, *, squeezed: bool = False) -> dict[str, np.ndarray]:
    """A file of the graph's tensors, matrices of experts in blocks of type ``kind``; returns what they stand for.

    ``squeezed``: a first axis of one value is left out, as ggml does when it writes.
    """
    rng = np.random.default_rng(7)
    writer, weights = gguf.GGUFWriter(path, "experts"), {}
    type_ = gguf.GGMLQuantizationType[kind]
    for name, _, tensor in graph.tensors():
        if not tensor.used:
            continue
        x = rng.standard_normal(tensor.shape).astype(np.float32)
        x = (
            x / np.float32(np.sqrt(tensor.shape[-1]))
            if len(tensor.shape) > 1
            else x * np.float32(0.2) + np.float32("norm" in name)
        )
        lost = 1 if squeezed and x.shape[0] == 1 else 0
        if "exps" in name and name.endswith("weight") and kind != "F32":
            blocks = quantize(x, type_)
            writer.add_tensor(name, blocks[0] if lost else blocks, raw_dtype=type_)
            x = dequantize(blocks, type_)
        else:
            writer.add_tensor(name, x[0] if lost else x)
        weights[name.removeprefix("blk.0.")] = x
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return weights


@pytest.fixture(scope="module", params=[1, 2])
def team(request: Any) -> Any:
    made = Team(request.param)
    yield made
    made.close()


def run(path: Path, graph: Graph, x: np.ndarray, team: Team) -> tuple[np.ndarray, np.ndarray]:
    """The residual stream after the block: all tokens in one pass, and each in one of its own."""
    (step,) = graph.blocks[0]
    assert isinstance(step, Branch)
    results = []
    with container.open(path) as file:
        weights = Weights(file, graph)
        weights.repack(team)
        for kind in (Tokens, OneToken):
            buffers = Buffers(graph, 16, team.threads)
            s, here = kind(buffers), weights.layer(0)
            source = Source(address(buffers.x), N_EMBD, step.norm, here)
            ops(step.mixer).check(step.mixer)
            ops(step.mixer).emit(step.mixer, s, here, None, source, Target(address(buffers.x), add=True))
            s.program.link()
            out = np.empty_like(x)
            for first in range(0, len(x), len(x) if kind is Tokens else 1):
                count = len(x) if kind is Tokens else 1
                buffers.x[:count] = x[first : first + count]
                team.run(s.program, count)
                out[first : first + count] = buffers.x[:count]
            results.append(out)
    return results[0], results[1]


def stages(program: Program) -> list[list[Op]]:
    """The ops between barriers."""
    made: list[list[Op]] = []
    for op in program.ops:
        if (op.barrier and not op.chained) or not made:
            made.append([])
        made[-1].append(op)
    return made


@pytest.mark.parametrize("name", PARTS)
def test_what_a_thread_has_chosen_serves_one_stage(name: str, tmp_path: Path) -> None:
    """A thread that finds nothing to do in a stage skips what it would do for itself there."""
    graph = graph_of(PARTS[name], NORM)
    write(tmp_path / "m.gguf", graph, "F32")
    with container.open(tmp_path / "m.gguf") as file:
        weights = Weights(file, graph)
        buffers = Buffers(graph, 16, 2)
        s, here = OneToken(buffers), weights.layer(0)
        target = Target(address(buffers.x), add=True)
        ops(PARTS[name]).emit(PARTS[name], s, here, None, Source(target.address, N_EMBD, NORM, here), target)
        seen = 0
        for stage in stages(s.program):
            made = {word for op in stage if op.own for word in op.args if isinstance(word, Own)}
            read = {word for op in stage if not op.own for word in op.args if isinstance(word, Own)}
            assert read <= made
            seen += len(read)
        assert seen


@pytest.mark.parametrize("schedule", [OneToken, Tokens])
@pytest.mark.parametrize("name", PARTS)
def test_pieces_can_be_counted(name: str, schedule: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread's share of an op has so many pieces at most, however many experts of whatever size a file asks for."""
    monkeypatch.setattr(schedules, "MOST_PIECES", 8)
    graph = graph_of(PARTS[name], NORM)
    write(tmp_path / "m.gguf", graph, "Q8_0")
    with container.open(tmp_path / "m.gguf") as file:
        weights = Weights(file, graph)
        buffers = Buffers(graph, 16, 2)
        s, here = schedule(buffers), weights.layer(0)
        target = Target(address(buffers.x), add=True)
        ops(PARTS[name]).emit(PARTS[name], s, here, None, Source(target.address, N_EMBD, NORM, here), target)
        tokens = 1 if schedule is OneToken else buffers.batch
        grown = 0
        for op in s.program.ops:
            if op.name.startswith(("experts.products:mat", "experts.rows:gather", "rows.gates", "ops:silu_mul")):
                pieces = -(-op.items * (tokens if op.per_tokens else 1) // op.grain)
                assert op.chained or pieces <= 8
                grown += op.grain > 16
        assert grown or schedule is OneToken


def inputs(tokens: int = TOKENS) -> np.ndarray:
    return np.random.default_rng(3).standard_normal((tokens, N_EMBD)).astype(np.float32)


@pytest.mark.parametrize("name", PARTS)
def test_ops_compute_what_the_reference_says(name: str, tmp_path: Path, team: Team) -> None:
    graph = graph_of(PARTS[name], NORM)
    weights = write(tmp_path / "m.gguf", graph, "F32")
    x = inputs()
    expected = reference.branch(graph.blocks[0][0], weights, x, Context())
    several, one = run(tmp_path / "m.gguf", graph, x, team)
    np.testing.assert_allclose(several, expected, rtol=1e-5, atol=2e-6)
    np.testing.assert_allclose(one, expected, rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("kind", ["F32", "Q8_0"])
def test_axes_of_one_value_may_be_left_out(kind: str, tmp_path: Path, team: Team) -> None:
    shared = FeedForward(N_EMBD, 96, suffix="_shexp")
    part = replace(PLAIN, count=1, used=1, bias=True, shared=shared, shared_gate=True)
    graph = graph_of(part, NORM)
    results = []
    for squeezed in (False, True):
        path = tmp_path / f"{squeezed}.gguf"
        write(path, graph, kind, squeezed=squeezed)
        with container.open(path) as file:
            assert len(file.infos["blk.0.ffn_up_exps.weight"].shape) == (2 if squeezed else 3)
        results.append(run(path, graph, inputs(), team))
    np.testing.assert_array_equal(results[0], results[1])


def test_router_and_experts_with_norms_of_their_own(tmp_path: Path, team: Team) -> None:
    graph = graph_of(OWN_NORMS, None)
    weights = write(tmp_path / "m.gguf", graph, "F32")
    x = inputs()
    expected = reference.branch(graph.blocks[0][0], weights, x, Context())
    for result in run(tmp_path / "m.gguf", graph, x, team):
        np.testing.assert_allclose(result, expected, rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("name", ["plain", "chosen softmax, biases", "fused, scaled"])
@pytest.mark.parametrize("kind", ["Q8_0", "MXFP4"])
def test_blocks_of_experts(name: str, kind: str, tmp_path: Path, team: Team) -> None:
    """Activations are int8, so results are near the reference's; they do not depend on how many tokens there are."""
    graph = graph_of(PARTS[name], NORM)
    weights = write(tmp_path / "m.gguf", graph, kind)
    x = inputs(24)  # so that some experts multiply many rows and others few or none
    expected = reference.branch(graph.blocks[0][0], weights, x, Context())
    several, one = run(tmp_path / "m.gguf", graph, x, team)
    assert np.abs(several - expected).max() < 0.02 * np.abs(expected - x).max()
    np.testing.assert_array_equal(several, one)


def save(path: Path, graph: Graph, weights: Mapping[str, np.ndarray]) -> None:
    writer = gguf.GGUFWriter(path, "experts")
    for name, _, _tensor in (place for place in graph.tensors() if place.tensor.used):
        writer.add_tensor(name, weights[name.removeprefix("blk.0.")])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_a_router_that_is_not_finite_is_noticed(tmp_path: Path, team: Team) -> None:
    """Though an expert whose logit is NaN would never be chosen: all that comes of it is NaN."""
    graph = graph_of(PLAIN, NORM)
    weights = write(tmp_path / "m.gguf", graph, "F32")
    x = inputs()[:2]
    assert all(np.isfinite(result).all() for result in run(tmp_path / "m.gguf", graph, x, team))
    for value in (np.nan, np.inf):
        weights["ffn_gate_inp.weight"][3, 5] = value
        save(tmp_path / "nan.gguf", graph, weights)
        for result in run(tmp_path / "nan.gguf", graph, x, team):
            assert not np.isfinite(result).any()


def test_a_run_names_the_router_that_is_not_finite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, part = tmp_path / "m.gguf", Experts(by_hand.WIDTH, 32, COUNT, 2, Router("softmax_chosen", normalize=False))
    made = by_hand.graph((Branch(by_hand.rms("ffn_norm"), part),))
    by_hand.write(path, made)
    with by_hand.load(path, made, monkeypatch) as model:
        assert np.isfinite(model.logits([1, 2])).all()
    file = gguf.GGUFReader(path, "r+")
    [router] = (tensor for tensor in file.tensors if tensor.name == "blk.0.ffn_gate_inp.weight")
    router.data[3, 5] = np.nan
    file.data.flush()
    with by_hand.load(path, made, monkeypatch) as model:
        for ids in ([1], [1, 2, 3]):
            with pytest.raises(GGUFError, match="logits are NaN or infinite") as caught:
                model.logits(ids)
            assert caught.value.tensor == "blk.0.ffn_gate_inp.weight"


def test_shares_of_a_sparse_mixer() -> None:
    """By hand: of logits 4, 3.9 and 2 the second is near the first, and nothing is near the second but the first."""
    routes = route(Router("sparse_mixer", near=0.05), 2, np.array([[4.0, 2.0, 3.9]]))
    assert routes.experts.tolist() == [[0, 2]]
    np.testing.assert_allclose(routes.weights, [[1 / (1 + np.exp(-0.1)), 1.0]])


def test_a_token_reads_its_experts_alone(tmp_path: Path) -> None:
    """What no token was sent to may hold anything: here NaN."""
    graph = graph_of(PLAIN, NORM)
    weights = write(tmp_path / "m.gguf", graph, "F32")
    x = inputs()[:2]
    logits = reference.experts.logits_of(PLAIN, weights, reference.normalize(NORM, weights, x))
    chosen = set(route(PLAIN.router, PLAIN.used, logits).experts.reshape(-1).tolist())
    assert len(chosen) < COUNT
    for expert in set(range(COUNT)) - chosen:
        for role in ("gate", "up", "down"):
            weights[f"ffn_{role}_exps.weight"][expert] = np.nan
    save(tmp_path / "nan.gguf", graph, weights)
    one_thread = Team(1)
    for result in run(tmp_path / "nan.gguf", graph, x, one_thread):
        assert np.isfinite(result).all()
    one_thread.close()


def test_of_equal_experts_the_first_is_chosen() -> None:
    routes = route(Router("sigmoid"), 2, np.zeros((1, 4), np.float32))
    assert routes.experts.tolist() == [[0, 1]]
    np.testing.assert_allclose(routes.weights, [[0.5, 0.5]])


def test_groups_leave_experts_out() -> None:
    logits = np.array([[9.0, -9.0, 5.0, 5.0, 4.0, 4.0]], np.float32)  # as sums: 0, 10, 8
    by_two = route(Router("softmax_chosen", groups=3, groups_used=1), 1, logits)
    assert by_two.experts.tolist() == [[2]]
    best = route(Router("softmax_chosen", groups=3, groups_used=1, group_score="max"), 1, logits)
    assert best.experts.tolist() == [[0]]


@pytest.mark.parametrize(
    "wrong",
    [
        replace(PLAIN, used=9),
        replace(PLAIN, router=Router(groups=3)),
        replace(PLAIN, used=3, router=Router(groups=8, groups_used=2)),
        replace(PLAIN, n_ff=40),
        replace(PLAIN, weight_first=True, bias=True),
        replace(PLAIN, activation="xielu"),
        replace(OWN_NORMS, shared=FeedForward(N_EMBD, 96, suffix="_shexp"), shared_gate=True),
    ],
)
def test_what_ops_cannot_compute_is_refused(wrong: Experts) -> None:
    with pytest.raises(UnsupportedError):
        ops(wrong).check(wrong)
