"""A model that runs: opened from a GGUF file alone, with its tokenizer, weights and cache."""

from __future__ import annotations

import math
import os
import threading
import weakref
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property, partial
from types import TracebackType
from typing import TYPE_CHECKING, Any

from gguflike import container
from gguflike.activations import FIXED, Fixed, fixed
from gguflike.errors import (
    ArgumentError,
    GGUFError,
    UnsupportedError,
    check_choice,
    check_integer,
    check_texts,
    check_threads,
    counted,
)
from gguflike.families import registry
from gguflike.families.config import layers_left_out
from gguflike.families.family import check_layers
from gguflike.families.parts import Head
from gguflike.progress import Progress
from gguflike.runner import graph
from gguflike.runner.generate import Continuation, Generation, Stream
from gguflike.runner.passes import Passes
from gguflike.runner.sampling import Sampling
from gguflike.runner.state import TYPES, default_context
from gguflike.runner.tokenizer import Tokenizer, token_ids
from gguflike.runner.weights import Weights

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from gguflike.chat import Chat
    from gguflike.container import GGUFFile
    from gguflike.grammar import Grammars
    from gguflike.runner.passes import Floats
    from gguflike.runner.sampling import Grammar
    from gguflike.runner.sampling.keywords import Settings
    from gguflike.runner.state import States
    from gguflike.runner.together import Together

ACTIVATIONS = ("dynamic", "adaptive", *FIXED)
CREST = 7.0  # of a block of activations, from which on "adaptive" rounds it twice


