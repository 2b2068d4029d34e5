"""Argument words of the recurrent ops. Imports no numba.

What is kept of a sequence is in its slot (``ROW_TYPE`` in engine/memory.py): ``past`` and ``matrices`` are addresses of
the first slot's, behind which the others' lie.
"""

from __future__ import annotations

from gguflike.kernels.engine.args import Args

CONV = Args(
    "recurrent.conv:silu",
    x="address of float32 (tokens, stride): the inputs begin there",
    stride="values from one token's inputs to the next one's",
    channels="channels, a multiple of 16",
    kernel="tokens that an output depends on",
    weight="address of float32 (kernel, channels)",
    bias="address of float32 (channels,), or 0",
    past="address of float32 (kernel - 1, channels): the inputs of the last tokens",
    rows="address of what the rows of the pass are: ROW_TYPE (tokens,)",
    out="address of float32 (tokens, channels)",
)
GATED_CONV = CONV.extended(
    "recurrent.conv:gated",
    before="address like x: what inputs are multiplied by",
    after="address like x: what outputs are multiplied by",
)
DELTA_GATES = Args(
    "recurrent.gates:delta",
    alpha="address of float32 (tokens, stride)",
    beta="address of float32 (tokens, stride)",
    stride="values of a token in both",
    heads="heads of values",
    run="heads whose values stand side by side",
    step="values from one such run to the next",
    bias="address of float32 (padded,): added to alpha",
    rate="address of float32 (padded,): what softplus(alpha + bias) is multiplied by",
    padded="heads rounded up to a multiple of 16",
    decay="address of float32 (tokens, padded)",
    strength="address of float32 (tokens, padded): sigmoid(beta)",
)
STEP_GATES = Args(
    "recurrent.gates:steps",
    dt="address of float32 (tokens, stride): the inputs begin there",
    stride="values from one token's inputs to the next one's",
    heads="heads",
    bias="address of float32 (padded,): added to dt",
    rate="address of float32 (padded,): what a step is multiplied by",
    padded="heads rounded up to a multiple of 16",
    decay="address of float32 (tokens, padded): exp(rate * step)",
    steps="address of float32 (tokens, padded): softplus(dt + bias)",
)
DELTA = Args(
    "recurrent.delta:rule",
    x="address of float32 (tokens, channels): queries, keys, values; queries and keys are normalized",
    channels="values of a token",
    key_heads="heads of queries and keys",
    value_heads="heads of values",
    head_dim="dimensions of a head, a multiple of 16",
    tiled="1: value head h goes with key head h % key_heads; 0: with h * key_heads // value_heads",
    decay="address of float32 (tokens, padded)",
    strength="address of float32 (tokens, padded)",
    padded="heads of values rounded up to a multiple of 16",
    matrices="address of float32 (value_heads, head_dim / 16, head_dim, 16)",
    rows="address of what the rows of the pass are: ROW_TYPE (tokens,)",
    out="address of float32 (tokens, value_heads * head_dim)",
)
DELTA_CHANNELS = Args(
    "recurrent.channels:rule",
    x="address of float32 (tokens, 3 * heads * head_dim): queries, keys, values; queries and keys are normalized",
    heads="heads of queries, of keys and of values",
    head_dim="dimensions of a head, a multiple of 16",
    decay="address of float32 (tokens, heads * head_dim): of each channel of keys",
    strength="address of float32 (tokens, padded)",
    padded="heads rounded up to a multiple of 16",
    matrices="address of float32 (heads, head_dim / 16, head_dim, 16)",
    rows="address of what the rows of the pass are: ROW_TYPE (tokens,)",
    out="address of float32 (tokens, heads * head_dim)",
)
SCAN_HEADS = Args(
    "recurrent.scan:heads",
    x="address of float32 (tokens, channels): x, B, C",
    channels="values of a token",
    inner="values of x",
    heads="heads, a divisor of inner",
    groups="groups of heads that share B and C",
    d_state="values of B, of C and of a row of the state; a multiple of 4",
    decay="address of float32 (tokens, padded)",
    steps="address of float32 (tokens, padded)",
    padded="heads rounded up to a multiple of 16",
    skip="address of float32 (heads,): what x is multiplied by and added",
    matrices="address of float32 (inner / 16, d_state, 16)",
    rows="address of what the rows of the pass are: ROW_TYPE (tokens,)",
    out="address of float32 (tokens, inner)",
)
SCAN_CHANNELS = Args(
    "recurrent.scan:channels",
    x="address of float32 (tokens, inner)",
    dt="address of float32 (tokens, inner), bias included",
    b="address of float32 (tokens, stride)",
    c="address of float32 (tokens, stride)",
    stride="values from one token's B or C to the next one's",
    inner="channels, a multiple of 16",
    d_state="values of B, of C and of a row of the state",
    rate="address of float32 (inner / 16, d_state, 16)",
    skip="address of float32 (inner,): what x is multiplied by and added",
    matrices="address of float32 (inner / 16, d_state, 16)",
    rows="address of what the rows of the pass are: ROW_TYPE (tokens,)",
    out="address of float32 (tokens, inner)",
)
UNIT_HEADS = Args(
    "recurrent.norms:unit",
    x="address of float32 (tokens, channels): queries, then keys",
    channels="values of a token",
    heads="heads of queries, and as many of keys",
    head_dim="dimensions of a head, a multiple of 16",
    scale="float bits of what queries are multiplied by",
)
GATED_NORM = Args(
    "recurrent.norms:gated",
    y="address of float32 (tokens, groups * size)",
    z="address of float32 (tokens, stride): the gates begin there",
    stride="values from one token's gates to the next one's",
    groups="groups of a token",
    size="values of a group, a multiple of 16",
    weight="address of float32 (size,) or (groups, size); 0: nothing is normalized",
    next_weight="bytes from one group's weights to the next one's, 0 where all share them",
    eps="float bits",
    gate_first="1: norm(y * silu(z)); 0: norm(y) * silu(z)",
    out="address of float32 (tokens, groups * size)",
)
SLICE = Args(
    "recurrent.norms:slice",
    x="address of float32 (tokens, stride): the rows begin there",
    stride="values from one token's row to the next one's",
    columns="values of a row, any number",
    normed="1: rows are normalized",
    weight="address of float32 (columns,), or 0",
    eps="float bits",
    out="address of float32 (tokens, out_stride), which may be x",
    out_stride="values from one token's result to the next one's",
)
