"""A model that computes: opened from a GGUF file alone, token ids in, logits or hidden states out.

Here is checked what it is given, and who has its cache. model.py makes a `Model` of it, which knows texts.
"""

from __future__ import annotations

import math
import os
import threading
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING

from gguflike import container
from gguflike.errors import (
    ArgumentError,
    GGUFError,
    UnsupportedError,
    check_choice,
    check_integer,
    check_threads,
    counted,
)
from gguflike.families.parts import Head
from gguflike.progress import Progress
from gguflike.runner import ability, graph
from gguflike.runner.passes import Passes
from gguflike.runner.state import TYPES, default_context
from gguflike.runner.tokenizer import Tokenizer, token_ids
from gguflike.runner.weights import Weights

if TYPE_CHECKING:
    from typing_extensions import Self

    from gguflike.activations import Fixed
    from gguflike.container import GGUFFile
    from gguflike.kernels.engine.program import Team
    from gguflike.runner.generate import Continuation
    from gguflike.runner.mtp import HeadPasses
    from gguflike.runner.passes import Floats
    from gguflike.runner.state import States
    from gguflike.runner.together import Together

FIXED = ("static", "hybrid")  # activations that need ranges: all that have one by it, or those that the file says
ACTIVATIONS = ("dynamic", "adaptive", *FIXED)
CREST = 7.0  # of a block of activations, from which on "adaptive" rounds it twice


def crest_of(activations: str) -> float:
    """From which crest on blocks of activations are rounded twice; 0.0: none are. What `Passes` and `Buffers` take."""
    return CREST if activations == "adaptive" else 0.0