class Model:
    """One model: the cache holds what was computed last, and what is asked for next builds on it.

    ``context`` is how many tokens fit, ``config`` the typed hyper-parameters of the family and ``graph`` the parts that
    they make (``gguflike.families``). A context manager. Streams may be read in turns, and from several threads: each
    gives the text that it gives alone. What an unfinished one has in the cache is copied when another call needs the
    cache, and copied back for its next piece. For many at the same time, take an `engine.Engine`, which computes all of
    them in shared passes.
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
        family = registry.for_gguf(_architecture(file)).of_file(file.metadata, file.infos)
        self.config = family.from_file(file.metadata, file.infos)
        check_layers(self.config, self.path, len(file.infos))
        self.graph = family.graph(self.config)
        graph.check(self.graph)
        position_bytes = graph.bytes_per_position(self.graph, cache_type)
        self._longest = min((self.config.n_ctx, *graph.limits(self.graph)))
        self.context = context or default_context(self._longest, position_bytes)
        self._check_context()
        self.tokenizer = Tokenizer(file.metadata)
        ranges = fixed(file.metadata, activations, self.path) if activations in FIXED else {}
        self.weights = Weights(file, self.graph, layers_left_out(family.name, file.metadata))
        self.cache_type, self.position_bytes = cache_type, position_bytes
        self.weights.fix(ranges)
        crest = CREST if activations == "adaptive" else 0.0
        arguments = (self.graph, self.weights, self.context, cache_type, threads)
        self._new_passes = partial(Passes, *arguments, crest=crest)
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
    def vocab_size(self) -> int:
        return self.graph.embedding.n_vocab

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
        self, ids: Sequence[int], position: int, all_logits: bool = False, progress: Progress | None = None
    ) -> Floats:
        """Compute ``ids`` after the first ``position`` cached tokens: logits (1, vocab) of the last, or of all.

        Unless ``all_logits``, the result is a view that the next call overwrites. ``progress`` counts the tokens where
        they take several passes. ArgumentError where an id is not in
        the vocabulary or ``position`` is beyond what is cached, UnsupportedError where the context is too short,
        ArgumentTypeError where the ids are no integers, GGUFError where logits are not finite. A model whose tokens see
        those behind them computes from position 0 only, and an encoder has no logits (UnsupportedError).
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

    # Vectors and scores

    def embed(
        self,
        texts: str | Iterable[str],
        *,
        pooling: str | None = None,
        normalize: bool = True,
        truncate: bool = False,
    ) -> Floats:
        """A vector for each text (one for a single one), float32 (texts, n), of length 1 unless not ``normalize``.

        ``pooling``, "mean", "cls" (the first token's vector) or "last", is what the file says unless it is given; for a
        model that makes text it must be. ``truncate`` cuts texts longer than the context, which are UnsupportedError
        otherwise; so is a model that scores texts. ArgumentError for a pooling that the file does not say, and where
        there is no text or no token in one, ArgumentTypeError for what is no text.
        """
        from gguflike.runner import embedding  # most models make text

        return embedding.embed(self, texts, pooling, normalize, truncate)

    def scores(self, texts: Iterable[str | tuple[str, str]], *, truncate: bool = False) -> Floats:
        """What a classifier gives each of ``labels``, float32 (texts, labels), for texts or for pairs of them.

        Scores are as the model makes them, before softmax or sigmoid, unless ``graph.head.probabilities``. Errors as of
        ``embed``.
        """
        from gguflike.runner import embedding

        return embedding.scores(self, texts, truncate)

    def rerank(self, query: str, documents: str | Iterable[str], *, truncate: bool = False) -> Floats:
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
        stop: Sequence[str] = (),
        lookup: int = 0,
        logprobs: int | None = None,
        schema: Any = None,
        regex: str | None = None,
        grammar: Grammar | str | None = None,
        shown: Container[int] = (),
        progress: Progress | None = None,
        **sampling: Unpack[Settings],
    ) -> Stream:
        """Continue ``prompt`` (text, or token ids). Iterate over the pieces, or take ``.result()``.

        Generation ends with an end token, before one of the strings ``stop``, after ``max_tokens`` tokens (None: no
        limit) or when the context is full; ``finish_reason`` says which. ``sampling`` are the fields of
        `runner.Sampling`: ``temperature`` (0, the default, takes the likeliest token), ``top_k``, ``top_p``, ``min_p``,
        ``repetition_penalty`` and many more. ``seed`` (0 or more) makes the text repeatable: the same file, prompt and
        settings give the same text, whatever the model computed before. Without a seed each text is another.

        ``lookup`` is how many tokens to guess at a time from what the text repeats. It changes the speed where the
        likeliest token is taken, not the result, and does nothing elsewhere. (Weights in F32, F16 and BF16 are summed
        in another order for several tokens than for one, which may decide a tie within a millionth differently.)
        ``logprobs`` is how many alternatives to give with the log probability of each token. The text has no special
        tokens but those of ``shown``.
        ``progress`` counts the tokens of a prompt that takes several passes.

        One of three says what the text may be: ``schema``, a JSON schema (an object, or text) that it is JSON of;
        ``regex``, an expression that matches it as a whole; ``grammar``, in GBNF or Lark, or one that is followed
        already (``gguflike.grammar``).

        ArgumentError (a ValueError) for a setting out of range, a token id that is not in the vocabulary and an empty
        prompt; UnsupportedError for one longer than the context; ArgumentTypeError (a TypeError) for what is of another
        kind, such as bytes for a prompt. Reading the stream raises GGUFError where logits are not finite.
        """
        self._check_logits()
        settings = Sampling(**sampling)
        grammar = self._grammar(schema, regex, grammar)
        settings.check_vocabulary(self.vocab_size)
        limit = self.context if max_tokens is None else check_integer("max_tokens", max_tokens, 0, None, _UNLIMITED)
        lookup = check_integer("lookup", lookup, 0)
        if logprobs is not None:
            logprobs = check_integer("logprobs", logprobs, 0, self.vocab_size)
        stops = check_texts("stop", stop)
        ids = self.tokenize(prompt) if isinstance(prompt, str) else token_ids(prompt, _PROMPT)
        self.check_prompt(ids)
        return Stream(
            self,
            ids,
            max_tokens=limit,
            sampling=settings,
            stop=stops,
            lookup=lookup,
            logprobs=logprobs,
            grammar=grammar,
            progress=progress,
            shown=shown,
        )

    @cached_property
    def grammars(self) -> Grammars:
        """What compiles schemas, regular expressions and grammars for the model's tokens."""
        from gguflike.grammar import Grammars

        return Grammars(self.tokenizer, self.vocab_size)

    def _grammar(self, schema: Any, regex: str | None, grammar: Grammar | str | None) -> Grammar | None:
        """What ``generate`` is given of these as a grammar of its own. ArgumentError for more than one."""
        given = {"schema": schema, "regex": regex, "grammar": grammar}
        names = [name for name, value in given.items() if value is not None]
        if len(names) > 1:
            raise ArgumentError("a text can be bound by one of these only", field=names[1], got=" and ".join(names))
        if schema is not None:
            return self.grammars.json_schema(schema).start()
        if regex is not None:
            return self.grammars.regex(regex).start()
        return self.grammars.grammar(grammar).start() if isinstance(grammar, str) else grammar

    @cached_property
    def conversations(self) -> Chat:
        """What makes prompts of messages by the file's chat templates."""
        from gguflike.chat import Chat

        return Chat(self.tokenizer)

    def chat(
        self,
        messages: Any,
        max_tokens: int | None = 512,
        *,
        tools: Any = None,
        tool_choice: str | tuple[str] = "auto",
        parallel_calls: bool = True,
        schema: Any = None,
        template: str | None = None,
        variables: Mapping[str, Any] | None = None,
        continue_last: bool = False,
        special: bool = False,
        **settings: Any,
    ) -> Stream:
        """Answer a conversation, ``[{"role": ..., "content": ...}, ...]``; ``settings`` are those of ``generate``.

        ``tool_choice`` is "auto", "none", "required", or a tool's name in a tuple: a call that must be made.
        ``parallel_calls``: several may be. ``schema`` is a JSON schema of the answer. Reasoning before either is free.
        The other arguments are those of `gguflike.chat.Chat.prompt`, and so are the errors beside those of
        ``generate``; ArgumentError where a schema or a choice cannot be enforced.
        """
        prompt = self.conversations.prompt(
            messages,
            tools=None if tool_choice == "none" else tools,
            template=template,
            variables=variables,
            continue_last=continue_last,
            special=special,
        )
        if tool_choice not in ("auto", "none") or schema is not None:
            from gguflike.chat import bound

            bounds = bound(prompt, self.grammars, choice=tool_choice, schema=schema, parallel=parallel_calls)
            if bounds is not None:
                settings["grammar"] = bounds.start()
        return self.generate(prompt.ids, max_tokens, **settings)

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


