"""The tensors of one model, laid out for the kernels.

Everything is read into memory of the model's own, once: what happens to the file afterwards does not matter, but for
rows of tables (tables.py). Quantized matrices are repacked by all threads, a few megabytes at a time (packed.py).
Floating-point matrices stay as the file has them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import prod
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from gguflike.blocks import FORMATS, BlockFormat
from gguflike.container import GGUFFile, TensorInfo
from gguflike.errors import GGUFError
from gguflike.families.parts import Graph, Head
from gguflike.kernels.dispatch import linear_plan
from gguflike.kernels.engine.memory import aligned
from gguflike.progress import Progress
from gguflike.runner.matrix import Matrix, Stack
from gguflike.runner.packed import Packed
from gguflike.runner.tables import Table
from gguflike.runner.tensors import EMBEDDING, checked
from gguflike.tensor import QuantizedTensor

if TYPE_CHECKING:
    import numpy.typing as npt

    from gguflike.activations import Fixed
    from gguflike.kernels.engine.memory import Take
    from gguflike.kernels.engine.program import Team

SEARCHED = 1 << 28  # bytes read to say which weights are damaged: a tenth of a second or so
OUTPUT = "output.weight"


class Weights:
    """All tensors of a model. Vectors and biases are float32; tables stay as the file has them.

    Every tensor has its address at once, so that programs can be made; matrices and tables are only there after
    ``repack``, and rows of a `table` after `fetch`.
    """

    def __init__(
        self,
        file: GGUFFile,
        graph: Graph,
        left_out: int | None = 0,
        shared: Weights | None = None,
        take: Take = aligned,
    ) -> None:
        """``left_out``: layers behind those of the graph that the file may hold, and that are not computed; None: the
        graph is a part of the file's model only. ``shared`` has tensors that need not be loaded. ``take`` gives the
        memory of what is repacked.

        GGUFError where a tensor is missing or has the wrong shape, UnsupportedError where one has a type that the ops
        do not read, or is none that the graph reads.
        """
        self._file = file
        self._take = take
        self._others: Weights | None = None  # that have tensors of these
        self._plain: dict[str, QuantizedTensor] = {}  # whole tensors as the file has them
        self._unread: list[QuantizedTensor] = []  # those of them that `repack` shall read
        self._tables: dict[str, Table] = {}
        self._computed: list[npt.NDArray[np.float32]] = []  # what is made of tensors
        self._vectors: dict[str, int] = {}
        #: Whether the small tensors are: of norms of heads, sinks or decays, NaN need not reach the logits.
        self.finite = True
        self._matrices: dict[str, Matrix] = {}
        self._stacks: dict[str, Stack] = {}
        self._alone: set[str] = set()  # matrices that several tokens are multiplied by one after the other
        self._made: dict[tuple[str, str], int] = {}  # addresses of what is made of values, by name and function
        forms, shapes, self._shares, factors = checked(file, graph, left_out)
        if shared is not None:
            forms = {name: form for name, form in forms.items() if not shared.has(name)}
            self._share(shared)
        for name, form in forms.items():
            if form == "values":
                self._add_vector(name)
        self._factors = {name: self._vectors[factor] for name, factor in factors.items()}
        matrices = [name for name, form in forms.items() if form == "matrix"]
        tied = isinstance(graph.head, Head) and graph.head.tied and shared is None
        names = [EMBEDDING, *matrices] if tied else matrices
        infos = [file.infos[name]._replace(shape=shapes[name]) for name in names]  # some leave out axes of 1 in front
        for info in infos:
            if linear_plan(info.format).repack is None:
                each = info.nbytes // (info.shape[0] if len(info.shape) == 3 else 1)
                self._add(info.name, info.format, info.shape, self._whole(info).data, each, each)
        packed = [info for info in infos if linear_plan(info.format).repack is not None]
        self._packed = Packed(file, packed, take)
        for info, data, each, stride in self._packed.places():
            self._add(info.name, info.format, info.shape, data, each, stride)
        if tied:
            bias = self._vectors.get("output.bias", 0)
            self._matrices[OUTPUT] = self._matrices.pop(EMBEDDING)._replace(bias=bias)

    def has(self, name: str) -> bool:
        """Whether a tensor is loaded."""
        return name in self._vectors or name in self._matrices or name in self._stacks

    def _share(self, others: Weights) -> None:
        """Have all that others have."""
        self._others = others
        self._vectors |= others._vectors
        self._matrices |= others._matrices
        self.finite = others.finite

    @property
    def plain_bytes(self) -> int:
        """Bytes of the tensors that stay as the file has them: matrices of floating point, and small tables."""
        return sum(tensor.nbytes for tensor in self._plain.values())

    def table_bytes(self, tokens: int) -> int:
        """Bytes of the rows of tables that programs, once they have been made, look up of so many tokens."""
        return sum(table.resident(tokens) for table in self._tables.values())

    @property
    def packed_bytes(self) -> int:
        """Bytes of the quantized matrices as the ops read them."""
        return self._packed.nbytes

    @property
    def computed_bytes(self) -> int:
        """Bytes of the float32 that was made of tensors, of most once programs have been made."""
        return sum(int(values.nbytes) for values in self._computed)

    @property
    def loading_bytes(self) -> int:
        """Bytes of the file that `repack` has in memory at most beside what it makes of them."""
        return self._packed.loading_bytes

    @property
    def matrix_bytes(self) -> int:
        """Bytes of weights that one token's pass reads."""
        of_stacks = sum(stack.matrix.nbytes * stack.size * stack.share for stack in self._stacks.values())
        return sum(matrix.nbytes for matrix in self._matrices.values()) + round(of_stacks)

    @property
    def matrix_weights(self) -> int:
        """Weights that one token's pass multiplies."""
        stacks = ((stack.matrix, stack.size * stack.share) for stack in self._stacks.values())
        of_stacks = sum(matrix.rows * matrix.columns * read for matrix, read in stacks)
        return sum(matrix.rows * matrix.columns for matrix in self._matrices.values()) + round(of_stacks)

    @property
    def head_weights(self) -> int:
        """Those of them that only make logits."""
        output = self._matrices[OUTPUT]
        return output.rows * output.columns

    @property
    def exact(self) -> bool:
        """Whether a token's logits are the same bits computed alone or with others.

        Sums of int8 products are exact; floats are summed in one order for one token and in another for several.
        """
        stacked = (stack.matrix for stack in self._stacks.values())
        matrices = (matrix for name, matrix in self._matrices.items() if name not in self._alone)
        return all(matrix.plan.activations == "int8" for matrix in (*matrices, *stacked))

    def fix(self, ranges: Mapping[str, Fixed]) -> None:
        """Give matrices the ``fixed`` ranges that are here by their names, and others none: of programs that are made
        afterwards. GGUFError where there is no such matrix."""
        for name in ranges.keys() - self._matrices.keys():
            remedy = "measure them again: gguflike calibrate --activations"
            raise GGUFError(
                "a fixed range of activations is of no matrix that the model has",
                path=self._file.path,
                tensor=name,
                remedy=remedy,
            )
        for name, matrix in self._matrices.items():
            self._matrices[name] = matrix._replace(fixed=ranges.get(name))

    def vector(self, name: str) -> int:
        """Address of the float32 values of a small tensor."""
        return self._vectors[name]

    def optional(self, name: str) -> int:
        """Address of the float32 values of a small tensor; 0 where the file lacks it."""
        return self._vectors.get(name, 0)

    def made(self, name: str, make: Callable[[npt.NDArray[np.float32]], npt.NDArray[np.float32]]) -> int:
        """Address of what ``make`` makes of a small tensor, in its shape; it is made once."""
        place = name, make.__name__
        if place not in self._made:
            shape = self._file.infos[name].shape
            values = self._compute(shape, lambda: make(_floats(self._file.load(name)).reshape(shape)))
            self._made[place] = int(values.ctypes.data)
        return self._made[place]

    def turned(self, name: str, count: int, rows: int) -> Stack:
        """The first ``rows`` rows of each of ``count`` equal blocks of rows of a matrix, as the columns of float32
        matrices, which are made once."""
        made = f"{name}, turned"
        if made not in self._stacks:
            columns = self._file.infos[name].shape[-1]

            def turn() -> npt.NDArray[np.float32]:
                columns_first = _floats(self._file.load(name)).reshape(count, -1, columns)[:, :rows].transpose(0, 2, 1)
                return np.ascontiguousarray(columns_first)

            values = self._compute((count, columns, rows), turn)
            self._shares[made] = 1.0
            self._add(made, FORMATS["F32"], values.shape, values, values[0].nbytes, values[0].nbytes)
        return self._stacks[made]

    def table(self, name: str) -> QuantizedTensor:
        """A tensor as the file has it, of which rows are looked up by token: those that were fetched."""
        if name in self._plain:
            return self._plain[name]
        if name not in self._tables:
            self._tables[name] = Table(self._file, self._file.infos[name], self._take)
        return self._tables[name].tensor

    def fetch(self, ids: npt.NDArray[np.int32]) -> None:
        """Have the rows of these tokens in every table. GGUFError where the file has changed since it was opened."""
        for table in self._tables.values():
            table.fetch(ids)

    def whole(self, name: str) -> QuantizedTensor:
        """A tensor as the file has it, all of it."""
        return self._plain[name] if name in self._plain else self._whole(self._file.infos[name])

    def _whole(self, info: TensorInfo) -> QuantizedTensor:
        tensor = QuantizedTensor(info.name, info.format, info.shape, self._take(info.nbytes, huge=True))
        self._plain[info.name] = tensor
        self._unread.append(tensor)
        return tensor

    def matrix(self, name: str) -> Matrix:
        return self._matrices[name]

    def alone(self, name: str) -> Matrix:
        """A matrix that tokens are multiplied by one after the other, so that sums have one order (see ``exact``).

        What it reads is read by others, too, when there are several tokens, so that it has no ``fixed`` range."""
        self._alone.add(name)
        return self._matrices[name]._replace(fixed=None)

    def stack(self, name: str) -> Stack:
        """The matrices of a tensor of three axes."""
        return self._stacks[name]

    def layer(self, layer: int | None) -> LayerWeights:
        """The tensors of a layer; None: those of no layer."""
        return LayerWeights(self, "" if layer is None else f"blk.{layer}.")

    def floats(self, name: str) -> npt.NDArray[np.float32] | None:
        """The values of a small tensor, or None where the file lacks it."""
        return _floats(self._file.load(name)) if name in self._file.infos else None

    def not_finite(self) -> str | None:
        """The name of a tensor that holds NaN or infinity, if the first SEARCHED bytes (small tensors first) do."""
        from gguflike.container.finite import first_not_finite  # who starts a model need not load it

        read = 0
        for info in sorted(self._file.infos.values(), key=lambda info: info.nbytes):
            read += info.nbytes
            if read > SEARCHED:
                return None
            if first_not_finite(self._file.load(info.name).data, info.format) is not None:
                return info.name
        return None

    def _add_vector(self, name: str) -> None:
        def checked() -> npt.NDArray[np.float32]:
            values = _floats(self._file.load(name))
            self.finite = self.finite and bool(np.isfinite(values).all())
            return values

        values = self._compute((prod(self._file.infos[name].shape),), checked)
        self._vectors[name] = int(values.ctypes.data)

    def _compute(
        self,
        shape: tuple[int, ...],  # noqa: ARG002 - for who only counts
        make: Callable[[], npt.NDArray[np.float32]],
    ) -> npt.NDArray[np.float32]:
        """What ``make`` makes of tensors, float32 of about that shape, which stays."""
        self._computed.append(values := np.ascontiguousarray(make()))
        return values

    def _add(
        self, name: str, fmt: BlockFormat, shape: tuple[int, ...], data: npt.NDArray[Any], each: int, stride: int
    ) -> None:
        """``data`` is what the ops read, as in the file or repacked: a matrix of ``each`` bytes, or a stack of them
        that begin ``stride`` bytes apart."""
        plan, (*stacked, rows, columns) = linear_plan(fmt), shape
        base = name.removesuffix("weight")
        bias, factor = self._vectors.get(f"{base}bias", 0), self._factors.get(name, 0)
        matrix = Matrix(plan, int(data.ctypes.data), rows, columns, each, bias, factor)
        if stacked:
            self._stacks[name] = Stack(matrix, stacked[0], stride, 4 * rows, 4, self._shares[name])
        else:
            self._matrices[name] = matrix

    @property
    def ops(self) -> list[str]:
        """Names of the ops that ``repack`` runs."""
        return self._packed.ops

    def repack(self, team: Team, progress: Progress | None = None) -> None:
        """Read what is not here yet from the file, and move the quantized matrices to their places.

        GGUFError where the file has changed since it was opened.
        """
        for tensor in self._unread:
            self._file.read_into(tensor.name, 0, tensor.data)
        self._unread = []
        self._packed.repack(team, progress)


