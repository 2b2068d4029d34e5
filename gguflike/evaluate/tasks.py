"""Questions with choices: which one a model finds likeliest.

A file of tasks is JSONL: on each line an object with a question, a list of choices, and which of them is right, under
the names that MMLU, HellaSwag, ARC and others give these (`_NAMES`). A choice is scored by the log likelihood of its
tokens behind the prompt, with a space between the two unless one of them has it: as it is (``accuracy``), and divided
by its bytes in UTF-8 (``normalized``), since longer texts are less likely.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from gguflike import jsontext
from gguflike.calibrate.texts import check_unicode, lines_of, text_of
from gguflike.errors import ArgumentError, counted
from gguflike.evaluate import estimates
from gguflike.evaluate.estimates import Figure
from gguflike.evaluate.scores import scores
from gguflike.progress import Progress

if TYPE_CHECKING:
    from gguflike.runner.model import Model

Floats = npt.NDArray[np.float64]
_NAMES = (
    ("prompt", "question", "question_stem", "ctx"),
    ("choices", "endings", "options"),
    ("answer", "label", "answerKey"),
)
"""What sets of questions call a question, its choices and which is right: the first that is there counts."""


@dataclass(frozen=True)
class Question:
    """One line of a file of tasks, and its number in the file."""

    prompt: str
    choices: tuple[str, ...]
    answer: int
    line: int = field(default=0, compare=False)


@dataclass(frozen=True)
class Accuracy:
    """How many questions of a kind a model answers right, and as the reference does (None without one).

    ``accuracy`` goes by the log likelihood of choices, ``normalized`` by that of a byte. ``same_choice`` is the share
    of questions where both models choose the same, right or wrong, by the log likelihood.
    """

    kind: str
    questions: int
    accuracy: Figure
    normalized: Figure
    reference_accuracy: Figure | None = None
    reference_normalized: Figure | None = None
    same_choice: Figure | None = None


def read(path: Path) -> list[Question]:
    """The questions of a file of tasks. ArgumentError names the line that is none."""
    found = []
    for number, line in lines_of(text_of(path, "tasks")):
        try:
            found.append(replace(_question(jsontext.parsed(line)), line=number))
        except ValueError as error:
            raise ArgumentError(
                f"line {number} is no question with choices",
                path=path,
                field="tasks",
                expected='{"question": text, "choices": [texts, two at least], "answer": number from 0}',
                got=f"{line[:60]!r}: {str(error)[:80]}",
            ) from None
    if not found:
        raise ArgumentError("no questions", path=path, field="tasks", expected="a JSON object on each line")
    return found


def _question(record: Any) -> Question:
    if not isinstance(record, dict):
        raise ValueError("no object")
    prompt, choices, answer = (_first(record, names) for names in _NAMES)
    labels: Any = []
    if isinstance(choices, dict):  # of the Hub's ARC and its like
        labels, choices = choices.get("label", []), choices.get("text")
    if not isinstance(prompt, str) or not prompt:
        raise ValueError("no prompt or question")
    if not isinstance(choices, list) or len(choices) < 2 or not all(isinstance(c, str) and c.strip() for c in choices):
        raise ValueError("no two choices")
    answer = _number(answer, labels if isinstance(labels, list) else [])
    if not 0 <= answer < len(choices):
        raise ValueError("no such answer")
    for text in (prompt, *choices):
        check_unicode(text)
    return Question(prompt, tuple(choices), answer)


def _first(record: dict[str, Any], names: Sequence[str]) -> Any:
    return next((record[name] for name in names if name in record), None)


def _number(answer: Any, labels: list[Any]) -> int:
    """The number of the choice that is called so: by a label of its own, a number from 0, or a letter. -1 for none."""
    if isinstance(answer, str | int) and not isinstance(answer, bool) and answer in labels:
        return labels.index(answer)
    if isinstance(answer, str):
        text = answer.strip()
        if text.isdecimal() and text.isascii() and len(text) < 4:
            return int(text)
        return ord(text) - ord("A") if len(text) == 1 and "A" <= text <= "Z" else -1
    return answer if isinstance(answer, int) and not isinstance(answer, bool) else -1


def check(model: Model, questions: Sequence[Question], kind: str) -> None:
    """ArgumentError for a question that the model has no room for."""
    for question in questions:
        count = max(len(model.tokenize(joined(question.prompt, choice))) for choice in question.choices)
        if count > model.context:
            raise ArgumentError(
                f"the question in line {question.line} of {kind!r} is too long for the model",
                field="tasks",
                expected=f"at most {counted(model.context, 'token')}",
                got=count,
                remedy="leave it out, or shorten it",
            )


def likelihoods(
    model: Model, questions: Sequence[Question], kind: str, progress: Progress | None = None
) -> list[Floats]:
    """The log likelihood of each choice of each question."""
    found = []
    for number, question in enumerate(questions, 1):
        found.append(np.array([likelihood(model, question.prompt, choice) for choice in question.choices]))
        if progress is not None:
            progress(number, len(questions), f"answering {kind}")
    return found


def likelihood(model: Model, prompt: str, choice: str) -> float:
    """The log likelihood of a choice behind a prompt."""
    ids = model.tokenize(joined(prompt, choice))
    alone = model.tokenize(prompt)
    # Where the two grow together into one token, that one counts for the choice.
    common = next((i for i, (a, b) in enumerate(zip(ids, alone, strict=False)) if a != b), min(len(ids), len(alone)))
    begin = min(max(common, 1), len(ids) - 1) - 1
    if begin:
        kept = min(model.common_prefix(ids), begin)
        if kept < begin:
            model.extend(ids[kept:begin], kept)
    logits = model.extend(ids[begin:-1], begin, all_logits=True)
    return -float(scores(logits, ids[begin + 1 :]).nll.sum())


def joined(prompt: str, choice: str) -> str:
    """A prompt and a choice as one text."""
    spaced = prompt[-1:].isspace() or choice[:1].isspace()
    return prompt + choice if spaced else f"{prompt} {choice}"


def accuracy(
    kind: str, questions: Sequence[Question], found: Sequence[Floats], reference: Sequence[Floats] | None = None
) -> Accuracy:
    """The figures of a model's likelihoods of all choices, beside a reference's."""
    right = [question.answer for question in questions]
    plain, normalized = _chosen(questions, found)
    own = (_share(np.equal(plain, right)), _share(np.equal(normalized, right)))
    if reference is None:
        return Accuracy(kind, len(questions), *own)
    wanted, wanted_normalized = _chosen(questions, reference)
    theirs = (_share(np.equal(wanted, right)), _share(np.equal(wanted_normalized, right)))
    return Accuracy(kind, len(questions), *own, *theirs, _share(np.equal(plain, wanted)))


def _chosen(questions: Sequence[Question], found: Sequence[Floats]) -> tuple[list[int], list[int]]:
    """The choices that are likeliest, and likeliest by byte."""
    sizes = [np.array([len(choice.encode("utf-8", "replace")) for choice in q.choices]) for q in questions]
    plain = [int(values.argmax()) for values in found]
    return plain, [int((values / size).argmax()) for values, size in zip(found, sizes, strict=True)]


def _share(true: npt.NDArray[np.bool_]) -> Figure:
    """The share of questions, with Wilson's interval: that of a few, all right or all wrong, is not of width 0. The
    error is the interval's half, as a normal distribution's would be."""
    count, z = len(true), estimates.Z
    value = float(true.mean())
    wide = 1 + z * z / count
    centre = (value + z * z / (2 * count)) / wide
    half = z * math.sqrt(value * (1 - value) / count + (z / (2 * count)) ** 2) / wide
    return Figure(value, half / z, min(max(centre - half, 0.0), value), max(min(centre + half, 1.0), value))