class Network:
    """One model, and its cache, which holds what was computed last: what is asked for next builds on it.

    ``config`` are the typed hyper-parameters of the family, ``graph`` the parts that they make and ``context`` how many
    tokens fit. What an unfinished stream has in the cache is copied when another call needs the cache, and copied back
    for its next piece.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        threads: int | None = None,
        context: int | None = None,
        cache_type: str = "f16",
        activations: str = "dynamic",
        progress: Progress | None = None,
        opened: GGUFFile | None = None,
    ) -> None:
        """The arguments of `load`. ``opened`` is the file at ``path``, where it is open already or not what is there;
        it is closed with the model."""
        check_threads(threads)
        check_choice("cache_type", cache_type, TYPES)
        check_choice("activations", activations, ACTIVATIONS)
        if context is not None:
            context = check_integer("context", context, 1)
        self.path = os.fspath(path)
        self._file = file = container.open(path) if opened is None else opened
        understood = ability.understand(file)
        self.config, self.graph, self._longest = understood.config, understood.graph, understood.longest
        position_bytes = graph.bytes_per_position(self.graph, cache_type)
        self.context = context or default_context(self._longest, position_bytes)
        self._check_context()
        with ability.placed(file):
            self.tokenizer = Tokenizer(file.metadata)
        ranges: Mapping[str, Fixed] = {}
        if activations in FIXED:
            from gguflike.activations import fixed

            ranges = fixed(file.metadata, activations, self.path)
        self.weights = Weights(file, self.graph, understood.left_out)
        self.cache_type, self.position_bytes, self.activations = cache_type, position_bytes, activations
        self.weights.fix(ranges)
        crest = crest_of(activations)
        self._options = (self.context, cache_type, threads)
        self._new_passes = partial(Passes, self.graph, self.weights, *self._options, crest=crest)
        self._passes = self._new_passes(progress)
        self._lock = threading.RLock()  # one computation at a time
        self._owner: weakref.ref[Continuation] | None = None  # the unfinished one whose tokens are in the cache
        self._turn: Continuation | None = None  # the one that is computing
        self._closed = False

    def _check_context(self) -> None:
        """ArgumentError for a context of more positions than the model can be computed with."""
        for limit, why in graph.limits(self.graph).items():
            if self.context > limit:
                expected = f"at most {limit}, {why}"
                raise ArgumentError(
                    "out of range", path=self.path, field="context", expected=expected, got=self.context
                )

    @property
    def labels(self) -> tuple[str, ...]:
        """What a classifier's scores are of, "" where the file has no name for one; empty for other models."""
        labels: tuple[str, ...] = getattr(self.graph.head, "labels", ())
        return labels

    @property
    def threads(self) -> int:
        return self._passes.threads

    @property
    def states(self) -> States:
        """What the model keeps from token to token."""
        return self._passes.states

    @property
    def computation(self) -> str:
        """What numbers depend on beside the file and the settings: a digest of the kernels and of what the CPU can do,
        by which sums are cut into vectors."""
        import hashlib

        from gguflike.kernels.engine import host

        return hashlib.sha256(f"{host.sources_digest()} {host.cpu()}".encode()).hexdigest()

    @property
    def vocab_size(self) -> int:
        return self.graph.embedding.n_vocab

    @property
    def pass_size(self) -> int:
        """Tokens that one pass computes at most."""
        return self._passes.batch

    @property
    def files(self) -> tuple[str, ...]:
        """The files that the model is in."""
        return self._file.paths

    @property
    def closed(self) -> bool:
        """Whether the model can no longer be used."""
        return self._closed

    def close(self) -> None:
        """Let go of the file. The model cannot be used afterwards (ArgumentError)."""
        with self._lock:
            self._closed = True
            self._passes.close()
            self._file.close()

    def fix(self, ranges: Mapping[str, Fixed]) -> None:
        """Round what these matrices multiply by these ranges from now on, and all else by what it holds: for who looks
        for ranges. Nothing stays cached."""
        with self._lock:
            self._claim(self._turn)
            self._passes.close()
            self.weights.fix(ranges)
            self._passes = self._new_passes(None)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # Computing

    def logits(self, ids: Sequence[int]) -> Floats:
        """Logits after each of ``ids``, float32 (len(ids), vocab). Errors as of ``extend``."""
        return self.extend(ids, 0, all_logits=True)

    def common_prefix(self, ids: Sequence[int]) -> int:
        """How many of ``ids`` need not be computed again, leaving at least one to compute.

        Where a token computed alone differs from one computed with others (``Weights.exact``), only what was computed
        with others counts, and two are left: so the same prompt gives the same logits whatever the cache holds.
        """
        return self._passes.common_prefix(ids)

    def forget(self, position: int) -> None:
        """Drop what the cache holds from ``position`` on."""
        check_integer("position", position, 0)
        with self._lock:
            self._claim(self._turn)
            self._passes.forget(position)

    def extend(
        self,
        ids: Sequence[int],
        position: int,
        all_logits: bool = False,
        progress: Progress | None = None,
        *,
        each: bool = False,
    ) -> Floats:
        """Compute ``ids`` after the first ``position`` cached tokens: logits (1, vocab) of the last, or of all.

        Unless ``all_logits``, the result is a view that the next call overwrites. ``progress`` counts the tokens where
        they take several passes. ``each``: logits of all, the same bits as if one token were computed after the other;
        for as many ids as a pass has room for (``pass_size``).

        ArgumentError where an id is not in the vocabulary or ``position`` is beyond what is cached, UnsupportedError
        where the context is too short, ArgumentTypeError where the ids are no integers, GGUFError where logits are not
        finite. A model whose tokens see those behind them computes from position 0 only, and an encoder has no logits
        (UnsupportedError).
        """
        self._check_logits()
        ids = token_ids(ids)
        with self._lock:
            self._claim(self._turn)
            self._check(ids, position)
            check_integer("position", position, 0, len(self._passes.tokens), "compute the tokens before it first")
            if position and self._passes.whole:
                raise UnsupportedError(
                    "tokens of this model see those behind them, so a text cannot be computed in pieces",
                    path=self.path,
                    expected="position 0",
                    got=position,
                    remedy="give all tokens at once",
                )
            if each:
                check_integer("ids", len(ids), 1, self.pass_size)
                return self._finite(self._passes.each(ids, position), "logits")
            return self._finite(self._passes.logits(ids, position, all_logits, progress), "logits")

    def hidden(self, ids: Sequence[int], second: int | None = None, *, last: bool = False) -> Floats:
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
            return self._finite(self._passes.hidden(ids, len(ids) if second is None else second, last), "hidden states")

    def _finite(self, values: Floats, what: str) -> Floats:
        """The values. Raises what is wrong with them."""
        wrong = self.not_finite(values, what)
        if wrong is None:
            return values
        self._passes.forget(0)
        raise wrong

    def not_finite(self, values: Floats, what: str) -> GGUFError | None:
        """The error where one of the values is NaN or infinite: no token can be chosen by it, and nothing else told; or
        where a small tensor holds such values, which a softmax or a clamp may hide."""
        finite = math.isfinite(values.max()) and math.isfinite(values.min())  # NaN is the maximum of whatever holds one
        if finite and self.weights.finite:
            return None
        damaged = self.weights.not_finite()
        wrong = "a tensor of the model is" if finite else f"the {what} are"
        return GGUFError(
            f"{wrong} NaN or infinite, so nothing can be made of the {what}",
            path=self.path,
            tensor=damaged,
            got="NaN or infinity among this tensor's values" if damaged else None,
            remedy=f"`gguflike verify {self.path}` names damaged tensors; where there are none, the model overflows",
        )

    def together(self, slots: int) -> Together:
        """Places for ``slots`` texts that are computed at the same time: what an engine works on.

        They have caches of their own, each for the whole context, of which memory is taken as it is needed.
        """
        from gguflike.runner.together import Together  # who computes one text need not load it

        self._check_logits()
        check_integer("slots", slots, 1)
        with self.computing():
            passes = self._new_passes(None, slots=slots)
        return Together(self, passes)

    def head_passes(self, slots: int, team: Team | None = None) -> list[HeadPasses]:
        """Programs of each multi-token-prediction head, for as many texts, which ``team`` computes (None: the model's).
        UnsupportedError where there is none. Their weights are loaded the first time."""
        from gguflike.runner import mtp

        if not self.graph.mtp:
            raise mtp.no_head(self)
        if not self._head_weights:
            for head in self.graph.mtp:
                graph.check(head)
            self._head_weights = [Weights(self._file, head, None, self.weights) for head in self.graph.mtp]
        return [
            mtp.HeadPasses(head, weights, *self._options, None, slots=slots, team=team or self._passes.team)
            for head, weights in zip(self.graph.mtp, self._head_weights, strict=True)
        ]

    _head_weights: Sequence[Weights] = ()

    @contextmanager
    def computing(self) -> Iterator[None]:
        """A block in which nobody else computes. ArgumentError where the model is closed."""
        with self._lock:
            self._check_open()
            yield

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
        self._check_open()
        owner = self._owner() if self._owner is not None else None
        if owner is text:
            return
        if owner is not None:
            owner.saved = self._passes.save()
        self._owner = None if text is None else weakref.ref(text)
        if text is not None and text.saved is not None:
            saved, text.saved = text.saved, None
            self._passes.restore(saved)

    def _check_open(self) -> None:
        if self._closed:
            raise ArgumentError("the model is closed", path=self.path, remedy="load it again")

    def check_prompt(self, ids: Sequence[int]) -> None:
        """Raise what `generate` raises at once for a prompt of these token ids."""
        self._check_logits()
        self._check(ids, 0)

    def _check(self, ids: Sequence[int], position: int) -> None:
        if not ids:
            raise ArgumentError("no tokens to compute", remedy="give a prompt that is at least one token long")
        if position + len(ids) > self.context:
            raise UnsupportedError(
                "the context is too short for these tokens",
                expected=f"at most {counted(self.context, 'token')}",
                got=position + len(ids),
                remedy=self._more_context(),
            )
        lowest, highest = min(ids), max(ids)
        if lowest < 0 or highest >= self.vocab_size:
            raise ArgumentError(
                "token id is not in the vocabulary",
                expected=f"0 to {self.vocab_size - 1}",
                got=lowest if lowest < 0 else highest,
            )

    def _more_context(self) -> str:
        """What to do about a context that is too short."""
        limits = graph.limits(self.graph)
        if self.context in limits:
            return f"shorten the text: {self.context} are {limits[self.context]}"
        return f"load it with a larger context (at most {counted(self._longest, 'token')} for this model)"

    def _check_logits(self) -> None:
        if not isinstance(self.graph.head, Head):
            raise UnsupportedError(
                "this model gives vectors or scores, not logits, so it has no text to continue",
                path=self.path,
                remedy="embed() gives vectors, scores() and rerank() scores (`gguflike embed`, `gguflike rerank`)",
            )
