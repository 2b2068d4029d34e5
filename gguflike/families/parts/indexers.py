"""What chooses the keys that a query attends to (sparse attention).

Up to a number of positions, their ``reach``, all keys are chosen, and attention is what it is without.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from gguflike.families.parts import Norm, Rope, Tensor
from gguflike.frozen import frozen, replace


def _beyond(tensors: Iterable[Tensor]) -> Iterator[Tensor]:
    """Tensors that only count beyond the reach."""
    return (replace(tensor, form="beyond") for tensor in tensors)


@frozen
class Indexer:
    """Chooses the ``top_k`` keys of a query of latent attention (DeepSeek-AI 2025, DeepSeek-V3.2: the lightning
    indexer).

    ``indexer.attn_q_b`` turns the latent of queries into ``heads`` queries of ``head_dim`` values, ``indexer.attn_k``
    the input into one key, which ``k_norm`` normalizes; ``rope`` turns the first dimensions of both. A key's score is
    the sum over the heads of ``relu(q k)`` times that head's value of ``indexer.proj`` times the input, times
    ``(heads * head_dim)**-0.5``. ``shared``: the choice is that of the last layer before which makes its own, and there
    are no tensors.
    """

    n_embd: int
    q_rank: int
    heads: int
    head_dim: int
    top_k: int
    rope: Rope
    k_norm: Norm
    shared: bool = False

    @property
    def reach(self) -> int:
        return self.top_k

    def tensors(self) -> Iterator[Tensor]:
        if self.shared:
            return
        yield from _beyond(self.k_norm.tensors())
        yield from _beyond(
            (
                Tensor("indexer.proj.weight", (self.heads, self.n_embd)),
                Tensor("indexer.attn_k.weight", (self.head_dim, self.n_embd)),
                Tensor("indexer.attn_q_b.weight", (self.heads * self.head_dim, self.q_rank)),
            )
        )


@frozen
class BlockIndexer:
    """Chooses for a query the keys of ``top_k`` blocks of ``block`` successive positions (MiniMax M3), for each of
    ``heads`` groups of query heads apart.

    ``indexer.q_proj`` turns the input into ``heads`` queries of ``head_dim`` values, ``indexer.k_proj`` into one key;
    ``q_norm`` and ``k_norm`` normalize them, and ``rope`` turns them. A block's score is the highest ``q k`` of its
    keys up to the query's position; the ``local`` last blocks, its own included, are always chosen.
    """

    n_embd: int
    heads: int
    head_dim: int
    block: int
    top_k: int
    local: int
    rope: Rope
    q_norm: Norm
    k_norm: Norm

    @property
    def reach(self) -> int:
        return self.block * self.top_k

    def tensors(self) -> Iterator[Tensor]:
        yield from _beyond(
            (
                Tensor("indexer.q_proj.weight", (self.heads * self.head_dim, self.n_embd)),
                Tensor("indexer.k_proj.weight", (self.head_dim, self.n_embd)),
            )
        )
        yield from _beyond(self.q_norm.tensors())
        yield from _beyond(self.k_norm.tensors())
