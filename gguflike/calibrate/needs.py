"""What a walk through a model takes of memory and of the disk, from shapes alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import prod

from gguflike.calibrate import store
from gguflike.calibrate.fisher import at_once, gradient_bytes, logit_rows
from gguflike.calibrate.passes import SLAB
from gguflike.calibrate.rounding import ROUNDED
from gguflike.calibrate.sums import Collecting
from gguflike.calibrate.walk import shared
from gguflike.families.parts import Attention, Block, Graph, Head, Tensor
from gguflike.families.parts.extras import LayerEmbeddings
from gguflike.reference.parts import QUERIES

FLOAT32 = 4
ROWS = 4
"""Rows as wide as the widest that a token has while a step is computed: what comes in, goes out, and is between."""
BASE = 400_000_000
"""What Python, the libraries and compiled kernels take."""
KEPT = 16
"""Rows as wide as the widest that a token has while a block is computed backward."""
LOGITS = 4
"""Arrays as large as the logits that are there together: these, what they are made of, probabilities, gradients."""
ERRORS = 4
"""Arrays as large as a matrix where its errors are measured: as it decodes, the errors, and their products."""
PARTS = 8
"""Arrays as large as the rows that are rounded together: targets, values, errors, encodings."""
DESCENDING = 3
"""Arrays as large as a matrix that is rounded under both factors: targets in order, values, errors."""


def disk(graph: Graph, tokens: int, collecting: Collecting, both: bool) -> int:
    """Bytes of the workspace: hidden states before and after a layer, sums of stacks of experts, and, where ``both``
    the float and the quantized model run, the inputs of a matrix."""
    states = 2 * (1 + both) * FLOAT32 * tokens * graph.embedding.n_embd
    stacks = {
        (tensor.shape[0], tensor.shape[2])
        for block in graph.blocks
        for step in block
        for tensor in _matrices(step.tensors())
        if len(tensor.shape) == 3
    }
    sums = sum(count * collecting.size(columns, False) for count, columns in stacks)
    return states + sums + both * FLOAT32 * tokens * _widest(graph)


def kept(graph: Graph) -> dict[str, int]:
    """Bytes of the Gram matrices of all that a model multiplies, as `store` keeps them: of each group, by the name of
    its first tensor."""
    shapes = {name: tensor.shape for name, _, tensor in graph.tensors() if tensor.used}
    return {names[0]: store.size(columns, prod(shapes[names[0]][:-2])) for names, columns in shared(graph)}


def backward(graph: Graph, tokens: int) -> int:
    """Bytes that a backward pass keeps until its end: what each block was given and, where it needs that no more, the
    gradients; keys, values and inputs that several blocks read, with the gradients by them before and after a block;
    and of stacks H_O of one block."""
    rows = (len(graph.blocks) + 2) * graph.embedding.n_embd + 3 * _beside(graph)
    stacks = (sum(_output(t) for t in _of_block(block) if len(t.shape) == 3) for block in graph.blocks)
    return FLOAT32 * tokens * rows + max(stacks, default=0)


def _beside(graph: Graph) -> int:
    """Values of a token that stand beside the residual stream: keys and values of layers that others read, and inputs
    of all blocks."""
    makers = (mixer for layer in graph.shared_layers for step in graph.blocks[layer] for mixer in step.mixers())
    keys = sum(each.kv_size + each.kv_heads * each.of_values for each in makers if isinstance(each, Attention))
    return keys + sum(part.layers * part.size for part in graph.inputs if isinstance(part, LayerEmbeddings))


def outputs(graph: Graph, tokens: int) -> int:
    """Bytes of what it finds: of each matrix H_O, and how much each token matters."""
    return sum(_output(tensor) + FLOAT32 * tokens for block in graph.blocks for tensor in _of_block(block))


def _output(tensor: Tensor) -> int:
    return FLOAT32 * prod(tensor.shape[:-2]) * tensor.shape[-2] ** 2


def _of_block(block: Block) -> Iterable[Tensor]:
    return (tensor for step in block for tensor in _matrices(step.tensors()))


def memory(
    graph: Graph,
    longest: int,
    collecting: Collecting,
    cross: bool,
    both: bool,
    threads: int,
    limit: int,
    outputs: bool = False,
) -> int:
    """Bytes at the largest step of a model, on sequences of up to ``longest`` tokens, beside `BASE`: the float weights
    of the step, and what it takes to sum up (the sums of a pass, of up to ``limit`` bytes, where they can be divided,
    the inputs of a slab, what sequences compute on so many ``threads``) or, where ``both`` models run, to quantize a
    matrix, by H_O as well where there are ``outputs``."""
    steps = [list(_matrices(step.tensors())) for block in graph.blocks for step in block]
    head = FLOAT32 * graph.head.n_vocab * graph.head.n_embd if isinstance(graph.head, Head) else 0
    heads = max((getattr(mixer, "heads", 1) for mixer in graph.mixers()), default=1)
    running = threads * FLOAT32 * longest * (ROWS * _widest(graph) + 2 * heads * min(longest, QUERIES))
    slab = 2 * (1 + both) * FLOAT32 * (SLAB + longest) * _widest(graph)  # as sequences give it, and joined
    summing = max(_weights(step) + _sums(step, collecting, cross, both, limit) for step in steps) + running + slab
    rounding = max((_rounding(step, cross, outputs) for step in steps), default=0) if both else 0
    return max(summing, rounding, head)  # which is read when nothing else is there


def choosing(graph: Graph, longest: int, collecting: Collecting, threads: int, limit: int, outputs: bool) -> int:
    """Bytes of measuring what types cost, at the largest step of a model, beside `BASE`: as of `memory` for the float
    model; and beside the weights and sums, a matrix, with H_O where there are ``outputs``, and its errors as they are
    multiplied, or what it takes to round it."""
    most = memory(graph, longest, collecting, False, False, threads, limit)
    for step in (list(_matrices(step.tensors())) for block in graph.blocks for step in block):
        held = _weights(step) + _sums(step, collecting, False, False, limit)
        for matrix in step:
            rows, columns = matrix.shape[-2:]
            measuring, rounding = ERRORS * rows * columns, columns**2 + _at_hand(rows, columns, outputs)
            most = max(most, held + FLOAT32 * (rows * columns + outputs * rows**2 + max(measuring, rounding)))
    return most


def learning(graph: Graph, longest: int, threads: int) -> int:
    """Bytes of a backward pass at the largest block of a model, beside `BASE`: the float weights, H_O of plain
    matrices, the gradients that are held, and what sequences of up to ``longest`` tokens compute and keep of a part, on
    as many of ``threads`` as gradients are held of sequences; or before, as they run forward on all; or, behind it, H_O
    and the one that is told; or behind the last block the output matrix and, on each thread, logits and what they
    become."""
    row, most = FLOAT32 * longest * _widest(graph), 0
    for block in graph.blocks:
        matrices = list(_of_block(block))
        plain = sum(_output(tensor) for tensor in matrices if len(tensor.shape) == 2)
        held = at_once(longest, block)
        backward = plain + held * gradient_bytes(longest, block) + min(held, threads) * KEPT * row
        telling = plain + max((_output(tensor) for tensor in matrices if len(tensor.shape) == 2), default=0)
        most = max(most, telling, _weights(matrices) + max(backward, threads * ROWS * row))
    head = 0
    if isinstance(graph.head, Head):
        tokens = min(longest, logit_rows(graph.head.n_vocab))
        head = graph.head.n_vocab * (graph.head.n_embd + threads * LOGITS * tokens)
    return max(most, FLOAT32 * head)


def training(graph: Graph, longest: int, trained: Sequence[int], coarse: int, weights: int, threads: int) -> int:
    """Bytes that tuning end to end takes at most, of a model of so many ``weights``: matrices that are ``trained`` have
    so many each, of which the codes of ``coarse`` move.

    Floats of the model, as it is and as its blocks decode; gradients of what is trained, added up and of each thread;
    codes at the beginning, now and at best; real weights behind codes that move and their integer scales, of 16 or more
    each, with both of Adam's moments; and what a sequence of ``longest`` tokens computes.
    """
    lasting = FLOAT32 * 2 * weights + (FLOAT32 * (1 + threads) + 3) * sum(trained) + 14 * coarse
    activations = FLOAT32 * longest * (8 * _widest(graph) + 2 * graph.embedding.n_embd * len(graph.blocks))
    logits = FLOAT32 * longest * graph.embedding.n_vocab * 6
    return lasting + FLOAT32 * 6 * max(trained, default=0) + threads * (activations + logits)


def alone(graph: Graph) -> int:
    """Bytes at the largest matrix of a model that is rounded by itself, without C."""
    matrices = (tensor for block in graph.blocks for step in block for tensor in _matrices(step.tensors()))
    return max((_rounding([matrix], False, False) for matrix in matrices), default=0)


def _rounding(step: Sequence[Tensor], cross: bool, outputs: bool) -> int:
    """Bytes that it takes to quantize the largest matrix of a step: its statistics, the factor of the Hessian or (for
    blocks of vectors, behind it) the Hessian in its order, the target where inputs are off, the rows at hand. Other
    weights of the step are there as well, unless it is the last."""
    most = 0
    for number, matrix in enumerate(step, 1):
        *stack, rows, columns = matrix.shape
        corrected = cross and not stack
        squares = (2 + corrected) * columns**2 + outputs * rows**2
        weights = FLOAT32 * prod(matrix.shape) if number == len(step) else _weights(step)
        beside = corrected * rows * columns + _at_hand(rows, columns, outputs)
        most = max(most, weights + FLOAT32 * (squares + beside))
    return most


def _at_hand(rows: int, columns: int, outputs: bool) -> int:
    """Numbers of the rows that are rounded together, or of the whole matrix where its ``outputs`` are known."""
    return max(PARTS * min(rows * columns, max(ROUNDED, columns)), outputs * DESCENDING * rows * columns)


def _weights(step: Iterable[Tensor]) -> int:
    return sum(FLOAT32 * prod(matrix.shape) for matrix in step)


def _sums(step: Iterable[Tensor], collecting: Collecting, cross: bool, both: bool, limit: int) -> int:
    """Bytes of the sums of a pass: those of one group where both models run, otherwise as many as fit."""
    plain = [collecting.size(columns, cross) for columns in {m.shape[-1] for m in step if len(m.shape) == 2}]
    one = [collecting.size(columns, False) for columns in {m.shape[-1] for m in step if len(m.shape) == 3}]
    at_once = max([*plain, *(max(each, limit) for each in one)], default=0)
    return at_once if both else max(at_once, min(sum(plain), limit))


def _matrices(tensors: Iterable[Tensor]) -> Iterable[Tensor]:
    return (tensor for tensor in tensors if tensor.is_matrix)


def _widest(graph: Graph) -> int:
    return max((mixer.widest for mixer in graph.mixers()), default=graph.embedding.n_embd)