def _floats(tensor: QuantizedTensor) -> npt.NDArray[np.float32]:
    """A small tensor as float32, by the numpy reference (no kernels needed for so little)."""
    decode = tensor.format.decode
    assert decode is not None  # checked with the other tensors
    return np.ascontiguousarray(decode(tensor.blocks), dtype=np.float32).reshape(-1)


class LayerWeights(NamedTuple):
    """The tensors of one layer, by role."""

    weights: Weights
    prefix: str

    def vector(self, role: str) -> int:
        """Address of the float32 vector ``role`` (``attn_norm``, say)."""
        return self.weights.vector(f"{self.prefix}{role}.weight")

    def address(self, role: str) -> int:
        """Address of the float32 values of the small tensor ``role``, suffix included."""
        return self.weights.vector(f"{self.prefix}{role}")

    def bias(self, role: str) -> int:
        """Address of the bias of ``role``; 0 where the file has none."""
        return self.weights.optional(f"{self.prefix}{role}.bias")

    def floats(self, role: str) -> npt.NDArray[np.float32]:
        """The values of the small tensor ``role``, suffix included. KeyError where the file lacks it."""
        found = self.weights.floats(f"{self.prefix}{role}")
        if found is None:
            raise KeyError(role)
        return found

    def optional(self, role: str) -> int:
        """Address of the small tensor ``role`` (``ssm_conv1d.bias``, say: all of the name); 0 where there is none."""
        return self.weights.optional(self.prefix + role)

    def made(self, role: str, make: Callable[[npt.NDArray[np.float32]], npt.NDArray[np.float32]]) -> int:
        """Address of what ``make`` makes of the small tensor ``role`` (all of the name)."""
        return self.weights.made(self.prefix + role, make)

    def matrix(self, role: str) -> Matrix:
        """The matrix ``role`` (``attn_q``, say), with its bias."""
        return self.weights.matrix(f"{self.prefix}{role}.weight")

    def alone(self, role: str) -> Matrix:
        """The matrix ``role`` as `Weights.alone` gives it."""
        return self.weights.alone(f"{self.prefix}{role}.weight")

    def turned(self, role: str, count: int, rows: int) -> Stack:
        """Rows of the matrix ``role`` as columns, as `Weights.turned` gives them."""
        return self.weights.turned(f"{self.prefix}{role}.weight", count, rows)

    def stack(self, role: str) -> Stack:
        """The matrices ``role`` (``ffn_up_exps``, say), with their biases."""
        return self.weights.stack(f"{self.prefix}{role}.weight")
