"""Argument words of the ops of this folder. Imports no numba.

Choices and orders are int64. Rows of activations are as the matrix products read them (matmul/args.py): float32 in
``codes`` with 0 for ``scales``, or int8 codes with scales and sums.
"""

from __future__ import annotations

from gguflike.kernels.engine.args import Args

MOST_EXPERTS = 4096  # whose scores a thread's scratch memory has room for

# How logits become scores: the codes of ``ROUTE.scoring``.
SCORINGS = {"softmax": 1, "sigmoid": 2, "softmax_chosen": 3, "sqrt_softplus": 4, "raw": 5, "sparse_mixer": 6}

ROUTE = Args(
    "experts.router:route",
    logits="address of float32 (tokens, experts)",
    experts="how many there are, at most MOST_EXPERTS",
    used="how many a token goes to",
    scoring="a value of SCORINGS",
    choice_bias="address of float32 (experts,), added to scores for the choice alone, or 0",
    groups="groups of experts, a divisor of experts",
    groups_used="how many of them experts are chosen from; used or more experts together",
    by_two="1: a group is as good as the sum of its best two experts; 0: as its best",
    normalize="1: weights are divided by their sum",
    near="float bits: how far below the best, relative to either's magnitude, SparseMixer weighs others against it",
    scale="float bits of what weights are multiplied by",
    output_scale="address of float32 (experts,), by which weights are multiplied, too, or 0",
    chosen="address of int64 (tokens, used): the experts, best first",
    shares="address of float32 (tokens, used): their weights",
)
SORT = Args(
    "experts.rows:sort",
    chosen="address of int64 (tokens, used)",
    experts="how many there are, at most MOST_EXPERTS",
    used="how many a token goes to",
    starts="address of int64 (experts + 1,): the place of each expert's first pair, and how many pairs there are",
    pairs="address of int64 (tokens * used,): the pair at each place",
    places="address of int64 (tokens * used,): the place of each pair",
)
GATHER = Args(
    "experts.rows:gather",
    pairs="address of int64 (tokens * used,)",
    used="how many experts a token goes to",
    columns="K",
    codes="address of the activations, (tokens, K)",
    scales="address of float32 (tokens, K / 32), or 0",
    sums="address of int32 (tokens, K / 16), or 0",
    to_codes="address of the same for each place, (tokens * used, K)",
    to_scales="address of float32 (tokens * used, K / 32), or 0",
    to_sums="address of int32 (tokens * used, K / 16), or 0",
)
# Of one token: an item is a row block of the matrix of a slot.
CHOSEN_MATVEC = Args(
    "experts.products:matvec",
    function="address of the code of a matvec op",
    weights="address of the first expert's matrix",
    expert_bytes="from one expert's matrix to the next",
    rows="N of a matrix",
    columns="K",
    codes="address of the activations, (1, K) or (used, K)",
    scales="address of float32 (..., K / 32); 0 for floating-point weights",
    sums="address of int32 (..., K / 16); 0 for floating-point weights",
    of_slots="1: each slot has a row of activations; 0: all have the same",
    bias="address of the first expert's bias, float32 (N,), or 0",
    bias_bytes="from one expert's bias to the next",
    factor="address of the first expert's float32 that products are multiplied by, or 0: by 1",
    factor_bytes="from one expert's factor to the next",
    chosen="address of int64 (used,)",
    out="address of float32 (used, N)",
)
# Of several tokens: an item is 32 rows of the matrix of an expert.
SORTED_MATMUL = Args(
    "experts.products:matmul",
    matmul="address of the code of a matmul op",
    matvec="address of the code of the matvec op of the same weights, for experts with FEW pairs; used where few is 1",
    few="1: both give the same bits",
    weights="address of the first expert's matrix",
    expert_bytes="from one expert's matrix to the next",
    rows="N of a matrix",
    columns="K",
    codes="address of the activations by place, (tokens * used, K)",
    scales="address of float32 (tokens * used, K / 32); 0 for floating-point weights",
    sums="address of int32 (tokens * used, K / 16); 0 for floating-point weights",
    bias="address of the first expert's bias, float32 (N,), or 0",
    bias_bytes="from one expert's bias to the next",
    factor="address of the first expert's float32 that products are multiplied by, or 0: by 1",
    factor_bytes="from one expert's factor to the next",
    starts="address of int64 (experts + 1,)",
    out="address of float32 (tokens * used, N)",
)
# Of several tokens, each by itself: an item is a token.
ALONE = Args(
    "experts.products:alone",
    function="address of the code of a matvec op",
    weights="address of the matrix",
    rows="N",
    columns="K",
    codes="address of the activations, (tokens, K)",
    scales="address of float32 (tokens, K / 32); 0 for floating-point weights",
    sums="address of int32 (tokens, K / 16); 0 for floating-point weights",
    bias="address of float32 (N,), or 0",
    factor="address of the float32 that products are multiplied by before the bias is added, or 0: by 1",
    out="address of float32 (tokens, N)",
)
WEIGH = Args(
    "experts.rows:weigh",
    rows="address of float32 (tokens * used, columns)",
    columns="values of a row, a multiple of 32",
    shares="address of float32 (tokens, used)",
    pairs="address of int64 (tokens * used,), or 0 where rows stand in the order of pairs",
)
COMBINE = Args(
    "experts.rows:combine",
    rows="address of float32 (tokens * used, columns): what the experts gave",
    places="address of int64 (tokens * used,), or 0 where rows stand in the order of pairs",
    shares="address of float32 (tokens, used), or 0 where rows are added as they are",
    used="how many rows a token has",
    columns="values of a row",
    pieces="items of a token: PIECE columns each",
    shared="address of float32 (tokens, columns), which is added, or 0",
    shared_gate="address of float32 (tokens,), by whose sigmoid ``shared`` is multiplied, or 0",
    scale="float bits of what the sum is multiplied by",
    add="1: add to what out holds; 0: overwrite it",
    out="address of float32 (tokens, columns)",
)
FEW = 1  # pairs that an expert multiplies one by one: matmul multiplies two at once, of which one would be wasted
PIECE = 256  # columns of an item of COMBINE
