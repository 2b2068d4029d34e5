"""A model that runs: opened from a GGUF file alone, with its tokenizer, weights and cache."""

from __future__ import annotations

import os
from collections.abc import Sequence
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from gguflike import container
from gguflike.arch import hparams, registry
from gguflike.errors import GGUFError, UnsupportedError
from gguflike.kernels.engine.program import Program, Team
from gguflike.progress import Progress
from gguflike.runner import graph, rope
from gguflike.runner.cache import KVCache, bytes_per_position, default_context
from gguflike.runner.generate import Generation, Stream
from gguflike.runner.sampling import Sampler
from gguflike.runner.tokenizer import Tokenizer
from gguflike.runner.weights import Weights

Logits = npt.NDArray[np.float32]
COS_SIN_POSITIONS = 256  # whose cosines and sines are computed together


class Model:
    """One model and one conversation: the cache holds what was computed last, and what is asked for next builds on it.

    ``context`` is how many tokens fit, ``hparams`` the hyper-parameters by their names in ``gguflike.arch``. A context
    manager; calls from several threads must take turns.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        threads: int | None = None,
        context: int | None = None,
        cache_type: str = "f16",
        progress: Progress | None = None,
    ) -> None:
        self.path = os.fspath(path)
        self._file = file = container.open(path)
        if file.architecture is None:
            raise GGUFError("the file does not say what model it is", path=self.path, field="general.architecture")
        spec = registry.for_gguf(file.architecture)
        self.hparams = h = hparams.from_gguf(spec, file.metadata, file.infos)
        graph.check(spec, h)
        self.context = _context(h, context, cache_type)
        self.tokenizer = Tokenizer(file.metadata)
        self._team = Team(threads, progress)
        self.weights = Weights(file, spec, h, self._team, progress)
        self._rope = rope.from_hparams(h, spec.graph.rope, self.weights.floats("rope_freqs.weight"))
        self.cache = KVCache(h["n_layer"], h["n_head_kv"], h["head_dim"], self.context, cache_type)
        self._buffers = buffers = graph.Buffers(h, self.cache.positions, self._team.threads)
        self._rotations = 0  # positions whose cosines and sines are in the buffers
        self._one = graph.one(spec, h, self.weights, buffers, self.cache)
        self._body = graph.body(spec, h, self.weights, buffers, self.cache)
        self._heads = [graph.head(h, self.weights, buffers, many) for many in (False, True)]
        for program in (self._one, self._body, *self._heads):
            program.link(progress)
        self._tokens: list[int] = []  # whose keys and values are in the cache

    @property
    def threads(self) -> int:
        return self._team.threads

    @property
    def vocab_size(self) -> int:
        return int(self.hparams["n_vocab"])

    def close(self) -> None:
        """Let go of the file. The model cannot be used afterwards."""
        self._team.close()
        self._file.close()

    def __enter__(self) -> Model:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # Text

    def tokenize(self, text: str, add_special: bool = True) -> list[int]:
        return self.tokenizer.encode(text, add_special=add_special)

    def detokenize(self, ids: Sequence[int]) -> str:
        return self.tokenizer.decode(ids)

    # Computing

    def logits(self, ids: Sequence[int]) -> Logits:
        """Logits after each of ``ids``, float32 (len(ids), vocab)."""
        return self.extend(ids, 0, all_logits=True)

    def common_prefix(self, ids: Sequence[int]) -> int:
        """How many of ``ids`` need not be computed again, leaving at least one to compute."""
        count = 0
        limit = min(len(ids) - 1, len(self._tokens))
        while count < limit and ids[count] == self._tokens[count]:
            count += 1
        return count

    def forget(self, position: int) -> None:
        """Drop what the cache holds from ``position`` on."""
        del self._tokens[position:]

    def extend(self, ids: Sequence[int], position: int, all_logits: bool = False) -> Logits:
        """Compute ``ids`` after the first ``position`` cached tokens: logits (1, vocab) of the last, or of all.

        The result for one token is a view that the next call overwrites. UnsupportedError where an id is not in the
        vocabulary or the context is too short.
        """
        self._check(ids, position)
        self.forget(position)
        if len(ids) == 1:
            self._pass(self._one, ids, position)
            return self._buffers.logits[:1].copy() if all_logits else self._buffers.logits[:1]
        out = np.empty((len(ids), self.vocab_size), np.float32) if all_logits else self._buffers.logits[:1]
        for start in range(0, len(ids), graph.BATCH):
            batch = ids[start : start + graph.BATCH]
            self._pass(self._body, batch, position + start)
            if all_logits:
                for first in range(0, len(batch), graph.HEAD_TOKENS):
                    count = min(graph.HEAD_TOKENS, len(batch) - first)
                    out[start + first : start + first + count] = self._pass_head(first, count)
            elif start + len(batch) == len(ids):
                out = self._pass_head(len(batch) - 1, 1)
        return out

    def _pass(self, program: Program, batch: Sequence[int], position: int) -> None:
        count, buffers = len(batch), self._buffers
        buffers.ids[:count] = batch
        if position + count > self._rotations:
            start, wanted = self._rotations, -(-(position + count) // COS_SIN_POSITIONS) * COS_SIN_POSITIONS
            self._rotations = min(wanted, self.cache.positions)
            self._rope.fill_cos_sin(start, self._rotations - start, buffers.cos_sin[start:])
        self._team.run(program, count, position)
        self._tokens += [int(token) for token in batch]

    def _pass_head(self, first: int, count: int) -> Logits:
        self._buffers.head_x[:count] = self._buffers.x[first : first + count]
        self._team.run(self._heads[count > 1], count)
        return self._buffers.logits[:count]

    def _check(self, ids: Sequence[int], position: int) -> None:
        if not len(ids):
            raise UnsupportedError("no tokens to compute", remedy="give a prompt of at least one token")
        if position + len(ids) > self.context:
            raise UnsupportedError(
                "the context is too short for these tokens",
                expected=f"at most {self.context} tokens",
                got=position + len(ids),
                remedy=f"load it with a larger context (it was trained for {self.hparams['n_ctx']})",
            )
        lowest, highest = min(ids), max(ids)
        if lowest < 0 or highest >= self.vocab_size:
            raise UnsupportedError(
                "token id is not in the vocabulary",
                expected=f"0 to {self.vocab_size - 1}",
                got=lowest if lowest < 0 else highest,
            )

    # Generating

    def generate(
        self,
        prompt: str | Sequence[int],
        max_tokens: int = 128,
        *,
        temperature: float = 0.0,
        top_k: int = 0,
        top_p: float = 1.0,
        min_p: float = 0.0,
        repetition_penalty: float = 1.0,
        seed: int | None = None,
        stop: Sequence[str] = (),
        lookup: int = 0,
    ) -> Stream:
        """Continue ``prompt`` (text, or token ids). Iterate over the pieces, or take ``.result()``.

        ``lookup`` is how many tokens to guess at a time from what the text repeats. It changes the speed at temperature
        0, not the result, and does nothing at others. (Weights in F32, F16 and BF16 are summed in another order for
        several tokens than for one, which may decide a tie within a millionth differently.)
        """
        ids = self.tokenize(prompt) if isinstance(prompt, str) else [int(token) for token in prompt]
        self._check(ids, 0)
        sampler = Sampler(temperature, top_k, top_p, min_p, repetition_penalty)
        stops = [stop] if isinstance(stop, str) else list(stop)
        return Stream(self, ids, max_tokens=max_tokens, sampler=sampler, seed=seed, stop=stops, lookup=lookup)

    def chat(self, messages: list[dict[str, Any]], max_tokens: int = 512, **settings: Any) -> Stream:
        """Answer a conversation, ``[{"role": ..., "content": ...}, ...]``; ``settings`` are those of ``generate``."""
        text = self.tokenizer.apply_chat_template(messages)
        return self.generate(self.tokenizer.encode(text, False, True), max_tokens, **settings)

    def perplexity(self, ids: Sequence[int], window: int = 256, progress: Progress | None = None) -> float:
        """exp of the mean negative log-likelihood of each token given those before it in its window of ``window``."""
        total, count = 0.0, 0
        for start in range(0, len(ids), window):
            part = np.asarray(ids[start : start + window], dtype=np.int64)
            if len(part) < 2:
                break
            rows = self.logits(part.tolist())[:-1].astype(np.float64)
            rows -= rows.max(axis=1, keepdims=True)
            total += float(np.log(np.exp(rows).sum(axis=1)).sum() - rows[np.arange(len(rows)), part[1:]].sum())
            count += len(rows)
            if progress is not None:
                progress(start + len(part), len(ids), "perplexity")
        if not count:
            raise UnsupportedError("perplexity of too few tokens", expected="2 or more", got=len(ids))
        return float(np.exp(total / count))


def _context(h: Any, wanted: int | None, cache_type: str) -> int:
    if wanted is not None:
        if wanted < 1:
            raise UnsupportedError("context", expected="1 or more", got=wanted)
        return wanted
    return default_context(h["n_ctx"], bytes_per_position(h["n_layer"], h["n_head_kv"], h["head_dim"], cache_type))


def load(
    path: str | os.PathLike[str],
    *,
    threads: int | None = None,
    context: int | None = None,
    cache_type: str = "f16",
    progress: Progress | None = None,
) -> Model:
    """Load a GGUF file to run it.

    ``threads`` defaults to the CPUs that this process may use, ``context`` to what the model was trained for as far as
    memory allows. ``cache_type`` is "f16" or "q8_0" (half the memory). ``progress(done, total, what)`` hears of loading
    and, on the first ever run, of kernels being compiled.
    """
    return Model(path, threads=threads, context=context, cache_type=cache_type, progress=progress)


__all__ = ["Generation", "Model", "load"]
