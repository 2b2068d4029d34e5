"""The verbs that parts are made of, on two schedules: one token, where threads do small things each for themselves, and
several tokens, where they share everything.

A part's emitter (runner/parts/) speaks these verbs and never asks which schedule it is on.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from gguflike.families.parts import Head, Norm
from gguflike.kernels.args import EMBED, RMS_NORM, RMS_NORM_Q8, SILU_MUL, SILU_MUL_Q8
from gguflike.kernels.dispatch import embed_op
from gguflike.kernels.engine.args import Word, float_bits
from gguflike.kernels.matmul.args import MATMUL, REFINE
from gguflike.kernels.vector.args import FIXED_ROWS, REFINE_ROWS
from gguflike.runner.buffers import Activations, Buffers, address
from gguflike.tensor import QuantizedTensor

if TYPE_CHECKING:
    from gguflike.activations import Fixed
    from gguflike.runner.matrix import Matrix
    from gguflike.runner.weights import LayerWeights

T = TypeVar("T")

MATVEC_GRAIN = 2  # groups of 16 rows: an item of gate and up is two
SILU_GRAIN = 16  # blocks of 32 values
MOST_PIECES = 1 << 19  # of an op in a pass; threads count those of their share to 2**20 (engine/interpreter.py)


class Source:
    """What a mixer reads: float32 (tokens, size) at ``address``, normalized by ``norm``, whose weights are those of a
    layer."""

    __slots__ = ("address", "norm", "size", "weights")

    def __init__(self, address: Word, size: int, norm: Norm | None, weights: LayerWeights) -> None:
        self.address, self.size, self.norm, self.weights = address, size, norm, weights


class Target:
    """Where a mixer's result goes: to float32 (tokens, n_embd) at ``address``; ``add``: onto what is there."""

    __slots__ = ("add", "address")

    def __init__(self, address: int, add: bool) -> None:
        self.address, self.add = address, add


