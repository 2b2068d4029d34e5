"""Multi-head latent attention."""

from __future__ import annotations

from collections.abc import Iterator

from gguflike.families.parts import Norm, Rope, Temperature, Tensor
from gguflike.families.parts.indexers import Indexer
from gguflike.frozen import frozen


@frozen
class LatentAttention:
    """Multi-head latent attention (DeepSeek-AI 2024, arXiv:2405.04434) in its absorbed form.

    ``attn_kv_a_mqa`` times the input gives a latent of ``kv_rank`` values, which ``kv_norm`` normalizes, and a key of
    ``rope_dim`` values, which is rotated; both are cached, and nothing else. Each query head has ``nope_dim`` values,
    which ``attn_k_b`` (heads, kv_rank, nope_dim) turns into ``kv_rank``, and ``rope_dim`` rotated ones. Scores are
    products of [latent | rotated], times ``scale``; what a head finds is a mean of latents, which ``attn_v_b`` (heads,
    value_dim, kv_rank) turns into ``value_dim`` values. ``q_rank``: queries come out of ``attn_q_a``, ``q_norm`` and
    ``attn_q_b``; 0: out of ``attn_q``. ``indexer`` chooses which keys a query sees. ``together``: one matrix
    ``attn_kv_b`` has for each head the columns of ``attn_k_b`` as rows, and behind them those of ``attn_v_b``.
    """

    n_embd: int
    heads: int
    q_rank: int
    kv_rank: int
    nope_dim: int
    rope_dim: int
    value_dim: int
    scale: float
    rope: Rope | None
    kv_norm: Norm
    q_norm: Norm | None = None
    bias: bool = False
    temperature: Temperature | None = None
    indexer: Indexer | None = None
    together: bool = False

    @property
    def reach(self) -> int:
        """Positions up to which no indexer has a choice; 0: any number."""
        return self.indexer.reach if self.indexer is not None else 0

    @property
    def q_size(self) -> int:
        """Values of all queries of a token."""
        return self.heads * (self.nope_dim + self.rope_dim)

    @property
    def cached(self) -> int:
        """Values that the cache holds of a token."""
        return self.kv_rank + self.rope_dim

    @property
    def widest(self) -> int:
        return max(self.n_embd, self.q_rank, self.heads * max(self.value_dim, self.nope_dim, self.cached))

    @property
    def ropes(self) -> tuple[Rope, ...]:
        return () if self.rope is None else (self.rope,)

    def tensors(self) -> Iterator[Tensor]:
        if self.q_rank:
            yield Tensor("attn_q_a.weight", (self.q_rank, self.n_embd))
            yield Tensor("attn_q_a.bias", (self.q_rank,), used=self.bias)
            if self.q_norm is not None:
                yield from self.q_norm.tensors()
            yield Tensor("attn_q_b.weight", (self.q_size, self.q_rank))
        else:
            yield Tensor("attn_q.weight", (self.q_size, self.n_embd))
        yield Tensor("attn_kv_a_mqa.weight", (self.cached, self.n_embd))
        yield Tensor("attn_kv_a_mqa.bias", (self.cached,), used=self.bias)
        yield from self.kv_norm.tensors()
        if self.together:
            yield Tensor("attn_kv_b.weight", (self.heads * (self.nope_dim + self.value_dim), self.kv_rank))
        else:
            yield Tensor("attn_k_b.weight", (self.heads, self.kv_rank, self.nope_dim))
            yield Tensor("attn_v_b.weight", (self.heads, self.value_dim, self.kv_rank))
        yield Tensor("attn_output.weight", (self.n_embd, self.heads * self.value_dim))
        yield Tensor("attn_output.bias", (self.n_embd,), used=self.bias)
        if self.indexer is not None:
            yield from self.indexer.tensors()