def load(
    path: str | os.PathLike[str],
    *,
    threads: int | None = None,
    context: int | None = None,
    cache_type: str = "f16",
    activations: str = "dynamic",
    progress: Progress | None = None,
) -> Model:
    """Load a GGUF file to run it.

    ``threads`` defaults to the CPUs that this process may use, ``context`` to what the model was trained for as far as
    memory allows. ``cache_type`` is "f16", "q8_0" (half the memory) or "f32" (twice the memory, nothing rounded).
    Quantized matrices multiply activations that are rounded to 8 bits, by a scale for each 32 of them ("dynamic"
    ``activations``); "adaptive" rounds what that leaves of them again, where a few are far larger than the others of
    their token, which halves the error, for 3 percent of the speed of generating and 10 of reading a prompt. "static"
    rounds by ranges that `calibrate_activations` has written into the file, "hybrid" by those of them that cost
    nothing, and the rest dynamically; UnsupportedError where the file has none.
    ``progress(done, total, what)`` hears of loading and, on the first ever run, of kernels being compiled.

    ``path`` may also name a file of the Hub or behind a URL (`gguflike.locate`), which is fetched into a cache.
    """
    if not os.path.lexists(path):
        from gguflike.locate import locate

        path = locate(path, progress)
    return Model(
        path, threads=threads, context=context, cache_type=cache_type, activations=activations, progress=progress
    )


__all__ = ["Generation", "Model", "load"]
