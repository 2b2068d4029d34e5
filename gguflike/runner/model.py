"""A model that runs: opened from a GGUF file alone, with its tokenizer, weights and cache."""

from __future__ import annotations

import math
import os
import threading
import weakref
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

from gguflike import container
from gguflike.errors import (
    ArgumentError,
    GGUFError,
    UnsupportedError,
    check_choice,
    check_integer,
    check_threads,
)
from gguflike.families import registry
from gguflike.families.config import layers_left_out
from gguflike.families.family import check_layers
from gguflike.families.parts import Head, Rope
from gguflike.families.rope import divisor
from gguflike.kernels.engine import native
from gguflike.kernels.engine.host import thread_count
from gguflike.kernels.engine.program import Program, Team
from gguflike.progress import Progress
from gguflike.runner import graph, rope
from gguflike.runner.buffers import HEAD_TOKENS, Buffers
from gguflike.runner.generate import Continuation, Generation, Saved, Stream, stop_strings
from gguflike.runner.sampling import Sampler
from gguflike.runner.state import TYPES, default_context, padded
from gguflike.runner.tokenizer import Tokenizer, token_ids
from gguflike.runner.weights import Weights

if TYPE_CHECKING:
    import numpy.typing as npt

    Logits = npt.NDArray[np.float32]

COS_SIN_POSITIONS = 256  # whose cosines and sines are computed together


