"""Where a tensor of GGUF stands in a checkpoint: by a name, as part of another tensor, as a stack of many.

An origin says, for one role of a family, which tensors of the checkpoint hold it. `Origin.pieces` makes of that, for
one tensor, a list of *pieces*: runs of GGUF rows (of its first axis) and the rows of a checkpoint's tensor that they
come from. The converter reads pieces in order; the exporter collects, for each tensor of a checkpoint, the pieces that
make it up. Names are the family's canonical ones: with ``.weight`` or ``.bias``, and ``model.`` where Transformers has
it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from gguflike.families.parts import Tensor
from gguflike.families.transforms import IDENTITY, Chain, Transform
from gguflike.frozen import frozen

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Floats = npt.NDArray[np.float32]


class Piece(NamedTuple):
    """``rows`` rows of a GGUF tensor, in order, and where they come from: ``via`` of ``hf_rows`` rows, from ``start``
    on, of the tensor ``hf`` of shape ``hf_shape``.

    ``stacked``: they are the whole of ``hf``, which lacks the first axis. ``unused``: rows of ``hf`` before them that
    no tensor of GGUF holds (an export fills them with zeros). ``packed``: values are 4-bit floats, and this is the
    tensor of their codes or that of their scales (`Microscaled`).
    """

    hf: str
    hf_shape: tuple[int, ...]
    rows: int
    hf_rows: int
    start: int = 0
    via: Transform = IDENTITY
    stacked: bool = False
    unused: int = 0
    packed: bool = False


class Origin(Protocol):
    """Where the tensors of one role come from. ``prefix`` is that of the layer, ``tensor`` what the part says, ``c``
    the configuration."""

    def names(self, prefix: str, tensor: Tensor) -> list[str]:
        """The tensors of the checkpoint that hold it, in order. Empty for one that is computed."""
        ...

    def pieces(self, prefix: str, tensor: Tensor, c: Any) -> list[Piece]:
        """How it is put together of them."""
        ...


def suffixed(name: str, tensor: Tensor) -> str:
    """The name with ``.weight`` or ``.bias``, as the tensor's role has it (``.weight`` where the role has neither)."""
    suffix = tensor.role.rpartition(".")[2]
    return f"{name}.{suffix if suffix in ('weight', 'bias') else 'weight'}"


@frozen
class Named:
    """One tensor, by its name without ``.weight`` or ``.bias`` (``bare``: it has neither), below the layer's prefix for
    one of a layer. ``via`` is what happens to its rows."""

    name: str
    via: Transform = IDENTITY
    bare: bool = False

    def names(self, prefix: str, tensor: Tensor) -> list[str]:
        return [prefix + (self.name if self.bare else suffixed(self.name, tensor))]

    def pieces(self, prefix: str, tensor: Tensor, c: Any) -> list[Piece]:  # noqa: ARG002 - part of the interface
        via = self.via.bound(tensor)
        shape = via.hf_shape(tensor.shape)
        return [Piece(name, shape, tensor.shape[0], shape[0], via=via) for name in self.names(prefix, tensor)]


@frozen
class Outside:
    """A tensor that GGUF has in a layer and the checkpoint has not."""

    origin: Origin

    def names(self, prefix: str, tensor: Tensor) -> list[str]:  # noqa: ARG002 - part of the interface
        return self.origin.names("", tensor)

    def pieces(self, prefix: str, tensor: Tensor, c: Any) -> list[Piece]:  # noqa: ARG002
        return self.origin.pieces("", tensor, c)


@frozen
class Rows:
    """Rows of a fused tensor: ``span(c, tensor)`` gives how many others stand before them and how many there are in
    all, from the configuration and what the part says."""

    name: str
    span: Callable[[Any, Tensor], tuple[int, int]]
    via: Transform = IDENTITY

    def names(self, prefix: str, tensor: Tensor) -> list[str]:
        return [prefix + suffixed(self.name, tensor)]

    def pieces(self, prefix: str, tensor: Tensor, c: Any) -> list[Piece]:
        via = self.via.bound(tensor)
        before, total = self.span(c, tensor)
        part = via.hf_shape(tensor.shape)
        shape = (total, *part[1:])
        return [Piece(name, shape, tensor.shape[0], part[0], before, via) for name in self.names(prefix, tensor)]


class Run(NamedTuple):
    """Successive rows of a checkpoint's tensor, from ``start`` on, and what happens to them."""

    start: int
    rows: int
    via: Transform = IDENTITY


@frozen
class Runs:
    """Rows of one tensor in an order of GGUF's own, or changed by numbers of the configuration: ``order(c, tensor)``
    gives the runs in GGUF's order, and how many rows there are in all. ``via`` is the kind of shape that all have;
    ``bare`` as of `Named`."""

    name: str
    order: Callable[[Any, Tensor], tuple[Sequence[Run], int]]
    via: Transform = IDENTITY
    bare: bool = False

    def names(self, prefix: str, tensor: Tensor) -> list[str]:
        return [prefix + (self.name if self.bare else suffixed(self.name, tensor))]

    def pieces(self, prefix: str, tensor: Tensor, c: Any) -> list[Piece]:
        [name] = self.names(prefix, tensor)
        runs, total = self.order(c, tensor)
        shape = self.via.hf_shape((total, *tensor.shape[1:]))
        made = []
        for run in runs:
            via = Chain(group=run.via.group, steps=(self.via, run.via))
            made.append(Piece(name, shape, run.rows, run.rows, run.start, via))
        return made


