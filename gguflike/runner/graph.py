"""The one interpreter of ``ArchSpec.graph``: from options and weights to a program of ops.

One token goes from its id to its logits in one pass (``one``, of ``matvec`` ops). Several take two: the *body*, up to
``BATCH`` tokens from ids to the last layer's output (``matmul``), and the *head*, up to ``HEAD_TOKENS`` of them to
logits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from gguflike.arch.spec import ArchSpec, HParams
from gguflike.errors import UnsupportedError
from gguflike.kernels.args import EMBED, RMS_NORM, RMS_NORM_Q8, SILU_MUL, SILU_MUL_Q8
from gguflike.kernels.attention.args import ATTENTION, ATTENTION_ONE, MERGE, STORE_KV
from gguflike.kernels.attention.sizes import ATTENTION_HEADS, ATTENTION_KEYS, attention_rows, part_bytes
from gguflike.kernels.dispatch import embed_op
from gguflike.kernels.engine.args import Own, Word, float_bits
from gguflike.kernels.engine.memory import aligned
from gguflike.kernels.engine.program import Program
from gguflike.kernels.matmul.args import MATMUL
from gguflike.kernels.matmul.records import LinearPlan, activation_arrays
from gguflike.kernels.vector.args import QUANTIZE_ROWS
from gguflike.runner.cache import KVCache
from gguflike.runner.weights import Matrix, Weights

BATCH = 512  # tokens of one pass: enough to reuse every weight from cache, few enough for small buffers
HEAD_TOKENS = 32
MATVEC_GRAIN = 2  # groups of 16 rows: a unit of gate and up is two
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


class Activations(NamedTuple):
    """Where what a matrix product reads stands: addresses of float32, or of int8 codes, their scales and sums."""

    floats: Word
    codes: Word
    scales: Word
    sums: Word

    @property
    def quantized(self) -> dict[str, Word]:
        """The words of an op that reads or writes them as int8."""
        return {"codes": self.codes, "scales": self.scales, "sums": self.sums}

    def words(self, plan: LinearPlan) -> dict[str, Word]:
        """Return the words of the matmul ops of ``plan``."""
        return self.quantized if plan.activations == "int8" else {"codes": self.floats, "scales": 0, "sums": 0}

    def quantize(self, columns: int) -> tuple[Word, ...]:
        """Return the words of the op that makes int8 of the float32."""
        return QUANTIZE_ROWS.pack(x=self.floats, columns=columns, **self.quantized)


class Buffers:
    """What a pass writes between its ops. Large, but only the pages that a pass needs are ever touched.

    ``normed``, ``attended`` and ``gated`` are shared by all threads; ``own`` is each thread's, for one token.
    """

    def __init__(self, h: HParams, positions: int, threads: int) -> None:
        queries, keys, n_ff = h["n_head"] * h["head_dim"], h["n_head_kv"] * h["head_dim"], h["n_ff"]
        widest = max(h["n_embd"], queries)
        self.ids: npt.NDArray[np.int32] = aligned(BATCH, np.int32)
        self.x: npt.NDArray[np.float32] = aligned(BATCH * h["n_embd"], np.float32).reshape(BATCH, -1)
        self.cos_sin: npt.NDArray[np.float32] = aligned(positions * 2 * h["n_rot"], np.float32)
        self.cos_sin = self.cos_sin.reshape(positions, 2, -1)
        self.logits: npt.NDArray[np.float32] = aligned(HEAD_TOKENS * h["n_vocab"], np.float32).reshape(HEAD_TOKENS, -1)
        self.head_x: npt.NDArray[np.float32] = aligned(HEAD_TOKENS * h["n_embd"], np.float32).reshape(HEAD_TOKENS, -1)
        self.q, self.k, self.v = (aligned(BATCH * size, np.float32) for size in (queries, keys, keys))
        self.gate, self.up = (aligned(BATCH * n_ff, np.float32) for _ in range(2))
        self.parts = aligned(-(-positions // ATTENTION_KEYS) * h["n_head"] * part_bytes(1, h["head_dim"]))
        self._floats = [aligned(BATCH * size, np.float32) for size in (h["n_embd"], queries)]
        self._quantized = activation_arrays(BATCH, max(widest, n_ff))
        quantized = [_at(self._quantized[name]) for name in ("codes", "scales", "sums")]
        self.normed, self.attended, self.gated = (
            Activations(_at(floats), *quantized) for floats in (*self._floats, self.gate)
        )
        stride = -(-widest * 6 // 1024) * 1024  # of 4 bytes of floats, 1 of codes, and 3/8 of scales and sums
        self._own = aligned(threads * stride)
        first = _at(self._own)
        places = (first, *(first + widest * eighths // 8 for eighths in (32, 40, 41)))
        self.own = Activations(*(Own(place, stride) for place in places))


def _at(array: npt.NDArray[Any]) -> int:
    return int(array.ctypes.data)


class _Builder:
    """Adds the parts of one program; ``many`` says whether it is for several tokens.

    What stands between the matrix products of one token is so little that each thread does it for itself rather than
    wait for another.
    """

    def __init__(self, h: HParams, weights: Weights, buffers: Buffers, many: bool) -> None:
        self.h, self.weights, self.buffers, self.many = h, weights, buffers, many
        self.program = Program(keep=[weights, buffers])

    def between(self, name: str, args: tuple[Word, ...], *, items: int = 1) -> None:
        """Add an op on all tokens that prepares what matrix products read; it may follow another such op."""
        if self.many:
            self.program.add(name, args, items=items, per_tokens=1)
        else:
            self.program.add(name, args, items=items, own=True, barrier=not self._after_own())

    def _after_own(self) -> bool:
        return bool(self.program.ops) and self.program.ops[-1].own

    def norm(self, x: int, name: str, readers: Sequence[Matrix]) -> Activations:
        """Normalize for ``readers``."""
        result = self.buffers.normed if self.many else self.buffers.own
        columns, eps = self.h["n_embd"], float_bits(self.h["norm_eps"])
        kinds = {matrix.plan.activations for matrix in readers}
        words: dict[str, Word] = {"x": x, "columns": columns, "weight": self.weights.vector(name), "eps": eps}
        if kinds == {"int8"}:
            self.between("ops:rms_norm_q8", RMS_NORM_Q8.pack(**words, **result.quantized))
        else:
            self.between("ops:rms_norm", RMS_NORM.pack(**words, out=result.floats))
            if "int8" in kinds:
                self.between("vector.quantize:rows", result.quantize(columns))
        return result

    def linear(self, matrix: Matrix, source: Activations, out: int, add: bool = False, **settings: Any) -> None:
        """``out`` (+)= activations @ matrix.T; ``settings`` are those of ``Op``."""
        plan, rows = matrix.plan, matrix.rows
        words = MATMUL.pack(
            weights=matrix.address,
            rows=rows,
            columns=matrix.columns,
            **source.words(plan),
            out=out,
            stride=rows,
            add=int(add),
            bias=matrix.bias,
        )
        settings = {"barrier": not self._after_own()} | settings
        if self.many:
            self.program.add(plan.matmul, words, **{"items": plan.matmul_items(rows)} | settings)
        else:
            items = {"items": plan.matvec_items(rows), "grain": MATVEC_GRAIN}
            self.program.add(plan.matvec, words, **items | settings)

    def attention(self, layer: int, cache: KVCache, rope: str, readers: Sequence[Matrix]) -> Activations:
        """Rotate, store in the cache, and attend to it."""
        h, b = self.h, self.buffers
        n_head, n_head_kv, dim = h["n_head"], h["n_head_kv"], h["head_dim"]
        heads = heads_together(n_head // n_head_kv, attention_rows(dim) if self.many else ATTENTION_HEADS)
        groups = n_head // heads
        store: dict[str, Word] = {
            "cos_sin": _at(b.cos_sin),
            "n_rot": h["n_rot"],
            "neox": int(rope == "neox"),
            **cache.addresses(layer),
            "n_head_kv": n_head_kv,
            "head_dim": dim,
            "context": cache.positions,
            "k": _at(b.k),
            "v": _at(b.v),
        }
        queries: dict[str, Word] = {
            **store,
            "q": _at(b.q),
            "n_head": n_head,
            "heads": heads,
            "scale": float_bits(dim**-0.5),
        }
        result = b.attended if self.many else b.own
        quantized = all(matrix.plan.activations == "int8" for matrix in readers)
        fused = quantized and dim % 32 == 0
        codes = result.quantized if fused else dict.fromkeys(("codes", "scales", "sums"), 0)
        if self.many:
            span = attention_rows(dim) // heads
            words = STORE_KV.pack(**store)
            self.program.add(f"attention.rope:store_{cache.type}", words, items=1, per_tokens=1, grain=ROPE_GRAIN)
            words = ATTENTION.pack(**queries, span=span, out=result.floats, **codes)
            self.program.add(f"attention.causal:{cache.type}", words, items=groups, per_tokens=span)
        else:
            words = ATTENTION_ONE.pack(**queries, parts=_at(b.parts))
            self.program.add(f"attention.causal:{cache.type}_{heads}", words, items=groups, per_keys=ATTENTION_KEYS)
            words = MERGE.pack(parts=_at(b.parts), heads=heads, n_head=n_head, head_dim=dim, out=result.floats, **codes)
            self.between("attention.causal:merge", words, items=groups)
        if quantized and not fused:
            self.between("vector.quantize:rows", result.quantize(n_head * dim))
        return result

    def gated(self, gate: Matrix, up: Matrix, source: Activations, readers: Sequence[Matrix]) -> Activations:
        """Multiply silu(gate) by up. Of one token, a thread takes the same rows through all three ops."""
        b, blocks = self.buffers, self.h["n_ff"] // 32
        places, result = {"gate": _at(b.gate), "up": _at(b.up)}, b.gated
        if all(matrix.plan.activations == "int8" for matrix in readers):
            name, words = "ops:silu_mul_q8", SILU_MUL_Q8.pack(**places, **result.quantized)
        else:
            name, words = "ops:silu_mul", SILU_MUL.pack(**places, out=result.floats)
        if self.many:
            self.linear(gate, source, _at(b.gate))
            self.linear(up, source, _at(b.up), barrier=False)
            self.program.add(name, words, items=blocks, per_tokens=1, grain=SILU_GRAIN)
        else:
            groups = {"items": blocks, "each": 2, "grain": MATVEC_GRAIN // 2}
            self.linear(gate, source, _at(b.gate), **groups)
            self.linear(up, source, _at(b.up), **groups, chained=True)
            self.program.add(name, words, items=blocks, chained=True)
        return result


def heads_together(group: int, most: int) -> int:
    """How many of the ``group`` query heads of a key head an item of attention takes."""
    return max(heads for heads in range(1, most + 1) if group % heads == 0)


def one(spec: ArchSpec, h: HParams, weights: Weights, buffers: Buffers, cache: KVCache) -> Program:
    """One token, from its id in ``buffers`` to ``buffers.logits``."""
    build = _Builder(h, weights, buffers, many=False)
    _body(build, spec, cache)
    _head(build, _at(buffers.x))
    return build.program


def body(spec: ArchSpec, h: HParams, weights: Weights, buffers: Buffers, cache: KVCache) -> Program:
    """Several tokens, from ids in ``buffers`` to the last layer's output in ``buffers.x``."""
    build = _Builder(h, weights, buffers, many=True)
    _body(build, spec, cache)
    return build.program


