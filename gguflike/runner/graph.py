"""The one interpreter of ``ArchSpec.graph``: from options and weights to a program of ops.

A pass of the *body* takes T tokens from ids to the last layer's output; a pass of the *head* takes up to
``HEAD_TOKENS`` of them to logits. Each exists twice: for one token (``matvec`` ops) and for several (``matmul``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from gguflike.arch.spec import ArchSpec, HParams
from gguflike.errors import UnsupportedError
from gguflike.kernels.layout import activation_arrays
from gguflike.kernels.program import (
    ATTENTION_HEADS,
    ATTENTION_KEYS,
    Program,
    aligned,
    attention_part,
    attention_rows,
    float_bits,
)
from gguflike.runner.cache import KVCache
from gguflike.runner.weights import Matrix, Weights

BATCH = 512  # tokens of one pass: enough to reuse every weight from cache, few enough for small buffers
HEAD_TOKENS = 32
MATVEC_GRAIN = 4  # groups of 16 rows
ROPE_GRAIN = 16  # tokens; keys of one block are then written by one thread
SILU_GRAIN = 16  # blocks of 32 values


def check(spec: ArchSpec, h: HParams) -> None:
    """UnsupportedError where the model asks for what the ops cannot compute."""
    graph = spec.graph
    if (graph.norm, graph.activation, graph.ffn, graph.qk_norm) != ("rms", "silu", "gated", False):
        raise UnsupportedError("running this model family", got=f"{spec.name}: {graph}", expected="a Llama graph")
    rotated = {"norm": 16, "neox": 32}.get(graph.rope)
    for name, step in (("head_dim", 16), ("n_ff", 32), ("n_embd", 16), ("n_rot", rotated)):
        if step and h[name] % step:
            raise UnsupportedError(f"{name} of this model", expected=f"a multiple of {step}", got=h[name])
    if h["n_head"] % h["n_head_kv"] or h["n_rot"] > h["head_dim"]:
        raise UnsupportedError(
            "attention shape",
            expected="n_head a multiple of n_head_kv, n_rot at most head_dim",
            got={name: h[name] for name in ("n_head", "n_head_kv", "n_rot", "head_dim")},
        )


class Buffers:
    """What a pass writes between its ops. Large, but only the pages that a pass needs are ever touched."""

    def __init__(self, h: HParams, positions: int) -> None:
        queries, keys, n_ff = h["n_head"] * h["head_dim"], h["n_head_kv"] * h["head_dim"], h["n_ff"]
        widest = max(h["n_embd"], queries, n_ff)
        self.ids: npt.NDArray[np.int32] = aligned(BATCH, np.int32)
        self.x: npt.NDArray[np.float32] = aligned(BATCH * h["n_embd"], np.float32).reshape(BATCH, -1)
        self.angles: npt.NDArray[np.float32] = aligned(BATCH * 2 * h["n_rot"], np.float32).reshape(BATCH, 2, -1)
        self.logits: npt.NDArray[np.float32] = aligned(HEAD_TOKENS * h["n_vocab"], np.float32).reshape(HEAD_TOKENS, -1)
        self.head_x: npt.NDArray[np.float32] = aligned(HEAD_TOKENS * h["n_embd"], np.float32).reshape(HEAD_TOKENS, -1)
        self.normed, self.attended = aligned(BATCH * h["n_embd"], np.float32), aligned(BATCH * queries, np.float32)
        self.q, self.k, self.v = (aligned(BATCH * size, np.float32) for size in (queries, keys, keys))
        self.gate, self.up = (aligned(BATCH * n_ff, np.float32) for _ in range(2))
        self.parts = aligned(-(-positions // ATTENTION_KEYS) * h["n_head"] * attention_part(1, h["head_dim"]))
        self.quantized = activation_arrays(BATCH, widest)

    def quantized_words(self) -> tuple[int, int, int]:
        """Addresses of CODES, SCALES and SUMS."""
        return tuple(_at(self.quantized[name]) for name in ("codes", "scales", "sums"))  # type: ignore[return-value]


def _at(array: npt.NDArray[Any]) -> int:
    return int(array.ctypes.data)


class _Builder:
    """Adds the parts of one program; ``many`` says whether it is for several tokens."""

    def __init__(self, h: HParams, weights: Weights, buffers: Buffers, many: bool) -> None:
        self.h, self.weights, self.buffers, self.many = h, weights, buffers, many
        self.program = Program(keep=[weights, buffers])
        self.q8 = buffers.quantized_words()

    def add(self, name: str, *args: int, items: int = 1, per_tokens: int = 1, grain: int = 1) -> None:
        self.program.add(name, *args, items=items, per_tokens=per_tokens, grain=grain)

    def quantize(self, x: int, columns: int) -> None:
        self.add("quantize:rows", x, columns, *self.q8)

    def norm(self, x: int, name: str, readers: Sequence[Matrix]) -> int:
        """Normalize for ``readers``; returns the address of the float32 result for those that read floats."""
        columns, eps = self.h["n_embd"], float_bits(self.h["norm_eps"])
        kinds = {matrix.plan.activations for matrix in readers}
        head = (x, columns, self.weights.vector(name), eps)
        normed = _at(self.buffers.normed)
        if kinds == {"int8"}:
            self.add("ops:rms_norm_q8", *head, *self.q8)
        else:
            self.add("ops:rms_norm", *head, normed)
            if "int8" in kinds:
                self.quantize(normed, columns)
        return normed

    def linear(self, matrix: Matrix, floats: int, out: int, add: bool = False, barrier: bool = True) -> None:
        """``out`` (+)= activations @ matrix.T, the activations being ``floats`` or the quantized ones."""
        plan, rows = matrix.plan, matrix.rows
        source = self.q8 if plan.activations == "int8" else (floats, 0, 0)
        words = (matrix.address, rows, matrix.columns, *source, out, rows, int(add), matrix.bias)
        if self.many:
            self.program.add(plan.matmul, *words, items=plan.matmul_items(rows), barrier=barrier)
        else:
            items = plan.matvec_items(rows)
            self.program.add(plan.matvec, *words, items=items, grain=MATVEC_GRAIN, barrier=barrier)

    def attention(self, layer: int, cache: KVCache, rope: str, readers: Sequence[Matrix]) -> int:
        """Rotation, cache and attention; returns the address of the float32 result."""
        h, b = self.h, self.buffers
        n_head, kv_heads, dim, n_rot = h["n_head"], h["n_head_kv"], h["head_dim"], h["n_rot"]
        cached, turn = cache.addresses(layer), (_at(b.angles), n_rot, int(rope == "neox"))
        quantized = all(matrix.plan.activations == "int8" for matrix in readers)
        fused = quantized and dim % 32 == 0
        target = (_at(b.attended), *(self.q8 if fused else (0, 0, 0)))
        heads = heads_together(n_head // kv_heads, attention_rows(dim) if self.many else ATTENTION_HEADS)
        groups, scale = n_head // heads, float_bits(dim**-0.5)
        fresh = (_at(b.k), _at(b.v))
        shape = (_at(b.q), *turn, *cached, n_head, kv_heads, dim, cache.positions, heads, scale)
        if self.many:
            span = attention_rows(dim) // heads
            self.add(f"rope:store_{cache.type}", *shape, *fresh, grain=ROPE_GRAIN)
            self.add(f"attention:{cache.type}", *shape, span, *target, items=groups, per_tokens=span)
        else:
            name, words = f"attention:{cache.type}_{heads}", (*shape, *fresh, _at(b.parts))
            self.program.add(name, *words, items=groups, per_keys=ATTENTION_KEYS)
            self.program.add("attention:merge", _at(b.parts), heads, n_head, dim, *target, items=groups)
        if quantized and not fused:
            self.quantize(_at(b.attended), n_head * dim)
        return _at(b.attended)

    def gated(self, readers: Sequence[Matrix]) -> int:
        """silu(gate) * up; returns the address of the float32 result."""
        gate, blocks = _at(self.buffers.gate), self.h["n_ff"] // 32
        if all(matrix.plan.activations == "int8" for matrix in readers):
            self.add("ops:silu_mul_q8", gate, _at(self.buffers.up), *self.q8, items=blocks, grain=SILU_GRAIN)
        else:
            self.add("ops:silu_mul", gate, _at(self.buffers.up), gate, items=blocks, grain=SILU_GRAIN)
        return gate


def heads_together(group: int, most: int) -> int:
    """How many of the ``group`` query heads of a key head an item of attention takes."""
    return max(heads for heads in range(1, most + 1) if group % heads == 0)


def body(spec: ArchSpec, h: HParams, weights: Weights, buffers: Buffers, cache: KVCache, many: bool) -> Program:
    """From ids and rotation factors in ``buffers`` to the last layer's output in ``buffers.x``."""
    build = _Builder(h, weights, buffers, many)
    table, x, matrix = weights.embedding, _at(buffers.x), weights.matrix
    blocks = h["n_embd"] // table.format.block_size
    words = (_at(buffers.ids), _at(table.data), table.format.row_bytes(h["n_embd"]), blocks, x, h["n_embd"])
    build.add(f"embed:{table.format.name}", *words)
    for layer in range(h["n_layer"]):
        q, k, v, out = (matrix(f"blk.{layer}.attn_{name}.weight") for name in ("q", "k", "v", "output"))
        gate, up, down = (matrix(f"blk.{layer}.ffn_{name}.weight") for name in ("gate", "up", "down"))
        normed = build.norm(x, f"blk.{layer}.attn_norm.weight", (q, k, v))
        build.linear(q, normed, _at(buffers.q))
        build.linear(k, normed, _at(buffers.k), barrier=False)
        build.linear(v, normed, _at(buffers.v), barrier=False)
        build.linear(out, build.attention(layer, cache, spec.graph.rope, (out,)), x, add=True)
        normed = build.norm(x, f"blk.{layer}.ffn_norm.weight", (gate, up))
        build.linear(gate, normed, _at(buffers.gate))
        build.linear(up, normed, _at(buffers.up), barrier=False)
        build.linear(down, build.gated((down,)), x, add=True)
    build.program.keep.append(cache)
    return build.program


def head(h: HParams, weights: Weights, buffers: Buffers, many: bool) -> Program:
    """From ``buffers.head_x`` to ``buffers.logits``."""
    build = _Builder(h, weights, buffers, many)
    output = weights.matrix("output.weight")
    normed = build.norm(_at(buffers.head_x), "output_norm.weight", (output,))
    build.linear(output, normed, _at(buffers.logits))
    return build.program