@frozen
class Behind:
    """All rows of a tensor but the first ``unused(c)``."""

    name: str
    unused: Callable[[Any], int]

    def names(self, prefix: str, tensor: Tensor) -> list[str]:
        return [prefix + suffixed(self.name, tensor)]

    def pieces(self, prefix: str, tensor: Tensor, c: Any) -> list[Piece]:
        rows, unused = tensor.shape[0], self.unused(c)
        shape = (unused + rows, *tensor.shape[1:])
        return [Piece(name, shape, rows, rows, unused, unused=unused) for name in self.names(prefix, tensor)]


@frozen
class Stacked:
    """One tensor for each expert, whose number stands for ``{e}`` in the name. ``via`` works on one of them."""

    name: str
    via: Transform = IDENTITY

    def names(self, prefix: str, tensor: Tensor) -> list[str]:
        return [prefix + suffixed(self.name.format(e=e), tensor) for e in range(tensor.shape[0])]

    def pieces(self, prefix: str, tensor: Tensor, c: Any) -> list[Piece]:  # noqa: ARG002 - part of the interface
        one = tensor.shape[1:]
        via = self.via.bound(Tensor(tensor.role, one))
        shape = via.hf_shape(one)
        return [Piece(name, shape, 1, shape[0], via=via, stacked=True) for name in self.names(prefix, tensor)]


@frozen
class Microscaled:
    """A stack of matrices that is saved as 4-bit floats in blocks of 32 with a scale: the bytes ``<name>_blocks``
    (matrices, rows, blocks, 16) and ``<name>_scales`` (matrices, rows, blocks). ``via`` is what happens to the rows of
    both."""

    name: str
    via: Transform = IDENTITY

    def names(self, prefix: str, tensor: Tensor) -> list[str]:  # noqa: ARG002 - part of the interface
        return [f"{prefix}{self.name}_{part}" for part in ("blocks", "scales")]

    def pieces(self, prefix: str, tensor: Tensor, c: Any) -> list[Piece]:  # noqa: ARG002 - part of the interface
        via = self.via.bound(tensor)
        matrices, rows, columns = tensor.shape
        scales = via.hf_shape((matrices, rows, columns // 32))
        blocks, of_scales = self.names(prefix, tensor)
        return [
            Piece(name, shape, matrices, matrices, via=via, packed=True)
            for name, shape in ((blocks, (*scales, 16)), (of_scales, scales))
        ]


@frozen
class Either:
    """The first of several that the checkpoint holds; the first of all where nothing is known of one (exports)."""

    choices: tuple[Origin, ...]

    def names(self, prefix: str, tensor: Tensor) -> list[str]:
        return self.choices[0].names(prefix, tensor)

    def pieces(self, prefix: str, tensor: Tensor, c: Any) -> list[Piece]:
        return self.choices[0].pieces(prefix, tensor, c)

    def chosen(self, prefix: str, tensor: Tensor, available: Collection[str] | None) -> Origin:
        for origin in self.choices:
            if available is not None and all(name in available for name in origin.names(prefix, tensor)):
                return origin
        return self.choices[0]


@frozen
class Turned(Either):
    """The last of several whose tensors the checkpoint holds in the shapes that they have there: matrices may be
    transposed. An export writes the first."""

    def chosen(self, prefix: str, tensor: Tensor, available: Collection[str] | None) -> Origin:
        shapes = available if isinstance(available, Mapping) else {}
        for origin in reversed(self.choices):
            if all(shapes.get(piece.hf) == piece.hf_shape for piece in origin.pieces(prefix, tensor, None)):
                return origin
        return self.choices[0]


@frozen
class Depending:
    """One of several, as the configuration says; the first where only names are asked for."""

    choices: tuple[Origin, ...]
    which: Callable[[Any], int]

    def names(self, prefix: str, tensor: Tensor) -> list[str]:
        return self.choices[0].names(prefix, tensor)

    def pieces(self, prefix: str, tensor: Tensor, c: Any) -> list[Piece]:
        return self.choices[self.which(c)].pieces(prefix, tensor, c)


@frozen
class Made:
    """A tensor that the checkpoint does not hold: computed from the configuration."""

    make: Callable[[Any], Floats]

    def names(self, prefix: str, tensor: Tensor) -> list[str]:  # noqa: ARG002 - part of the interface
        return []

    def pieces(self, prefix: str, tensor: Tensor, c: Any) -> list[Piece]:  # noqa: ARG002 - part of the interface
        return []