class Model:
    """One model: the cache holds what was computed last, and what is asked for next builds on it.

    ``context`` is how many tokens fit, ``config`` the typed hyper-parameters of the family and ``graph`` the parts that
    they make (``gguflike.families``). A context manager. Streams may be read in turns, and from several threads: each
    gives the text that it gives alone. What an unfinished one has in the cache is copied when another call needs the
    cache, and copied back for its next piece.
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
        check_threads(threads)
        check_choice("cache_type", cache_type, TYPES)
        if context is not None:
            context = check_integer("context", context, 1)
        self.path = os.fspath(path)
        self._file = file = container.open(path)
        family = registry.for_gguf(_architecture(file)).of_file(file.metadata, file.infos)
        self.config = family.from_file(file.metadata, file.infos)
        check_layers(self.config, self.path, len(file.infos))
        self.graph = family.graph(self.config)
        graph.check(self.graph)
        position_bytes = graph.bytes_per_position(self.graph, cache_type)
        trained = min(self.config.n_ctx, self.graph.embedding.positions or self.config.n_ctx)
        self.context = context or default_context(trained, position_bytes)
        self._check_context()
        self.tokenizer = Tokenizer(file.metadata)
        count = thread_count(threads)
        self.weights = Weights(file, self.graph, layers_left_out(family.name, file.metadata))
        self._rotations = {each: self._rotation(each) for each in self.graph.ropes()}
        self._rotated = 0  # positions whose cosines and sines are in the buffers
        self.states = graph.new_states(self.graph, self.context, cache_type)
        self._buffers = buffers = Buffers(self.graph, padded(self.context), count)
        self._body = graph.body(self.graph, self.weights, buffers, self.states)
        if self._makes_logits:
            self._one = graph.one(self.graph, self.weights, buffers, self.states)
            self._heads = [graph.head(self.graph, self.weights, buffers, many) for many in (False, True)]
            programs = (self._one, self._body, *self._heads)
        else:
            programs = (self._body, self._last)
        # All at once: what is not in the kernel cache is compiled in parallel.
        native.load([*Team.OPS, *self.weights.ops, *(name for program in programs for name in program.names)], progress)
        self._team = Team(count)
        self.weights.repack(self._team, progress)
        self._tokens: list[int] = []  # whose keys and values are in the cache
        self._prefilled = 0  # of them, computed with others: the first so many
        self._lock = threading.RLock()  # one computation at a time
        self._owner: weakref.ref[Continuation] | None = None  # the unfinished one whose tokens are in the cache
        self._turn: Continuation | None = None  # the one that is computing
        self._closed = False

    def _rotation(self, each: Rope) -> rope.Rotation:
        name = divisor(each, self.context)
        return rope.rotation(each, None if name is None else self.weights.floats(name))

    def _check_context(self) -> None:
        """ArgumentError for a context longer than the table of a model that has learned its positions."""
        positions = self.graph.embedding.positions
        if positions and self.context > positions:
            expected = f"at most {positions}, the positions that the model has learned"
            raise ArgumentError("out of range", path=self.path, field="context", expected=expected, got=self.context)

    @property
    def _makes_logits(self) -> bool:
        return isinstance(self.graph.head, Head)

    @cached_property
    def _last(self) -> Program:
        return graph.last(self.graph, self.weights, self._buffers)

    @property
    def labels(self) -> tuple[str, ...]:
        """What a classifier's scores are of, "" where the file has no name for one; empty for other models."""
        labels: tuple[str, ...] = getattr(self.graph.head, "labels", ())
        return labels

    @property
    def threads(self) -> int:
        return self._team.threads

    @property
    def vocab_size(self) -> int:
        return self.graph.embedding.n_vocab

    def close(self) -> None:
        """Let go of the file. The model cannot be used afterwards (ArgumentError)."""
        with self._lock:
            self._closed = True
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
        """Token ids of ``text``; ``add_special`` adds BOS and EOS where the file asks for them."""
        return self.tokenizer.encode(text, add_special=add_special)

    def detokenize(self, ids: Sequence[int]) -> str:
        """The text of token ids. ArgumentError for an id that is not in the vocabulary."""
        return self.tokenizer.decode(token_ids(ids))

    # Computing

    def logits(self, ids: Sequence[int]) -> Logits:
        """Logits after each of ``ids``, float32 (len(ids), vocab). Errors as of ``extend``."""
        return self.extend(ids, 0, all_logits=True)

    def common_prefix(self, ids: Sequence[int]) -> int:
        """How many of ``ids`` need not be computed again, leaving at least one to compute.

        Where a token computed alone differs from one computed with others (``Weights.exact``), only what was computed
        with others counts, and two are left: so the same prompt gives the same logits whatever the cache holds.
        """
        count, exact = 0, self.weights.exact
        limit = min(len(ids) - 1, len(self._tokens)) if exact else min(len(ids) - 2, self._prefilled)
        while count < limit and ids[count] == self._tokens[count]:
            count += 1
        return self.states.reusable(count)

    def forget(self, position: int) -> None:
        """Drop what the cache holds from ``position`` on."""
        check_integer("position", position, 0)
        with self._lock:
            self._claim(self._turn)
            self._cut(position)

    def _cut(self, position: int) -> None:
        del self._tokens[position:]
        self._prefilled = min(self._prefilled, position)

    def extend(self, ids: Sequence[int], position: int, all_logits: bool = False) -> Logits:
        """Compute ``ids`` after the first ``position`` cached tokens: logits (1, vocab) of the last, or of all.

        Unless ``all_logits``, the result is a view that the next call overwrites. ArgumentError where an id is not in
        the vocabulary or ``position`` is beyond what is cached, UnsupportedError where the context is too short,
        ArgumentTypeError where the ids are no integers, GGUFError where logits are not finite. A model whose tokens see
        those behind them computes from position 0 only, and an encoder has no logits (UnsupportedError).
        """
        self._check_logits()
        ids = token_ids(ids)
        with self._lock:
            self._claim(self._turn)
            self._check(ids, position)
            check_integer("position", position, 0, len(self._tokens), "compute the tokens before it first")
            if position and self._buffers.whole:
                raise UnsupportedError(
                    "tokens of this model see those behind them, so a text cannot be computed in pieces",
                    path=self.path,
                    expected="position 0",
                    got=position,
                    remedy="give all tokens at once",
                )
            self._return_to(position)
            return self._computed(ids, position, all_logits)

    def _return_to(self, position: int) -> None:
        """Let the states stand at ``position``. What they have forgotten since is computed again."""
        kept = self.states.reusable(position)
        again = self._tokens[kept:position]
        self._cut(kept)
        self.states.cut(kept)
        if again:
            self._computed(again, kept, all_logits=False)

    def _computed(self, ids: Sequence[int], position: int, all_logits: bool) -> Logits:
        """Logits of ``ids`` behind all cached tokens."""
        if len(ids) == 1:
            self._pass(self._one, ids, position)
            self._check_finite(self._buffers.logits[:1])
            return self._buffers.logits[:1].copy() if all_logits else self._buffers.logits[:1]
        out = np.empty((len(ids), self.vocab_size), np.float32) if all_logits else self._buffers.logits[:1]
        size = self._buffers.batch
        for start in range(0, len(ids), size):
            batch = ids[start : start + size]
            self._pass(self._body, batch, position + start)
            if all_logits:
                for first in range(0, len(batch), HEAD_TOKENS):
                    count = min(HEAD_TOKENS, len(batch) - first)
                    out[start + first : start + first + count] = self._pass_head(first, count)
            elif start + len(batch) == len(ids):
                out = self._pass_head(len(batch) - 1, 1)
        return out

    def hidden(self, ids: Sequence[int], second: int | None = None, *, last: bool = False) -> Logits:
        """What the last norm makes of each of ``ids``, float32 (len(ids), n_embd): what vectors of texts are made of.

        ``second``: the ids from there on are those of the second of two texts, which some encoders are told. ``last``:
        only of the last id, (1, n_embd), for which what is cached is not computed again. Errors as of ``extend``. A
        model whose tokens see those behind them computes all at once, in memory that grows with the text: a few dozen
        times ``n_embd`` float32 values for a token.
        """
        ids = token_ids(ids)
        with self._lock:
            self._claim(self._turn)
            self._check(ids, 0)
            begin = self.common_prefix(ids) if last and not self._buffers.whole else 0
            self._return_to(begin)
            buffers, out = self._buffers, np.empty((len(ids), self.graph.embedding.n_embd), np.float32)
            types = np.arange(len(ids)) >= (len(ids) if second is None else second)
            types &= self.graph.embedding.types > 1
            for start in range(begin, len(ids), buffers.batch):
                batch = ids[start : start + buffers.batch]
                buffers.type_ids[: len(batch)] = types[start : start + len(batch)]
                self._pass(self._body, batch, start)
                if self.graph.norm is not None:
                    self._team.run(self._last, len(batch))
                out[start : start + len(batch)] = buffers.x[: len(batch)]
            buffers.type_ids[:] = 0
            out = out[-1:] if last else out
            self._check_finite(out, "hidden states")
            return out

    def _pass(self, program: Program, batch: Sequence[int], position: int) -> None:
        count, buffers = len(batch), self._buffers
        buffers.ids[:count] = batch
        if self.graph.embedding.positions:
            buffers.position_ids[:count] = np.arange(position, position + count)
        if position + count > self._rotated:
            start, wanted = self._rotated, -(-(position + count) // COS_SIN_POSITIONS) * COS_SIN_POSITIONS
            self._rotated = min(wanted, buffers.positions)
            for each, rotation in self._rotations.items():
                rotation.fill_cos_sin(start, self._rotated - start, buffers.cos_sin[each][start:])
        try:
            self.states.before(position, count)
            self._team.run(program, count, position)
            self.states.advance(position, count)
        except BaseException:  # an interrupt: nobody knows what the states hold
            self._cut(0)
            self.states.cut(0)
            raise
        if program is self._body and self._prefilled == position:
            self._prefilled += count
        self._tokens += batch

    def _pass_head(self, first: int, count: int) -> Logits:
        self._buffers.head_x[:count] = self._buffers.x[first : first + count]
        self._team.run(self._heads[count > 1], count)
        self._check_finite(self._buffers.logits[:count])
        return self._buffers.logits[:count]

    def _check_finite(self, logits: Logits, what: str = "logits") -> None:
        """GGUFError where a value is NaN or infinite: no token can be chosen by it, and nothing else told."""
        if math.isfinite(logits.max()) and math.isfinite(logits.min()):  # NaN is the maximum of whatever holds one
            return
        self._cut(0)
        damaged = self.weights.not_finite()
        raise GGUFError(
            f"the {what} are NaN or infinite, so nothing can be made of them",
            path=self.path,
            tensor=damaged,
            got="NaN or infinity among this tensor's values" if damaged else None,
            remedy=f"`gguflike verify {self.path}` names damaged tensors; where there are none, the model overflows",
        )

    # Streams that take turns

    @contextmanager
    def turn(self, text: Continuation) -> Iterator[None]:
        """A block in which the cache is that of ``text``, as ``text`` left it, and nobody else computes."""
        with self._lock:
            self._claim(text)
            self._turn = text
            try:
                yield
            finally:
                self._turn = None

    def _claim(self, text: Continuation | None) -> None:
        """Make the cache that of ``text`` (None: of no unfinished one), after copying what another still needs."""
        if self._closed:
            raise ArgumentError("the model is closed", path=self.path, remedy="load it again")
        owner = self._owner() if self._owner is not None else None
        if owner is text:
            return
        if owner is not None:
            owner.saved = Saved(list(self._tokens), self._prefilled, self.states.save(len(self._tokens)))
        self._owner = None if text is None else weakref.ref(text)
        if text is not None and text.saved is not None:
            saved, text.saved = text.saved, None
            self.states.restore(saved.states)
            self._tokens, self._prefilled = saved.tokens, saved.prefilled

    def _check(self, ids: Sequence[int], position: int) -> None:
        if not ids:
            raise ArgumentError("no tokens to compute", remedy="give a prompt that is at least one token long")
        if position + len(ids) > self.context:
            raise UnsupportedError(
                "the context is too short for these tokens",
                expected=f"at most {self.context} tokens",
                got=position + len(ids),
                remedy=f"load it with a larger context (it was trained for {self.config.n_ctx})",
            )
        lowest, highest = min(ids), max(ids)
        if lowest < 0 or highest >= self.vocab_size:
            raise ArgumentError(
                "token id is not in the vocabulary",
                expected=f"0 to {self.vocab_size - 1}",
                got=lowest if lowest < 0 else highest,
            )

    def _check_logits(self) -> None:
        if not self._makes_logits:
            raise UnsupportedError(
                "this model gives vectors or scores, not logits, so it has no text to continue",
                path=self.path,
                remedy="embed() gives vectors, scores() and rerank() scores (`gguflike embed`, `gguflike rerank`)",
            )

    # Vectors and scores

    def embed(
        self,
        texts: str | Iterable[str],
        *,
        pooling: str | None = None,
        normalize: bool = True,
        truncate: bool = False,
    ) -> Logits:
        """A vector for each text (one for a single one), float32 (texts, n), of length 1 unless not ``normalize``.

        ``pooling``, "mean", "cls" (the first token's vector) or "last", is what the file says unless it is given; for a
        model that makes text it must be. ``truncate`` cuts texts longer than the context, which are UnsupportedError
        otherwise; so is a model that scores texts. ArgumentError for a pooling that the file does not say, and where
        there is no text or no token in one, ArgumentTypeError for what is no text.
        """
        from gguflike.runner import embedding  # most models make text

        return embedding.embed(self, texts, pooling, normalize, truncate)

    def scores(self, texts: Iterable[str | tuple[str, str]], *, truncate: bool = False) -> Logits:
        """What a classifier gives each of ``labels``, float32 (texts, labels), for texts or for pairs of them.

        Scores are as the model makes them, before softmax or sigmoid, unless ``graph.head.probabilities``. Errors as of
        ``embed``.
        """
        from gguflike.runner import embedding

        return embedding.scores(self, texts, truncate)

    def rerank(self, query: str, documents: str | Iterable[str], *, truncate: bool = False) -> Logits:
        """How well each document answers the query by a reranker, float32 (documents,): more is better.

        The score of the model's one label, or the probability of the first ("yes"). Errors as of ``embed``, and
        UnsupportedError for a classifier of several labels.
        """
        from gguflike.runner import embedding

        return embedding.rerank(self, query, documents, truncate)

    # Generating

    def generate(
        self,
        prompt: str | Sequence[int],
        max_tokens: int | None = 128,
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

        Generation ends with an end token, before one of the strings ``stop``, after ``max_tokens`` tokens (None: no
        limit) or when the context is full; ``finish_reason`` says which. ``temperature`` 0 takes the likeliest token.
        Otherwise ``seed`` (0 or more) makes the text repeatable: the same file, prompt and settings give the same text,
        whatever the model computed before. Without a seed each text is another.

        ``lookup`` is how many tokens to guess at a time from what the text repeats. It changes the speed at temperature
        0, not the result, and does nothing at others. (Weights in F32, F16 and BF16 are summed in another order for
        several tokens than for one, which may decide a tie within a millionth differently.)

        ArgumentError (a ValueError) for a setting out of range, a token id that is not in the vocabulary and an empty
        prompt; UnsupportedError for one longer than the context; ArgumentTypeError (a TypeError) for what is of another
        kind, such as bytes for a prompt. Reading the stream raises GGUFError where logits are not finite.
        """
        self._check_logits()
        sampler = Sampler(temperature, top_k, top_p, min_p, repetition_penalty)
        limit = self.context if max_tokens is None else check_integer("max_tokens", max_tokens, 0, None, _UNLIMITED)
        seed = None if seed is None else check_integer("seed", seed, 0, None, _UNSEEDED)
        lookup = check_integer("lookup", lookup, 0)
        stops = [stop] if isinstance(stop, str) else stop_strings(stop)
        ids = self.tokenize(prompt) if isinstance(prompt, str) else token_ids(prompt, _PROMPT)
        self._check(ids, 0)
        return Stream(self, ids, max_tokens=limit, sampler=sampler, seed=seed, stop=stops, lookup=lookup)

    def chat(self, messages: list[dict[str, Any]], max_tokens: int | None = 512, **settings: Any) -> Stream:
        """Answer a conversation, ``[{"role": ..., "content": ...}, ...]``; ``settings`` are those of ``generate``.

        Errors as of ``generate`` and ``Tokenizer.apply_chat_template``.
        """
        text = self.tokenizer.apply_chat_template(messages)
        return self.generate(self.tokenizer.encode(text, False, True), max_tokens, **settings)

    def perplexity(self, ids: Sequence[int], window: int = 256, progress: Progress | None = None) -> float:
        """exp of the mean negative log-likelihood of each token given those before it in its window of ``window``."""
        from gguflike.runner import perplexity  # who runs a model need not load it

        return perplexity.measure(self, ids, window, progress)


def _architecture(file: container.GGUFFile) -> str:
    """The architecture of the model in a file. GGUFError where it holds something else."""
    kind = file.metadata.get("general.type", "model")
    if kind != "model":
        remedy = "run the model that it belongs to" if kind == "adapter" else None
        raise GGUFError(
            "the file is no model", path=file.path, field="general.type", expected="model", got=kind, remedy=remedy
        )
    if file.architecture is None:
        raise GGUFError("the file does not say what model it is", path=file.path, field="general.architecture")
    if not file.infos:
        raise GGUFError("the file holds a vocabulary at most, no weights", path=file.path, got="no tensors")
    return file.architecture


_PROMPT = "text, or a flat list of token ids"
_UNLIMITED = "None generates until an end token or until the context is full"
_UNSEEDED = "leave it out for another text each time"


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
    memory allows. ``cache_type`` is "f16", "q8_0" (half the memory) or "f32" (twice the memory, nothing rounded).
    ``progress(done, total, what)`` hears of loading and, on the first ever run, of kernels being compiled.
    """
    return Model(path, threads=threads, context=context, cache_type=cache_type, progress=progress)


__all__ = ["Generation", "Model", "load"]
