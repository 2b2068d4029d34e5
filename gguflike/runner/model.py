"""A model that runs: text in, text or vectors out."""

from __future__ import annotations

import os
from collections.abc import Container, Iterable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from gguflike.errors import ArgumentError, ArgumentTypeError, check_integer, check_texts
from gguflike.progress import Progress
from gguflike.runner.generate import Drafts, Generation, Stream
from gguflike.runner.network import Network
from gguflike.runner.sampling import Sampling
from gguflike.runner.tokenizer import token_ids

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from gguflike.chat import Chat
    from gguflike.grammar import Grammars
    from gguflike.runner.drafting import Drafter, DraftModel
    from gguflike.runner.mtp import MTPHeads
    from gguflike.runner.passes import Floats
    from gguflike.runner.sampling import Grammar
    from gguflike.runner.sampling.keywords import Settings


class Model(Network):
    """One model: the cache holds what was computed last, and what is asked for next builds on it.

    ``context`` is how many tokens fit, ``config`` the typed hyper-parameters of the family and ``graph`` the parts that
    they make (``gguflike.families``). A context manager. Streams may be read in turns, and from several threads: each
    gives the text that it gives alone. What an unfinished one has in the cache is copied when another call needs the
    cache, and copied back for its next piece. For many at the same time, take an `engine.Engine`, which computes all of
    them in shared passes.
    """

    # Text

    def tokenize(self, text: str, add_special: bool = True) -> list[int]:
        """Token ids of ``text``; ``add_special`` adds BOS and EOS where the file asks for them."""
        return self.tokenizer.encode(text, add_special=add_special)

    def detokenize(self, ids: Sequence[int]) -> str:
        """The text of token ids. ArgumentError for an id that is not in the vocabulary."""
        return self.tokenizer.decode(token_ids(ids))

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
        draft: Model | Literal["mtp"] | None = None,
        draft_tokens: int = 8,
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

        ``lookup`` is how many tokens to guess at a time from what the text repeats; ``draft`` a smaller model of the
        same vocabulary that guesses at most ``draft_tokens`` at a time where that finds nothing, or "mtp": the
        multi-token-prediction heads of the file. All change the speed, not the text.
        ``logprobs`` is how many alternatives to give with the log probability of each token. The text has no special
        tokens but those of ``shown``. ``progress`` counts the tokens of a prompt that takes several passes.

        One of three says what the text may be: ``schema``, a JSON schema (an object, or text) that it is JSON of;
        ``regex``, an expression that matches it as a whole; ``grammar``, in GBNF or Lark, or one that is followed
        already (``gguflike.grammar``).

        ArgumentError (a ValueError) for a setting out of range, a token id that is not in the vocabulary, a draft model
        of another one and an empty prompt; UnsupportedError for one longer than the context; ArgumentTypeError (a
        TypeError) for what is of another kind, such as bytes for a prompt. Reading the stream raises GGUFError where
        logits are not finite, and ArgumentError where a model was closed.
        """
        self._check_logits()
        settings = Sampling(**sampling)
        grammar = self._grammar(schema, regex, grammar)
        settings.check_vocabulary(self.vocab_size)
        limit = self.context if max_tokens is None else check_integer("max_tokens", max_tokens, 0, None, _UNLIMITED)
        lookup = check_integer("lookup", lookup, 0)
        draft_tokens = check_integer("draft_tokens", draft_tokens, 1)
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
            drafts=Drafts(lookup, self._drafted_by(draft), draft_tokens),
            logprobs=logprobs,
            grammar=grammar,
            progress=progress,
            shown=shown,
        )

    _drafter: DraftModel | MTPHeads | None = None  # the last one that guessed for this model

    def _drafted_by(self, draft: Model | Literal["mtp"] | None) -> Drafter | None:
        """What guesses. ArgumentError where a draft model has another vocabulary or is closed, UnsupportedError where
        the file has no head."""
        if draft is None:
            return None
        before = self._drafter  # which may guess for an unfinished text, so it stays open
        if draft == "mtp":
            if getattr(before, "watched", None) is not self._passes:
                from gguflike.runner.mtp import MTPHeads

                self._drafter = MTPHeads(self, self._passes)
        elif not isinstance(draft, Model):
            raise ArgumentTypeError("not a model", field="draft", expected='a Model, or "mtp"', got=repr(draft)[:60])
        elif getattr(before, "draft", None) is not draft:
            from gguflike.runner.drafting import DraftModel

            self._drafter = DraftModel(self, draft)
        return self._drafter

    def close(self) -> None:
        """Let go of the file. The model cannot be used afterwards (ArgumentError)."""
        if self._drafter is not None:
            self._drafter.close()
        super().close()

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

        ``tool_choice`` is "auto", "none", "required", or a tool's name in a tuple: a call that must be made. Where it
        may be made and a tool has ``strict``, calls are bound by their schemas.
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
        if prompt.tools or tool_choice not in ("auto", "none") or schema is not None:
            from gguflike.chat import bound

            bounds = bound(prompt, self.grammars, choice=tool_choice, schema=schema, parallel=parallel_calls)
            if bounds is not None:
                settings["grammar"] = bounds.start()
        return self.generate(prompt.ids, max_tokens, **settings)

    def perplexity(self, ids: Sequence[int], window: int = 256, progress: Progress | None = None) -> float:
        """How badly the model foresees the text of the token ``ids``: 1 is not at all badly, the size of the vocabulary
        is no better than a guess.

        exp(-mean(log p(token | those before it in its window))), where windows of ``window`` tokens (2 or more) follow
        one another, and the first token of each is not counted. ``progress`` counts tokens. ArgumentError for fewer
        than two tokens or a smaller window, UnsupportedError for a window longer than the context.
        """
        from gguflike.runner import perplexity  # who runs a model need not load it

        return perplexity.measure(self, ids, window, progress)


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

    GGUFError where the file breaks a rule or is no whole model, UnsupportedError where this version cannot run it or
    not with so long a ``context``, ArgumentError for a value that is none, OSError where the file cannot be opened,
    RemoteError where it cannot be had.
    """
    if not os.path.lexists(path):
        from gguflike.locate import locate

        path = locate(path, progress)
    return Model(
        path, threads=threads, context=context, cache_type=cache_type, activations=activations, progress=progress
    )


__all__ = ["Generation", "Model", "load"]
