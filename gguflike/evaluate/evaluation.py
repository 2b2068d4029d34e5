"""From files and texts to figures."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from math import exp, sqrt
from typing import Any

import numpy as np

from gguflike.errors import ArgumentError, check_choice, check_threads
from gguflike.evaluate import estimates, models, streaming, tasks, texts
from gguflike.evaluate.estimates import Figure
from gguflike.evaluate.scores import Pairs, Scores
from gguflike.evaluate.tasks import Accuracy, Question
from gguflike.evaluate.texts import Protocol
from gguflike.progress import Progress
from gguflike.runner.model import load
from gguflike.runner.network import FIXED

StrPath = str | os.PathLike[str]
ALL = "all"  # the name of all kinds of text together


@dataclass(frozen=True)
class Quality:
    """How well a model does on one kind of text, and beside its reference where there is one (else these are None).

    ``tokens`` were scored, in ``chunks``. ``perplexity`` and ``reference_perplexity`` are exp of the mean negative log
    likelihood, ``perplexity_ratio`` the one over the other, paired. ``kl`` is the mean of KL(reference || model) of a
    token in nats, with ``kl_median``, ``kl_99`` and ``kl_999`` (per cent and per mille) and ``kl_max``. ``same_top`` is
    the share of tokens with the same likeliest token in both, ``change`` the mean change of the probability of the
    token that came, ``change_rms`` its root mean square.
    """

    kind: str
    chunks: int
    tokens: int
    perplexity: Figure
    reference_perplexity: Figure | None = None
    perplexity_ratio: Figure | None = None
    kl: Figure | None = None
    kl_median: Figure | None = None
    kl_99: Figure | None = None
    kl_999: Figure | None = None
    kl_max: float | None = None
    same_top: Figure | None = None
    change: Figure | None = None
    change_rms: float | None = None


@dataclass(frozen=True)
class Evaluation:
    """The figures of a model. ``qualities`` has a `Quality` for each kind of text, and one called "all" of several;
    ``tasks`` an `Accuracy` for each file of tasks. ``scores`` are those of each token, by kind."""

    model: str
    reference: str | None
    protocol: Protocol
    qualities: tuple[Quality, ...] = ()
    tasks: tuple[Accuracy, ...] = ()
    scores: Mapping[str, Scores] = field(default_factory=dict, repr=False, compare=False)

    def of(self, kind: str) -> Quality:
        """The figures of one kind of text. KeyError where there is none."""
        return {quality.kind: quality for quality in self.qualities}[kind]

    def document(self) -> dict[str, Any]:
        """All figures as JSON: a figure is an object with its value, error and the ends of its interval."""
        return {
            "model": self.model,
            "reference": self.reference,
            **asdict(self.protocol),
            "texts": [_plain(quality) for quality in self.qualities],
            "tasks": [_plain(accuracy) for accuracy in self.tasks],
        }


def _plain(record: Quality | Accuracy) -> dict[str, Any]:
    values = {name: getattr(record, name) for name in record.__dataclass_fields__}
    return {name: value._asdict() if isinstance(value, Figure) else value for name, value in values.items()}


def evaluate(
    model: StrPath,
    text: Mapping[str, str] | Iterable[StrPath] = (),
    *,
    reference: StrPath | None = None,
    tasks: Iterable[StrPath] = (),
    context: int | None = None,
    tokens: int | None = None,
    score: str = "half",
    threads: int | None = None,
    activations: str = "dynamic",
    progress: Progress | None = None,
) -> Evaluation:
    """Measure a model on held-out texts and tasks, beside a ``reference`` where one is given.

    ``model`` and ``reference`` are GGUF files, or checkpoints (folders, or repositories of the Hub), of which a
    temporary file of floats is made. ``text`` are text files, each a kind of text by its name, or texts by name;
    ``tasks`` are files of JSONL (`evaluate.tasks`). Texts are cut into chunks of ``context`` tokens (512, or as many as
    the model was trained with where these are fewer), of which ``tokens`` at most are used of each text, and scored as
    `evaluate.texts` says. ``activations`` as of `gguflike.load`, of both; of the reference dynamic where they would be
    static or hybrid. ``progress`` hears of tokens.

    Both models are in memory, and few logits. ArgumentError where there is nothing to measure on, or a text is shorter
    than a chunk; UnsupportedError where the two models do not have the same tokens; GGUFError where logits are not
    finite; errors as of `load` and `convert`.
    """
    held_out = HeldOut.of(text, tasks)
    return evaluate_all([model], held_out, reference, context, tokens, score, threads, progress, activations)[0]


@dataclass(frozen=True)
class HeldOut:
    """What is measured on: texts by name, and questions by name."""

    texts: Mapping[str, str]
    questions: Mapping[str, Sequence[Question]] = field(default_factory=dict)

    @classmethod
    def of(cls, text: Mapping[str, str] | Iterable[StrPath], files: Iterable[StrPath] = ()) -> HeldOut:
        """Of text files or texts by name, and files of tasks. ArgumentError where there is neither."""
        listed = [files] if isinstance(files, str | os.PathLike) else list(files)
        found = texts.files(listed, "tasks") if listed else {}
        questions = {name: tasks.read(each) for name, each in found.items()}
        given = text if isinstance(text, Mapping | str | os.PathLike) else list(text)
        return cls(texts.named(given) if given or not questions else {}, questions)


def evaluate_all(
    files: Sequence[StrPath],
    held_out: HeldOut,
    reference: StrPath | None = None,
    context: int | None = None,
    tokens: int | None = None,
    score: str = "half",
    threads: int | None = None,
    progress: Progress | None = None,
    activations: str = "dynamic",
) -> list[Evaluation]:
    """`evaluate` of several models at once: the reference is run once for all, and all are in memory."""
    check_threads(threads)
    check_choice("score", score, texts.SCORES)
    if not held_out.texts:
        for name, value in (("context", context), ("tokens", tokens), ("score", None if score == "half" else score)):
            if value is not None:
                what = "says how texts are cut and scored, and there is none"
                raise ArgumentError(what, field=name, got=value, remedy="add `text`")
    sources = [*files, *([] if reference is None else [reference])]
    models.check_texts(sources, held_out.texts, context, tokens, score)
    with ExitStack() as stack:
        paths = [stack.enter_context(models.float_file(each, threads, progress)) for each in sources]
        trained = [models.metadata_of(path) for path in paths]
        of_reference = "dynamic" if activations in FIXED else activations  # its file need not have ranges
        modes = [activations] * len(files) + [of_reference] * (reference is not None)
        protocol = Protocol(models.chosen_context(context, trained), tokens, score)
        longest = None if held_out.questions else protocol.context
        loaded = [
            stack.enter_context(load(path, context=longest, threads=threads, activations=mode, progress=progress))
            for path, mode in zip(paths, modes, strict=True)
        ]
        streaming.check_alike(loaded, held_out.texts, protocol)
        own, beside = loaded[: len(files)], loaded[len(files)] if reference is not None else None
        kinds = [texts.cut(name, text, own[0].tokenizer, protocol) for name, text in held_out.texts.items()]
        for kind, questions in held_out.questions.items():
            for model in loaded:
                tasks.check(model, questions, kind)
        scored = streaming.stream(own, beside, kinds, protocol, progress)
        answers = {
            kind: [tasks.likelihoods(model, questions, kind, progress) for model in loaded]
            for kind, questions in held_out.questions.items()
        }
    return [
        Evaluation(
            os.fspath(name),
            None if reference is None else os.fspath(reference),
            protocol,
            summary(scored[number]),
            tuple(
                tasks.accuracy(kind, held_out.questions[kind], found[number], found[-1] if beside else None)
                for kind, found in answers.items()
            ),
            scored[number],
        )
        for number, name in enumerate(files)
    ]


def summary(scores: Mapping[str, Scores]) -> tuple[Quality, ...]:
    """The figures of each kind of text, and of all together where there are several."""
    found = [quality(kind, [each]) for kind, each in scores.items()]
    if len(found) > 1:
        found.append(quality(ALL, list(scores.values())))
    return tuple(found)


def quality(kind: str, strata: Sequence[Scores]) -> Quality:
    """The figures of texts of one kind or several."""
    perplexity = _exp(estimates.mean([each.nll for each in strata]))
    of_all = Quality(kind, sum(len(each.nll) for each in strata), sum(each.nll.size for each in strata), perplexity)
    compared = [each for each in strata if isinstance(each, Pairs)]
    if len(compared) < len(strata):
        return of_all
    kl = [each.kl for each in compared]
    median, most, nearly_all = estimates.quantiles(kl, (0.5, 0.99, 0.999))
    changes = np.concatenate([each.change.reshape(-1) for each in compared])
    return Quality(
        kind,
        of_all.chunks,
        of_all.tokens,
        perplexity,
        reference_perplexity=_exp(estimates.mean([each.reference for each in compared])),
        perplexity_ratio=_exp(estimates.mean([each.nll - each.reference for each in compared])),
        kl=estimates.mean(kl),
        kl_median=median,
        kl_99=most,
        kl_999=nearly_all,
        kl_max=max(float(each.max()) for each in kl),
        same_top=estimates.mean([each.same for each in compared]),
        change=estimates.mean([each.change for each in compared]),
        change_rms=sqrt(float((changes**2).mean())),
    )


def _exp(figure: Figure) -> Figure:
    return figure.through(exp, exp(figure.value))
