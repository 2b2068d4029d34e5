"""What multi-token-prediction heads have beside the parts of all models."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from gguflike.families.parts import Norm, Tensor
from gguflike.frozen import frozen


@frozen
class MTPInput:
    """``eh_proj [enorm(e); hnorm(h)]``: what the block of an MTP head begins with, in place of an embedding, where e is
    the embedding of a token and h what the model, or the head before this one, gave for the token before it
    (DeepSeek-V3, section 2.2, arXiv:2412.19437): its last norm, or where not ``normed``, what that reads. The tensors
    are those of ``layer``; ``eps`` and ``kind`` are those of both norms.
    """

    layer: int
    n_embd: int
    eps: float
    normed: bool = True
    kind: Literal["rms", "layer"] = "rms"

    @property
    def prefix(self) -> str:
        """How the names of the tensors begin."""
        return f"blk.{self.layer}.nextn."

    @property
    def norms(self) -> tuple[Norm, Norm]:
        """Those of e and of h."""
        e, h = (Norm(f"{self.prefix}{role}", self.n_embd, self.eps, self.kind) for role in ("enorm", "hnorm"))
        return e, h

    @property
    def widest(self) -> int:
        """Values of the row that the matrix reads."""
        return 2 * self.n_embd

    def tensors(self) -> Iterator[Tensor]:
        yield Tensor(f"{self.prefix}eh_proj.weight", (self.n_embd, 2 * self.n_embd))
        for norm in self.norms:
            yield from norm.tensors()
