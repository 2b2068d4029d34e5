"""Mixtures of experts as ops: the router, the chosen experts, those that all tokens share, and their sum."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from gguflike.blocks import FORMATS
from gguflike.errors import UnsupportedError
from gguflike.families.parts.experts import Experts
from gguflike.kernels.dispatch import linear_plan
from gguflike.kernels.engine.args import Word, float_bits
from gguflike.kernels.experts.args import (
    ALONE,
    CHOSEN_MATVEC,
    COMBINE,
    GATHER,
    MOST_EXPERTS,
    PIECE,
    ROUTE,
    SCORINGS,
    SORT,
    SORTED_MATMUL,
    WEIGH,
)
from gguflike.kernels.rows.args import GATE, GATE_Q8
from gguflike.runner.buffers import Activations
from gguflike.runner.matrix import Matrix, Stack
from gguflike.runner.parts import ops
from gguflike.runner.parts.checks import multiple
from gguflike.runner.parts.stateless import bytes_per_position as bytes_per_position
from gguflike.runner.parts.stateless import new_state as new_state
from gguflike.runner.schedule import MATVEC_GRAIN, SILU_GRAIN, Schedule, Source, Target, grain
from gguflike.runner.weights import LayerWeights

if TYPE_CHECKING:
    import numpy.typing as npt

_Linear = Callable[..., None]


def check(part: Experts) -> None:
    router = part.router
    multiple("n_ff of an expert", part.n_ff, 32)
    if part.activation == "xielu":
        raise UnsupportedError("experts with an activation that has constants", got=part.activation)
    if part.shared is not None:
        ops(part.shared).check(part.shared)
    possible = part.count // max(router.groups, 1) * router.groups_used
    grouped = router.groups > 0 and part.count % router.groups == 0 and 0 < router.groups_used <= router.groups
    if not grouped or not 0 < part.used <= min(possible, part.count) or part.count > MOST_EXPERTS:
        raise UnsupportedError(
            "experts",
            expected=f"at most {MOST_EXPERTS}, in groups of one size, of which those that are used have enough",
            got={
                "experts": part.count,
                "used": part.used,
                "groups": router.groups,
                "groups_used": router.groups_used,
            },
        )
    if part.weight_first and (part.bias or part.output_scaled):
        raise UnsupportedError(
            "experts whose input is weighted, with biases or scales of their outputs",
            expected="biases or scales only where outputs are weighted",
        )
    if (router.norm or part.input_norm) and part.shared_gate:
        raise UnsupportedError(
            "a gate of shared experts beside a router or experts with norms of their own",
            expected="one of the two at most",
        )


def emit(part: Experts, s: Schedule, weights: LayerWeights, state: None, source: Source, target: Target) -> None:  # noqa: ARG001
    shared = gate = 0
    if part.shared is not None:  # first, since what it hands on stands where the experts' input will
        shared = s.temp("shared", part.n_embd)
        ops(part.shared).emit(part.shared, s, weights, None, source, Target(shared, add=False))
    router, stacks = _router_matrix(part, weights), _stacks(part, weights)
    readers = [stack.matrix for stack in stacks[:-1]]
    logits = s.temp("router", part.count)
    first = [weights.matrix("ffn_latent_down")._replace(fixed=None)] if part.latent else []
    gates = [weights.alone("ffn_gate_inp_shexp")] if part.shared_gate else []
    own_inputs = part.router.norm is not None or part.input_norm is not None
    if own_inputs:
        if source.norm is not None:
            raise UnsupportedError(
                "a router or experts with a norm of their own, behind a norm of both",
                expected="one norm at most between the residual stream and the router",
            )
        own = Source(source.address, source.size, part.router.norm, weights)
        _linear_alone(s, router, s.read(own, (router,)), logits)
        source = Source(source.address, source.size, part.input_norm, weights)
    routers = [] if own_inputs else [router]
    is_one: bool = s.either(True, False)
    early = [*first, *routers, *gates]
    normed = s.read(source, [*early, *s.either([], readers)]) if early else s.read(source, readers)
    if not own_inputs:
        _linear_alone(s, router, normed, logits)
    if gates:
        gate = s.temp("shared_gate", 1)
        _linear_alone(s, gates[0], normed, gate, beside=not own_inputs)
    if part.latent:
        latent = s.temp("latent", part.latent)
        s.linear(first[0], normed, latent, beside=not own_inputs or part.shared_gate)
        normed = s.read(Source(latent, part.latent, None, weights), readers)
    elif is_one and early:
        normed = s.read(source, readers)  # again: a thread may have had nothing to do before, and not have read it
    mixture = s.either(_one, _several)
    given, routes = mixture(part, s, weights, logits, stacks, normed)
    if not part.latent:
        _combine(s, given, routes, part.used, part.n_embd, target, shared=shared, gate=gate, scale=part.total_scale)
        return
    summed, up, out = s.temp("latent", part.latent), weights.matrix("ffn_latent_up"), s.temp("latent_up", part.n_embd)
    _combine(s, given, routes, part.used, part.latent, Target(summed, add=False))
    s.linear(up, s.read(Source(summed, part.latent, None, weights), (up,)), out)
    _combine(s, out, None, 1, part.n_embd, target, shared=shared, gate=gate, scale=part.total_scale)


class _Routes(NamedTuple):
    """Where the choice stands: a token's experts and their weights, which are of the experts' input where
    ``weigh_first``, and for several tokens the pairs sorted by expert."""

    chosen: Word
    shares: Word
    weigh_first: bool
    starts: int = 0
    pairs: int = 0
    places: int = 0


def _router_matrix(part: Experts, weights: LayerWeights) -> Matrix:
    """The router's matrix, its columns multiplied by what multiplies its input."""
    router, matrix = part.router, weights.alone("ffn_gate_inp")
    if not router.scaled and router.input_scale == 1.0:
        return matrix
    factors = weights.floats("ffn_gate_inp.scale") if router.scaled else np.ones(part.n_embd, np.float32)

    def scaled(rows: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        made: npt.NDArray[np.float32] = rows * (factors * np.float32(router.input_scale))
        return made

    place, nbytes = weights.made("ffn_gate_inp.weight", scaled), 4 * part.count * part.n_embd
    return Matrix(linear_plan(FORMATS["F32"]), place, part.count, part.n_embd, nbytes, matrix.bias)


def _stacks(part: Experts, weights: LayerWeights) -> list[Stack]:
    """The experts' matrices: gate, where there is one, up and down."""
    down = weights.stack("ffn_down_exps")
    if not part.gated:
        return [weights.stack("ffn_up_exps"), down]
    if not part.fused:
        return [weights.stack("ffn_gate_exps"), weights.stack("ffn_up_exps"), down]
    both = weights.stack("ffn_gate_up_exps")
    return [both.of_rows(0, part.n_ff), both.of_rows(part.n_ff, part.n_ff), down]


def _linear_alone(s: Schedule, matrix: Matrix, source: Activations, out: int, beside: bool = False) -> None:
    """As `Schedule.linear`, with the same bits for several tokens as for one: which experts are chosen must not hang on
    how a text is cut into passes."""
    one: _Linear = s.linear
    several: _Linear = partial(_linear_by_token, s)
    s.either(one, several)(matrix, source._replace(refined=0), out, beside=beside)


def _linear_by_token(s: Schedule, matrix: Matrix, source: Activations, out: int, *, beside: bool) -> None:
    words = ALONE.pack(
        function=0,  # the program fills it in
        weights=matrix.address,
        rows=matrix.rows,
        columns=matrix.columns,
        **source.words(matrix.plan),
        bias=matrix.bias,
        factor=matrix.factor,
        out=out,
    )
    calls = (matrix.plan.matvec,)
    s.program.add("experts.products:alone", words, items=1, per_tokens=1, barrier=not beside, calls=calls)


def _route_words(part: Experts, weights: LayerWeights, logits: int, chosen: Word, shares: Word) -> tuple[Word, ...]:
    """The words of the op that chooses the experts of each token."""
    router = part.router
    return ROUTE.pack(
        logits=logits,
        experts=part.count,
        used=part.used,
        scoring=SCORINGS[router.scoring],
        choice_bias=weights.address(router.choice_bias) if router.choice_bias else 0,
        groups=router.groups,
        groups_used=router.groups_used,
        by_two=int(router.group_score == "top2"),
        normalize=int(router.normalize),
        near=float_bits(router.near),
        scale=float_bits(router.scale),
        output_scale=weights.address("ffn_down_exps.scale") if part.output_scaled else 0,
        chosen=chosen,
        shares=shares,
    )


def _route(part: Experts, s: Schedule, weights: LayerWeights, logits: int) -> _Routes:
    """Choose the experts of each token; of one token, each thread does so for itself."""
    chosen, shares = s.local("chosen", 2 * part.used), s.local("shares", part.used)  # int64 and float32
    s.each("experts.router:route", _route_words(part, weights, logits, chosen, shares))
    return _Routes(chosen, shares, part.weight_first)


def _publish(part: Experts, s: Schedule, weights: LayerWeights, logits: int) -> _Routes:
    """The same choice once more, beside those matrices, for what follows: threads that had nothing to do for them have
    not chosen."""
    chosen, shares = (
        s.buffers.scratch("chosen_of_all", 8 * part.used),
        s.buffers.scratch("shares_of_all", 4 * part.used),
    )
    words = _route_words(part, weights, logits, chosen, shares)
    s.program.add("experts.router:route", words, items=1, barrier=False)
    return _Routes(chosen, shares, part.weight_first)


def _sorted(part: Experts, s: Schedule, routes: _Routes) -> _Routes:
    """Sort the pairs of tokens and experts by expert."""
    places = {
        "starts": s.buffers.scratch("starts", 8 * (part.count + 1)),
        "pairs": s.temp("pairs", 2 * part.used),
        "places": s.temp("places", 2 * part.used),
    }
    words = SORT.pack(chosen=routes.chosen, experts=part.count, used=part.used, **places)
    s.program.add("experts.rows:sort", words, items=1)
    return _Routes(routes.chosen, routes.shares, routes.weigh_first, **places)


def _one(
    part: Experts, s: Schedule, weights: LayerWeights, logits: int, stacks: list[Stack], normed: Activations
) -> tuple[int, _Routes]:
    """The address of what the experts of one token give, float32 (used, width), and which these are."""
    routes = _route(part, s, weights, logits)  # by each thread, so that no op waits
    hidden = _hidden(part, s)
    *inner, down = stacks
    for index, (stack, out) in enumerate(zip(inner, _inner_outputs(part, s), strict=True)):
        words = _chosen_words(stack, routes, normed, False, out)
        size = grain(part.used * part.n_ff // 32, MATVEC_GRAIN // 2)
        settings = {"each": 2, "grain": size, "calls": (stack.matrix.plan.matvec,)}
        s.program.add(
            "experts.products:matvec",
            words,
            items=part.used * part.n_ff // 32,
            barrier=False,
            chained=index > 0,
            **settings,
        )
    for name, words in _activation(part, s, routes, hidden, down.matrix):
        s.program.add(name, words, items=part.used * part.n_ff // 32, barrier=False, chained=True)
    routes = _publish(part, s, weights, logits)
    given, items = s.temp("given", part.used * part.width), part.used * down.matrix.plan.matvec_items(down.matrix.rows)
    s.program.add(
        "experts.products:matvec",
        _chosen_words(down, routes, hidden, True, given),
        items=items,
        grain=grain(items, MATVEC_GRAIN),
        calls=(down.matrix.plan.matvec,),
    )
    return given, routes


def _several(
    part: Experts, s: Schedule, weights: LayerWeights, logits: int, stacks: list[Stack], normed: Activations
) -> tuple[int, _Routes]:
    """The address of what experts give for each place, float32 (tokens * used, width), and where places are."""
    routes = _sorted(part, s, _route(part, s, weights, logits))
    hidden, gathered = _hidden(part, s), s.buffers.apart("gathered", part.used * part.width)
    *inner, down = stacks
    for kind in sorted({stack.matrix.plan.activations for stack in inner}):
        floats = kind == "float32"
        words = GATHER.pack(
            pairs=routes.pairs,
            used=part.used,
            columns=part.width,
            codes=normed.floats if floats else normed.codes,
            scales=0 if floats else normed.scales,
            sums=0 if floats else normed.sums,
            to_codes=gathered.floats if floats else gathered.codes,
            to_scales=0 if floats else gathered.scales,
            to_sums=0 if floats else gathered.sums,
        )
        size = grain(part.used * s.buffers.batch, 1)
        s.program.add("experts.rows:gather", words, items=part.used, per_tokens=1, grain=size)
    for index, (stack, out) in enumerate(zip(inner, _inner_outputs(part, s), strict=True)):
        _sorted_product(s, stack, routes, gathered, out, barrier=index == 0)
    blocks = part.used * part.n_ff // 32
    for name, words in _activation(part, s, routes, hidden, down.matrix):
        s.program.add(name, words, items=blocks, per_tokens=1, grain=grain(blocks * s.buffers.batch, SILU_GRAIN))
    given = s.temp("given", part.used * part.width)
    _sorted_product(s, down, routes, hidden, given, barrier=True)
    return given, routes


def _sorted_product(
    s: Schedule, stack: Stack, routes: _Routes, source: Activations, out: int, *, barrier: bool
) -> None:
    """Multiply the rows of each expert's pairs by its matrix."""
    matrix = stack.matrix
    few = int(matrix.plan.activations == "int8")
    codes = {"matmul": 0, "matvec": 0}  # the program fills them in
    words = SORTED_MATMUL.pack(**codes, few=few, **_product_words(stack, source, out), starts=routes.starts)
    items = stack.size * matrix.plan.matmul_items(matrix.rows)
    calls = (matrix.plan.matmul, matrix.plan.matvec)
    s.program.add("experts.products:matmul", words, items=items, grain=grain(items, 1), barrier=barrier, calls=calls)


def _product_words(stack: Stack, source: Activations, out: int) -> dict[str, Word]:
    matrix = stack.matrix
    return {
        "weights": matrix.address,
        "expert_bytes": stack.stride,
        "rows": matrix.rows,
        "columns": matrix.columns,
        **source.words(matrix.plan),
        "bias": matrix.bias,
        "bias_bytes": stack.bias_stride,
        "factor": matrix.factor,
        "factor_bytes": stack.factor_stride,
        "out": out,
    }


def _chosen_words(stack: Stack, routes: _Routes, source: Activations, of_slots: bool, out: int) -> tuple[Word, ...]:
    return CHOSEN_MATVEC.pack(
        function=0, **_product_words(stack, source, out), of_slots=int(of_slots), chosen=routes.chosen
    )


def _inner_outputs(part: Experts, s: Schedule) -> list[int]:
    """Where the first matrices' results go: those of the gate, where there is one, and those of up."""
    names = ("expert_gate", "expert_up") if part.gated else ("expert_up",)
    return [s.temp(name, part.used * part.n_ff) for name in names]


def _hidden(part: Experts, s: Schedule) -> Activations:
    """The hidden values of the experts, which overwrite those of the first matrix."""
    rows = s.buffers.apart("expert_hidden", part.used * part.n_ff)
    return rows._replace(floats=_inner_outputs(part, s)[0])


def _activation(
    part: Experts, s: Schedule, routes: _Routes, hidden: Activations, down: Matrix
) -> list[tuple[str, tuple[Word, ...]]]:
    """The ops, of 32 values an item, that make hidden values of the first matrices' results."""
    made: list[tuple[str, tuple[Word, ...]]] = []
    outputs = _inner_outputs(part, s)
    if routes.weigh_first:
        for rows in outputs:
            weigh = WEIGH.pack(rows=rows, columns=part.n_ff, shares=routes.shares, pairs=routes.pairs)
            made.append(("experts.rows:weigh", weigh))
    is_int8 = down.plan.activations == "int8"
    words: dict[str, Word] = {
        "gate": outputs[0],
        "gate_stride": part.n_ff,
        "up": outputs[1] if part.gated else 0,
        "up_stride": part.n_ff,
        "columns": part.n_ff,
        "limit": float_bits(part.clamp or math.inf),
        **dict.fromkeys(("alpha_n", "alpha_p", "beta", "eps"), 0),
    }
    if is_int8:
        made.append((f"rows.gates:{part.activation}_q8", GATE_Q8.pack(**words, **hidden.quantized)))
    else:
        made.append((f"rows.gates:{part.activation}", GATE.pack(**words, out=hidden.floats)))
    return made


def _combine(
    s: Schedule,
    rows: int,
    routes: _Routes | None,
    used: int,
    columns: int,
    target: Target,
    *,
    shared: int = 0,
    gate: int = 0,
    scale: float = 1.0,
) -> None:
    """Add up ``used`` rows of each token, weighted by its routes, and what all tokens share."""
    pieces = -(-columns // PIECE)
    words = COMBINE.pack(
        rows=rows,
        places=routes.places if routes else 0,
        shares=routes.shares if routes and not routes.weigh_first else 0,
        used=used,
        columns=columns,
        pieces=pieces,
        shared=shared,
        shared_gate=gate,
        scale=float_bits(scale),
        add=int(target.add),
        out=target.address,
    )
    s.program.add("experts.rows:combine", words, items=pieces, per_tokens=1)