def head(h: HParams, weights: Weights, buffers: Buffers, many: bool) -> Program:
    """From ``buffers.head_x`` to ``buffers.logits``."""
    build = _Builder(h, weights, buffers, many)
    _head(build, _at(buffers.head_x))
    return build.program


def _body(build: _Builder, spec: ArchSpec, cache: KVCache) -> None:
    h, b, weights = build.h, build.buffers, build.weights
    table, x, matrix = weights.embedding, _at(b.x), weights.matrix
    words = EMBED.pack(
        ids=_at(b.ids),
        rows=_at(table.data),
        row_bytes=table.format.row_bytes(h["n_embd"]),
        blocks=h["n_embd"] // table.format.block_size,
        out=x,
        columns=h["n_embd"],
    )
    build.program.add(embed_op(table.format), words, items=1, per_tokens=1)
    for layer in range(h["n_layer"]):
        q, k, v, out = (matrix(f"blk.{layer}.attn_{name}.weight") for name in ("q", "k", "v", "output"))
        gate, up, down = (matrix(f"blk.{layer}.ffn_{name}.weight") for name in ("gate", "up", "down"))
        normed = build.norm(x, f"blk.{layer}.attn_norm.weight", (q, k, v))
        build.linear(q, normed, _at(b.q))
        build.linear(k, normed, _at(b.k), barrier=False)
        build.linear(v, normed, _at(b.v), barrier=False)
        build.linear(out, build.attention(layer, cache, spec.graph.rope, (out,)), x, add=True)
        normed = build.norm(x, f"blk.{layer}.ffn_norm.weight", (gate, up))
        build.linear(down, build.gated(gate, up, normed, (down,)), x, add=True)
    build.program.keep.append(cache)


def _head(build: _Builder, x: int) -> None:
    output = build.weights.matrix("output.weight")
    build.linear(output, build.norm(x, "output_norm.weight", (output,)), _at(build.buffers.logits))