class Schedule(ABC):
    """Adds ops to one program."""

    def __init__(self, buffers: Buffers, *, of_head: bool = False) -> None:
        """``of_head``: tokens are those whose logits are computed, not all of a pass. ``rows`` is the address of what
        they are (ROW_TYPE in kernels/engine/memory.py)."""
        from gguflike.kernels.engine.program import Program  # who only asks what a model needs makes none

        self.buffers = buffers
        self.program = Program(keep=[buffers])
        self.rows = address(buffers.head_rows if of_head else buffers.rows)

    def temp(self, name: str, columns: int) -> int:
        """The address of float32 (tokens, columns) for what ops hand to each other."""
        return self.buffers.temp(name, columns)

    @abstractmethod
    def either(self, one: T, several: T) -> T:
        """What is for one token, or what is for several."""

    def read(self, source: Source, readers: Sequence[Matrix]) -> Activations:
        """What a mixer reads, normalized, for the matrices that read it."""
        norm, kinds = source.norm, {matrix.plan.activations for matrix in readers}
        result = self.result("normed", source.size)
        if norm is None:
            result = result._replace(floats=source.address)
        elif norm.kind == "rms" and norm.weight and not source.weights.bias(norm.role):
            weight = source.weights.address(norm.weight_role)
            words: dict[str, Word] = {
                "x": source.address,
                "columns": norm.size,
                "weight": weight,
                "eps": float_bits(norm.eps),
            }
            if self.fused(readers):
                self.prepare("ops:rms_norm_q8", RMS_NORM_Q8.pack(**words, **result.quantized))
                return result
            self.prepare("ops:rms_norm", RMS_NORM.pack(**words, out=result.floats))
        else:
            from gguflike.runner import rows  # most models do without

            self.prepare(*rows.norm(source, result, self.fused(readers)))
            if self.fused(readers):
                return result
        return self.quantized(result, source.size, readers) if "int8" in kinds else result

    def combine(self, source: Source, out: int, *, added: int = 0, scale: float = 1.0, count: int = 1) -> None:
        """``out`` = ``added`` (an address; 0: nothing) + ``scale`` * what a mixer would read of ``source``; ``out`` may
        be that of either. ``count``: as many rows for each token."""
        from gguflike.runner import rows

        name, words = rows.combine(source, out, added, scale)
        self.program.add(name, words, items=count, per_tokens=1)

    def cap(self, head: Head, logits: int) -> None:
        """Scale and cap the logits as the head says."""
        from gguflike.runner import rows

        name, words, pieces = rows.cap(head, logits)
        self.program.add(name, words, items=pieces, per_tokens=1)

    def lookup(self, table: QuantizedTensor, ids: int, out: int) -> None:
        """``out`` = the rows of ``table`` with the numbers int32 (tokens,) at the address ``ids``."""
        columns = table.shape[1]
        words = EMBED.pack(
            ids=ids,
            rows=address(table.data),
            row_bytes=table.format.row_bytes(columns),
            blocks=columns // table.format.block_size,
            out=out,
            columns=columns,
        )
        self.program.add(embed_op(table.format), words, items=1, per_tokens=1)

    def linear(
        self,
        matrix: Matrix,
        source: Activations,
        out: int,
        *,
        add: bool = False,
        beside: bool = False,
        stride: int = 0,
    ) -> None:
        """``out`` (+)= activations @ matrix.T + bias. ``beside``: it does not depend on the op before. ``stride``:
        values from one token's results to the next's, where they are not those of the matrix alone."""
        settings = {"barrier": False} if beside else {}
        self._linear(matrix, source, out, add, settings, stride)

    def _linear(
        self,
        matrix: Matrix,
        source: Activations,
        out: int,
        add: bool,
        settings: Mapping[str, Any],
        stride: int = 0,
    ) -> None:
        plan, rows = matrix.plan, matrix.rows
        words: dict[str, Word] = {
            "weights": matrix.address,
            "rows": rows,
            "columns": matrix.columns,
            **source.words(plan),
            "out": out,
            "stride": stride or rows,
            "add": int(add),
            "bias": matrix.bias,
            "factor": matrix.factor,
        }
        settings = {"barrier": not self._after_own(), **settings}
        product, row_blocks = self.either((plan.matvec, 1), (plan.matmul, 2))
        if source.refined and plan.refine is not None:
            packed = REFINE.pack(function=0, row_blocks=row_blocks, refined=source.refined, **words)
            self._multiply(plan.refine, packed, matrix, {"calls": (product,), **settings})
        else:
            self._multiply(product, MATMUL.pack(**words), matrix, settings)

    def share(
        self,
        name: str,
        words: tuple[Word, ...],
        *,
        items: int,
        per_tokens: int = 0,
        per_keys: int = 0,
        grain: int = 1,
        beside: bool = False,
    ) -> None:
        """An op whose items all threads share, on one token and on many: ``items`` of them, or as many for each
        ``per_tokens`` tokens or ``per_keys`` positions, in pieces of ``grain``. ``beside``: it does not depend on the
        op before."""
        barrier = not (beside or self._after_own())
        settings = {"items": items, "per_tokens": per_tokens, "per_keys": per_keys, "grain": grain, "barrier": barrier}
        self.program.add(name, words, **settings)

    def handed(self, x: Word, columns: int, readers: Sequence[Matrix]) -> Activations:
        """Float32 (tokens, columns) at the address ``x``, which ops of ``share`` wrote, for the matrices that read
        them."""
        result = self.result("handed", columns)._replace(floats=x)
        is_int8 = any(matrix.plan.activations == "int8" for matrix in readers)
        return self.quantized(result, columns, readers) if is_int8 else result

    def fused(self, readers: Sequence[Matrix]) -> bool:
        """Whether the op that computes activations of these matrices also makes int8 of them: all of them read that,
        and rounding looks at no more than a block."""
        return not self.buffers.crest and reads_int8(readers) and fixed_range(readers) is None

    def quantized(self, result: Activations, columns: int, readers: Sequence[Matrix]) -> Activations:
        """Make int8 of the float32 of ``result``, which is in memory that `result` gave, for the matrices that read
        them."""
        fixed = fixed_range(readers)
        if fixed is not None:
            step, massive = float_bits(step_of(fixed.clip)), float_bits(fixed.massive)
            words = FIXED_ROWS.pack(x=result.floats, columns=columns, **result.quantized, step=step, massive=massive)
            self.prepare("vector.fixed:rows", words)
            return result
        if not self.buffers.crest:
            self.prepare("vector.quantize:rows", result.quantize(columns))
            return result
        result = result._replace(refined=self._refined)
        words = REFINE_ROWS.pack(
            x=result.floats,
            columns=columns,
            **result.quantized,
            rows=self.rows,
            refined=result.refined,
            crest=float_bits(self.buffers.crest),
        )
        self.prepare("vector.refine:rows", words)
        return result

    def each(self, name: str, words: tuple[Word, ...], *, beside: bool = False) -> None:
        """An op whose items are tokens, from what all threads have written to what `local` gave. ``beside``: it does
        not depend on the op before."""
        self._each(name, words, beside)

    def gated(self, gate: Matrix, up: Matrix, source: Activations, readers: Sequence[Matrix]) -> Activations:
        """Multiply silu(gate) by up, each a product with ``source``, of a multiple of 32 rows."""
        result = self.buffers.shared("gate", gate.rows)
        places: dict[str, Word] = {"gate": result.floats, "up": self.temp("up", up.rows)}
        if self.fused(readers):
            name, words = "ops:silu_mul_q8", SILU_MUL_Q8.pack(**places, **result.quantized)
        else:
            name, words = "ops:silu_mul", SILU_MUL.pack(**places, out=result.floats)
        products = [(gate, self.temp("gate", gate.rows)), (up, self.temp("up", up.rows))]
        self.activate(products, source, (name, words), gate.rows)
        as_is = self.fused(readers) or not reads_int8(readers)
        return result if as_is else self.handed(result.floats, gate.rows, readers)

    def activate(
        self, products: Sequence[tuple[Matrix, int]], source: Activations, op: tuple[str, tuple[Word, ...]], rows: int
    ) -> None:
        """Products with ``source``, each to its address, and an op on ``rows`` values that come out of them, whose
        items are 32 of these."""
        self._activate(
            products, source, op, -(-rows // 32), all(m.rows == rows and rows % 32 == 0 for m, _ in products)
        )

    def _after_own(self) -> bool:
        return bool(self.program.ops) and self.program.ops[-1].own

    @abstractmethod
    def result(self, name: str, columns: int) -> Activations:
        """Where an op that prepares activations of so many columns leaves them."""

    @abstractmethod
    def prepare(self, name: str, words: tuple[Word, ...], *, items: int = 1) -> None:
        """Add an op on all tokens that prepares what matrix products read; it may follow another such op."""

    @abstractmethod
    def _multiply(self, name: str, words: tuple[Word, ...], matrix: Matrix, settings: Mapping[str, Any]) -> None: ...

    @property
    @abstractmethod
    def _refined(self) -> Word:
        """Where the lists of refined blocks of what `result` gives stand."""

    @abstractmethod
    def local(self, name: str, columns: int) -> Word:
        """The address of float32 (tokens, columns) that `each` writes and the next stage reads."""

    @abstractmethod
    def _each(self, name: str, words: tuple[Word, ...], beside: bool) -> None: ...

    @abstractmethod
    def _activate(
        self,
        products: Sequence[tuple[Matrix, int]],
        source: Activations,
        op: tuple[str, tuple[Word, ...]],
        blocks: int,
        aligned: bool,
    ) -> None:
        """As ``activate``; ``aligned``: each 32 values of the op are of as many rows of each matrix."""


class OneToken(Schedule):
    """One token. What stands between its matrix products is so little that each thread does it for itself rather than
    wait for another; a thread takes the same rows through gate, up and their product."""

    def either(self, one: T, several: T) -> T:  # noqa: ARG002 - that is the point
        return one

    def result(self, name: str, columns: int) -> Activations:  # noqa: ARG002 - for several tokens
        return self.buffers.own

    def prepare(self, name: str, words: tuple[Word, ...], *, items: int = 1) -> None:
        self.program.add(name, words, items=items, own=True, barrier=not self._after_own())

    def _multiply(self, name: str, words: tuple[Word, ...], matrix: Matrix, settings: Mapping[str, Any]) -> None:
        items = {"items": matrix.plan.matvec_items(matrix.rows), "grain": MATVEC_GRAIN}
        self.program.add(name, words, **{**items, **settings})

    @property
    def _refined(self) -> Word:
        return self.buffers.own_refined

    def local(self, name: str, columns: int) -> Word:
        return self.buffers.own_scratch(name, 4 * columns)

    def _each(self, name: str, words: tuple[Word, ...], beside: bool) -> None:  # noqa: ARG002 - no thread waits
        self.prepare(name, words)

    def _activate(
        self,
        products: Sequence[tuple[Matrix, int]],
        source: Activations,
        op: tuple[str, tuple[Word, ...]],
        blocks: int,
        aligned: bool,
    ) -> None:
        for index, (matrix, out) in enumerate(products):
            settings: dict[str, Any] = {"barrier": False} if index else {}
            if aligned:
                settings = {"items": blocks, "each": 2, "grain": MATVEC_GRAIN // 2} | (
                    {"chained": True} if index else {}
                )
            self._linear(matrix, source, out, False, settings)
        self.program.add(*op, items=blocks, chained=aligned)


class Tokens(Schedule):
    """Several tokens, which all threads share."""

    def either(self, one: T, several: T) -> T:  # noqa: ARG002
        return several

    def result(self, name: str, columns: int) -> Activations:
        return self.buffers.shared(name, columns)

    def prepare(self, name: str, words: tuple[Word, ...], *, items: int = 1) -> None:
        self.program.add(name, words, items=items, per_tokens=1)

    def _multiply(self, name: str, words: tuple[Word, ...], matrix: Matrix, settings: Mapping[str, Any]) -> None:
        self.program.add(name, words, **{"items": matrix.plan.matmul_items(matrix.rows), **settings})

    @property
    def _refined(self) -> Word:
        return self.buffers.refined

    def local(self, name: str, columns: int) -> Word:
        return self.temp(name, columns)

    def _each(self, name: str, words: tuple[Word, ...], beside: bool) -> None:
        self.program.add(name, words, items=1, per_tokens=1, barrier=not beside)

    def _activate(
        self,
        products: Sequence[tuple[Matrix, int]],
        source: Activations,
        op: tuple[str, tuple[Word, ...]],
        blocks: int,
        aligned: bool,  # noqa: ARG002 - for one token
    ) -> None:
        for index, (matrix, out) in enumerate(products):
            self.linear(matrix, source, out, beside=index > 0)
        self.program.add(*op, items=blocks, per_tokens=1, grain=grain(blocks * self.buffers.batch, SILU_GRAIN))


class EachToken(Tokens):
    """Several tokens, which floating-point weights are multiplied by as if each were alone, so that sums have the order
    of one token's."""

    def _multiply(self, name: str, words: tuple[Word, ...], matrix: Matrix, settings: Mapping[str, Any]) -> None:
        if matrix.plan.activations != "float32":
            super()._multiply(name, words, matrix, settings)
            return
        items = {"items": matrix.plan.matvec_items(matrix.rows), "grain": MATVEC_GRAIN}
        settings = {**items, "calls": (matrix.plan.matvec,), **settings}
        self.program.add("matmul.each:tokens", (0, *words), **settings)


def grain(items: int, least: int) -> int:
    """Items of a piece, at least so many, of an op that has at most ``items`` in a pass: pieces must be countable."""
    return max(least, -(-items // MOST_PIECES))


def reads_int8(readers: Sequence[Matrix]) -> bool:
    """Whether all of these read activations as int8."""
    return all(matrix.plan.activations == "int8" for matrix in readers)


def fixed_range(readers: Sequence[Matrix]) -> Fixed | None:
    """The range of what these matrices read, where all that read int8 have the same; None where none has one, or
    others."""
    found = {matrix.fixed for matrix in readers if matrix.plan.activations == "int8"}
    return found.pop() if len(found) == 1 else None


def step_of(clip: float) -> float:
    """What a code is worth that is 127 for ``clip``: in the 11 bits of mantissa that products need of scales."""
    bits = np.array(clip / 127, np.float32).view(np.uint32)
    return float(((bits + (1 << 12)) >> 13 << 13).view(np.float32))
