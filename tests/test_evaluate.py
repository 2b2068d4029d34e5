"""`gguflike.evaluate`: figures by their definitions, from a model in plain numpy; protocol, intervals, tasks."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gguflike
from gguflike.cli import main
from gguflike.errors import ArgumentError, ArgumentTypeError, UnsupportedError
from gguflike.evaluate import estimates, models, scores, streaming, tasks, texts
from gguflike.evaluate.evaluation import HeldOut, evaluate_all
from gguflike.evaluate.scores import Pairs, Scores, log_softmax, pairs
from gguflike.evaluate.texts import Protocol
from gguflike.runner.model import Model
from tests import naive_model, tiny, tiny_gguf

rng = np.random.default_rng(7)
TEXT = "".join(rng.choice(list("abcdefghij klmno\nzq"), 400))
CONTEXT = 32

Two = tuple[Path, Path, Callable[[Path, list[int]], np.ndarray]]


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Two:
    """A model of floats, the floats of its weights in 4 bits, and what both make of token ids, by definition.

    Both are floats, so that nothing is rounded on the way.
    """
    folder = tmp_path_factory.mktemp("two")
    first, quantized, second = (folder / f"{name}.gguf" for name in ("float", "quantized", "other"))
    h, _ = tiny_gguf.write(first, "F32")
    gguflike.quantize_file(first, quantized, "Q4_0")
    gguflike.quantize_file(quantized, second, "F32")

    def log_probabilities(path: Path, ids: list[int]) -> np.ndarray:
        with gguflike.open(path) as file:
            weights = {name: tensor.dequantize() for name, tensor in file.tensors.items()}
        rows = naive_model.forward(weights, h, ids)
        rows -= rows.max(-1, keepdims=True)
        return rows - np.log(np.exp(rows).sum(-1, keepdims=True))

    return first, second, log_probabilities


@pytest.mark.parametrize("score", ["half", "all"])
def test_figures_are_what_their_definitions_say(two: Two, score: str) -> None:
    first, second, log_probabilities = two
    got = gguflike.evaluate(second, {"letters": TEXT}, reference=first, context=CONTEXT, score=score).of("letters")
    with gguflike.load(first) as model:
        ids = model.tokenize(TEXT)
    kl, nll, base, same, change = [], [], [], [], []
    for start in range(0, len(ids) // CONTEXT * CONTEXT, CONTEXT):
        chunk = ids[start : start + CONTEXT]
        p, q = (log_probabilities(path, chunk) for path in (first, second))
        for i in range(CONTEXT // 2 if score == "half" else 0, CONTEXT - 1):
            kl.append((np.exp(p[i]) * (p[i] - q[i])).sum())
            nll.append(-q[i, chunk[i + 1]])
            base.append(-p[i, chunk[i + 1]])
            same.append(p[i].argmax() == q[i].argmax())
            change.append(math.exp(-nll[-1]) - math.exp(-base[-1]))
    assert (got.tokens, got.chunks) == (len(kl), len(ids) // CONTEXT)
    near = {"rel": 1e-3}
    assert got.perplexity.value == pytest.approx(math.exp(np.mean(nll)), **near)
    assert figure(got.reference_perplexity) == pytest.approx(math.exp(np.mean(base)), **near)
    assert figure(got.perplexity_ratio) == pytest.approx(math.exp(np.mean(nll) - np.mean(base)), **near)
    assert figure(got.kl) == pytest.approx(np.mean(kl), **near)
    assert figure(got.kl_median) == pytest.approx(np.median(kl), **near)
    assert figure(got.kl_99) == pytest.approx(np.quantile(kl, 0.99), **near)
    assert figure(got.kl_999) == pytest.approx(np.quantile(kl, 0.999), **near)
    assert got.kl_max == pytest.approx(max(kl), **near)
    assert figure(got.same_top) == pytest.approx(np.mean(same), abs=1.01 / len(kl))  # one tie may break otherwise
    assert figure(got.change) == pytest.approx(np.mean(change), abs=1e-5)
    assert got.change_rms == pytest.approx(np.sqrt(np.mean(np.square(change))), **near)


def figure(found: estimates.Figure | None) -> float:
    assert found is not None
    return found.value


def test_pairs_are_what_their_definitions_say() -> None:
    a, b = (rng.normal(size=(5, 40)).astype(np.float32) * 3 for _ in range(2))
    targets = [0, 3, 39, 7, 7]
    got = pairs(a, b, targets)
    p, q = (np.exp(x.astype(np.longdouble)) for x in (a, b))
    p, q = p / p.sum(1, keepdims=True), q / q.sum(1, keepdims=True)
    rows = np.arange(5)
    np.testing.assert_allclose(got.kl[0], (p * np.log(p / q)).sum(1).astype(float), rtol=1e-12)
    np.testing.assert_allclose(got.nll[0], -np.log(q[rows, targets]).astype(float), rtol=1e-12)
    np.testing.assert_allclose(got.reference[0], -np.log(p[rows, targets]).astype(float), rtol=1e-12)
    np.testing.assert_allclose(got.change[0], (q - p)[rows, targets].astype(float), atol=1e-14)
    np.testing.assert_array_equal(got.same[0], p.argmax(1) == q.argmax(1))
    assert np.array_equal(pairs(a, a, targets).kl, np.zeros((1, 5)))


def test_large_logits_do_not_overflow() -> None:
    rows = np.array([[1e30, 0, -1e30], [-3e38, -3e38, -3e38]], np.float32)
    np.testing.assert_allclose(np.exp(log_softmax(rows)), [[1, 0, 0], [1 / 3] * 3])


def test_logits_are_never_more_than_a_piece(two: Two, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second, _ = two
    whole = gguflike.evaluate(second, {"x": TEXT}, reference=first, context=CONTEXT)
    sizes = []
    real = Model.extend

    def extend(self: Model, ids: Any, position: int, all_logits: bool = False) -> Any:
        sizes.append(len(ids) if all_logits else 1)
        return real(self, ids, position, all_logits)

    monkeypatch.setattr(Model, "extend", extend)
    monkeypatch.setattr(streaming, "PIECE_BYTES", 5 * 4 * tiny_gguf.TOKENS)
    monkeypatch.setattr(scores, "BLOCK", 2 * tiny_gguf.TOKENS)
    pieces = gguflike.evaluate(second, {"x": TEXT}, reference=first, context=CONTEXT)
    assert max(sizes) <= 5
    assert pieces.of("x").kl is not None
    np.testing.assert_allclose(pieces.scores["x"].nll, whole.scores["x"].nll, rtol=1e-5)


def test_several_models_beside_one_reference_are_each_as_alone(two: Two) -> None:
    first, second, _ = two
    seen: list[tuple[int, int, str]] = []
    both = evaluate_all(
        [second, first], HeldOut.of({"x": TEXT}), first, CONTEXT, progress=lambda *call: seen.append(call)
    )
    alone = gguflike.evaluate(second, {"x": TEXT}, reference=first, context=CONTEXT)
    assert both[0].qualities == alone.qualities
    assert both[1].of("x").kl == estimates.Figure(0, 0, 0, 0)
    chunks = both[0].of("x").chunks
    assert [call for call in seen if call[2] == "evaluating x"] == [
        (i * CONTEXT, chunks * CONTEXT, "evaluating x") for i in range(1, chunks + 1)
    ]


def test_kinds_of_text_and_all_of_them(two: Two, tmp_path: Path) -> None:
    first, second, _ = two
    (tmp_path / "a.txt").write_text(TEXT)
    (tmp_path / "b.txt").write_text(TEXT[::-1])
    got = gguflike.evaluate(second, [tmp_path / "a.txt", tmp_path / "b.txt"], reference=first, context=CONTEXT)
    a, b, both = got.qualities
    assert [each.kind for each in got.qualities] == ["a", "b", "all"]
    assert both.tokens == a.tokens + b.tokens
    assert a.kl is not None
    assert b.kl is not None
    assert both.kl is not None
    assert both.kl.value == pytest.approx((a.kl.value + b.kl.value) / 2)
    assert both.kl_max == max(a.kl_max or 0, b.kl_max or 0)
    with pytest.raises(KeyError):
        got.of("c")


def test_without_a_reference_there_is_the_perplexity(two: Two) -> None:
    first, _, _ = two
    (got,) = gguflike.evaluate(first, {"x": TEXT}, context=CONTEXT).qualities
    assert got.perplexity.error is not None
    assert got.kl is got.reference_perplexity is got.same_top is None


# The protocol


class Words:
    """A tokenizer of which only this is asked."""

    def __init__(self, bos: int | None, add: bool) -> None:
        self.bos_id = bos
        self.vocabulary = self
        self.add_bos = add

    def encode(self, text: str) -> list[int]:
        return [ord(letter) for letter in text]


@pytest.mark.parametrize(("bos", "add"), [(None, False), (5, False), (5, True)])
def test_chunks_begin_with_bos_where_the_model_wants_one(bos: int | None, add: bool) -> None:
    cut = texts.cut("x", "abcdefghij\n\n", Words(bos, add), Protocol(4))  # type: ignore[arg-type]
    letters = [[97, 98, 99, 100], [101, 102, 103, 104]]
    want = [[5, *each[1:]] if add else each for each in letters]
    assert [list(chunk) for chunk in cut.chunks] == want


def test_a_line_end_at_the_end_is_no_part_of_the_text() -> None:
    assert len(texts.cut("x", "abcdefg\n", Words(None, False), Protocol(4)).chunks) == 1  # type: ignore[arg-type]
    assert len(texts.cut("x", "abcdefg\n\n", Words(None, False), Protocol(4)).chunks) == 2  # type: ignore[arg-type]


def test_scored_tokens_are_those_of_llama_perplexity() -> None:
    """Of 512: 255, those at positions 257 to 511."""
    assert (Protocol(512).first, Protocol(512).scored) == (256, 255)
    assert (Protocol(9).first, Protocol(9).scored) == (4, 4)
    assert (Protocol(512, score="all").first, Protocol(512, score="all").scored) == (0, 511)


def test_tokens_bound_what_is_used_of_each_text(two: Two) -> None:
    first, _, _ = two
    got = gguflike.evaluate(first, {"x": TEXT, "y": TEXT}, context=CONTEXT, tokens=CONTEXT * 3 + 1)
    assert [each.chunks for each in got.qualities] == [3, 3, 6]


def test_the_context_is_512_or_what_the_model_was_trained_with(two: Two) -> None:
    first, _, _ = two
    assert gguflike.evaluate(first, {"x": TEXT}).protocol.context == tiny_gguf.SMALL["n_ctx"]
    with pytest.raises(ArgumentError, match=r"context: more than the model was trained with; expected at most 128"):
        gguflike.evaluate(first, {"x": TEXT}, context=129)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"text": {"x": "short"}}, ArgumentError, "'x' is too short for a chunk; expected at least 32 tokens; got 5"),
        ({"text": {}}, ArgumentError, "no text to measure on"),
        ({"text": []}, ArgumentError, "no text to measure on"),
        ({"text": {"x": b"bytes"}}, ArgumentTypeError, "not text"),
        ({"tokens": 31}, ArgumentError, "tokens: out of range; expected 32 or more"),
        ({"context": 3}, ArgumentError, "context: out of range"),
        ({"score": "most"}, ArgumentError, "expected half, all"),
        ({"threads": 0}, ArgumentError, "threads"),
    ],
)
def test_arguments_that_make_no_sense(two: Two, arguments: Any, error: type[Exception], message: str) -> None:
    first, _, _ = two
    settings = {"text": {"x": TEXT}, "context": CONTEXT} | arguments
    with pytest.raises(error, match=message.replace("(", r"\(")):
        gguflike.evaluate(first, settings.pop("text"), **settings)


def test_files_that_are_no_texts(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"ab\xff")
    with pytest.raises(ArgumentError, match=r"a\.txt, text: the text is not UTF-8; expected text in UTF-8; got byte 2"):
        texts.read([tmp_path / "a.txt"])
    with pytest.raises(FileNotFoundError):
        texts.read([tmp_path / "b.txt"])
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(ArgumentError, match="the same text twice"):
        texts.read([tmp_path / "a.txt", tmp_path / "a.txt"])
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "a.txt").write_text("y")
    assert list(texts.read([tmp_path / "a.txt", tmp_path / "b" / "a.txt"]).values()) == ["x", "y"]
    assert texts.read(tmp_path / "a.txt") == {"a": "x"}  # type: ignore[arg-type]
    (tmp_path / "c.jsonl").write_text('{"text": "x"}\n\n{"text": "y z"}\n')
    assert texts.read([tmp_path / "c.jsonl"]) == {"c": "x\ny z\n"}
    (tmp_path / "c.jsonl").write_text('{"messages": [{"role": "user", "content": "x"}]}')
    with pytest.raises(ArgumentError, match=r"c\.jsonl, text: line 1 is a conversation, and there is no chat template"):
        texts.read([tmp_path / "c.jsonl"])


def test_models_of_other_tokens_are_not_compared(two: Two, tmp_path: Path) -> None:
    first, _, _ = two
    tiny_gguf.write(tmp_path / "more.gguf", "F32", n_vocab=310)
    with pytest.raises(UnsupportedError, match=r"vocabularies of different sizes.*expected 300 tokens.*got 310"):
        gguflike.evaluate(first, {"x": TEXT}, reference=tmp_path / "more.gguf", context=CONTEXT)
    bos = ["tokenizer.ggml.add_bos_token=bool:true", "tokenizer.ggml.bos_token_id=int:256"]
    gguflike.quantize_file(first, tmp_path / "bos.gguf", "COPY", override_kv=bos)
    with pytest.raises(UnsupportedError, match="different tokens for the text 'x'"):
        gguflike.evaluate(first, {"x": TEXT}, reference=tmp_path / "bos.gguf", context=CONTEXT)


# Checkpoints


def test_errors_speak_of_what_was_given(two: Two, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not of the temporary file that a checkpoint becomes."""
    first, _, _ = two
    folder = tiny.checkpoint(tmp_path / "hf", max_position_embeddings=CONTEXT)
    monkeypatch.setattr("tempfile.tempdir", os.fspath(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    for model, reference in ((first, folder), (folder, first)):
        with pytest.raises(UnsupportedError, match="vocabularies of different sizes") as caught:
            gguflike.evaluate(model, {"x": TEXT}, reference=reference, context=CONTEXT)
        assert str(folder) in str(caught.value)
        assert str(first) in str(caught.value)
        assert "temporary" not in str(caught.value)


def test_a_checkpoint_is_its_very_floats(tmp_path: Path) -> None:
    folder = tiny.checkpoint(tmp_path / "hf")
    gguflike.convert(folder, tmp_path / "m.gguf", "F32")
    text = {"x": "ab " * 100}
    got = gguflike.evaluate(tmp_path / "m.gguf", text, reference=folder, context=16)
    assert got.of("x").kl == estimates.Figure(0, 0, 0, 0)
    again = gguflike.evaluate(folder, text, reference=tmp_path / "m.gguf", context=16)
    assert again.of("x").perplexity == got.of("x").perplexity
    assert (again.model, again.reference) == (str(folder), str(tmp_path / "m.gguf"))


@pytest.mark.parametrize(
    ("dtypes", "kind"), [(["BF16", "BF16"], "BF16"), (["F16"], "F16"), (["F16", "BF16"], "F32"), (["F8_E4M3"], "F32")]
)
def test_the_type_that_loses_nothing(dtypes: list[str], kind: str) -> None:
    assert models.lossless(dtypes) == kind


# Intervals


def test_means_vary_with_their_chunks() -> None:
    chunks = rng.normal(size=(9, 50)) + rng.normal(size=(9, 1))
    got = estimates.mean([chunks])
    assert got.value == pytest.approx(chunks.mean())
    assert got.error == pytest.approx(chunks.mean(1).std(ddof=1) / 3)
    assert got.low is not None
    assert got.value - got.low == pytest.approx(2.306 * (got.error or 0), rel=1e-3)  # Student's, 8 degrees of freedom
    assert got.error > 3 * chunks.std() / math.sqrt(chunks.size)  # tokens of a chunk are alike


def test_kinds_are_strata() -> None:
    """How far apart two kinds are is no error of their mean."""
    a, b = rng.normal(size=(8, 20)), rng.normal(size=(8, 20)) + 1000
    got = estimates.mean([a, b])
    assert got.error == pytest.approx(math.hypot(*(x.mean(1).std(ddof=1) / math.sqrt(8) / 2 for x in (a, b))))


def test_intervals_hold_what_they_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimates, "RESAMPLES", 200)
    hits = {"mean": 0, "median": 0, "ratio": 0}
    for _ in range(100):
        chunks = rng.exponential(size=(12, 8)) * rng.exponential(size=(12, 1))
        doubled = 2 * chunks * rng.uniform(0.5, 1.5, size=(12, 8))
        low, high = estimates.ratio([doubled], [chunks])[2:]
        hits["ratio"] += low <= 2 <= high  # type: ignore[operator]
        low, high = estimates.mean([np.log(chunks)])[2:]
        hits["mean"] += low <= -2 * 0.5772156649 <= high  # type: ignore[operator]
        (median,) = estimates.quantiles([chunks], [0.5])
        hits["median"] += median.low <= 0.395 <= median.high  # type: ignore[operator]
    assert 0.88 < hits["mean"] / 100 <= 1, hits
    assert 0.85 < hits["ratio"] / 100 <= 1, hits
    assert 0.85 < hits["median"] / 100 <= 1, hits


def test_one_chunk_tells_no_error() -> None:
    assert estimates.mean([np.ones((1, 3))]) == estimates.Figure(1.0)
    assert estimates.quantiles([np.ones((1, 3))], [0.5]) == [estimates.Figure(1.0)]


def test_quantiles_are_numpys_and_repeatable() -> None:
    values = rng.normal(size=(6, 11))
    first, second = (estimates.quantiles([values], [0.1, 0.9]) for _ in range(2))
    assert first == second
    assert [each.value for each in first] == pytest.approx(list(np.quantile(values, [0.1, 0.9])))


@pytest.mark.parametrize(
    ("freedom", "want"), [(1, 12.7062), (2, 4.30265), (3, 3.18245), (5, 2.57058), (10, 2.22814), (1000, 1.96234)]
)
def test_students_quantile(freedom: int, want: float) -> None:
    assert estimates.student(freedom) == pytest.approx(want, rel=7e-3)


def test_a_ratio_is_paired() -> None:
    """What both models lose on hard chunks does not count as an error of how much less the one loses."""
    hard = rng.exponential(size=(20, 1))
    a, b = hard * rng.uniform(0.9, 1.1, (20, 6)), 2 * hard * rng.uniform(0.9, 1.1, (20, 6))
    got = estimates.ratio([a], [b])
    assert got.value == pytest.approx(a.mean() / b.mean())
    assert got.error is not None
    assert got.error < 0.02
    with pytest.raises(ValueError, match="not defined"):
        estimates.ratio([a], [0 * b])


def test_scores_are_joined_along_both_axes() -> None:
    one = Scores(np.ones((1, 2)))
    assert Scores.joined([one, one]).nll.shape == (2, 2)
    assert Pairs.joined([Pairs(*[np.ones((1, 2))] * 5)] * 3, 1).kl.shape == (1, 6)


# Tasks


QUESTIONS = [
    {"question": "abc", "choices": ["de", "f", " ghij"], "answer": 1},
    {"prompt": "z", "choices": ["q", "qq"], "answer": 0},  # "zq" is one token
    {"prompt": "abcd\n", "choices": ["a", "b", "c", "d"], "answer": 3},
]


def test_choices_are_as_likely_as_their_tokens(two: Two, tmp_path: Path) -> None:
    first, second, log_probabilities = two
    path = tmp_path / "abc.jsonl"
    path.write_text("\n".join(json.dumps(each) for each in QUESTIONS) + "\n\n")
    questions = tasks.read(path)
    found = {}
    for each in (first, second):
        with gguflike.load(each) as model:
            found[each] = tasks.likelihoods(model, questions, "abc")
            for question, values in zip(questions, found[each], strict=True):
                for choice, value in zip(question.choices, values, strict=True):
                    text = tasks.joined(question.prompt, choice)
                    ids = model.tokenize(text)
                    rows = log_probabilities(each, ids)
                    begin = len(model.tokenize(question.prompt))
                    want = sum(rows[i - 1, ids[i]] for i in range(max(1, min(begin, len(ids) - 1)), len(ids)))
                    assert value == pytest.approx(want, rel=2e-3)
    got = gguflike.evaluate(second, reference=first, tasks=[path])
    (accuracy,) = got.tasks
    right = [values.argmax() == q.answer for q, values in zip(questions, found[second], strict=True)]
    same = [a.argmax() == b.argmax() for a, b in zip(found[first], found[second], strict=True)]
    sizes = [[len(choice.encode()) for choice in q.choices] for q in questions]
    fair = [
        (values / size).argmax() == q.answer for q, values, size in zip(questions, found[second], sizes, strict=True)
    ]
    assert (accuracy.kind, accuracy.questions) == ("abc", 3)
    assert accuracy.accuracy.value == pytest.approx(np.mean(right))
    assert accuracy.normalized.value == pytest.approx(np.mean(fair))
    assert accuracy.same_choice is not None
    assert accuracy.same_choice.value == pytest.approx(np.mean(same))
    assert got.qualities == ()


@pytest.mark.parametrize(("right", "of"), [(0, 3), (3, 3), (1, 1), (7, 10), (500, 1000)])
def test_the_interval_of_a_share_is_wilsons(right: int, of: int) -> None:
    """Its ends are the shares of which what was found is just 1.96 standard errors away; never of width 0."""
    questions = [tasks.Question("q", ("a", "b"), 0)] * of
    likelihoods = [np.array([0.0, -1.0]) if number < right else np.array([-1.0, 0.0]) for number in range(of)]
    found = tasks.accuracy("few", questions, likelihoods).accuracy
    assert found.value == right / of
    assert found.low is not None
    assert found.high is not None
    assert found.error is not None
    assert 0 <= found.low <= found.value <= found.high <= 1
    assert found.high - found.low > 0.05
    for end in (found.low, found.high):
        if 0 < end < 1:
            assert abs(found.value - end) == pytest.approx(estimates.Z * (end * (1 - end) / of) ** 0.5)
    assert found.error == pytest.approx((found.high - found.low) / 2 / estimates.Z)


def test_a_prompt_and_a_choice_have_a_space_between_them() -> None:
    assert tasks.joined("a", "b") == "a b"
    assert tasks.joined("a ", "b") == tasks.joined("a", " b") == "a b"
    assert tasks.joined("a\n", "b") == "a\nb"


@pytest.mark.parametrize(
    "line",
    [
        "{",
        "[]",
        '{"choices": ["a", "b"], "answer": 0}',
        '{"question": "", "choices": ["a", "b"], "answer": 0}',
        '{"question": "x", "choices": ["a"], "answer": 0}',
        '{"question": "x", "choices": ["a", " "], "answer": 0}',
        '{"question": "x", "choices": ["a", "b"], "answer": 2}',
        '{"question": "x", "choices": ["a", "b"], "answer": true}',
        '{"question": "x", "choices": ["a", "b"]}',
        '{"question": "\\ud800", "choices": ["a", "b"], "answer": 0}',
        "[" * 10_000,
    ],
)
def test_lines_that_are_no_questions(line: str, tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text(f"\n{line}\n")
    with pytest.raises(ArgumentError, match=r"x\.jsonl, tasks: line 2 is no question with choices"):
        tasks.read(tmp_path / "x.jsonl")


@pytest.mark.parametrize(
    ("record", "want"),
    [
        ({"question": "Q", "choices": ["a", "b", "c"], "answer": 2, "subject": "x"}, ("Q", ("a", "b", "c"), 2)),
        ({"question": "Q", "choices": ["a", "b"], "answer": "B"}, ("Q", ("a", "b"), 1)),
        ({"question": "Q", "options": ["a", "b"], "answer": 0}, ("Q", ("a", "b"), 0)),
        ({"ind": 4, "ctx": "C", "endings": ["a", "b"], "label": "1"}, ("C", ("a", "b"), 1)),
        ({"question": "Q", "choices": {"text": ["a", "b"], "label": ["A", "B"]}, "answerKey": "A"},
         ("Q", ("a", "b"), 0)),
        ({"question": "Q", "choices": {"text": ["a", "b"], "label": ["1", "2"]}, "answerKey": "2"},
         ("Q", ("a", "b"), 1)),
        ({"question_stem": "Q", "choices": {"text": ["a", "b"], "label": ["B", "A"]}, "answerKey": "A"},
         ("Q", ("a", "b"), 1)),
    ],
)  # fmt: skip
def test_questions_of_well_known_sets(record: dict[str, Any], want: Any, tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text(f"\n{json.dumps(record)}\n")
    assert tasks.read(tmp_path / "x.jsonl") == [tasks.Question(*want)]
    assert tasks.read(tmp_path / "x.jsonl")[0].line == 2


@pytest.mark.parametrize("answer", ["", "C", "2", "-1", "²", 2.0, None, ["a"], True])
def test_answers_that_name_no_choice(answer: Any, tmp_path: Path) -> None:
    record = {"question": "Q", "choices": {"text": ["a", "b"], "label": ["x", "y"]}, "answerKey": answer}
    (tmp_path / "x.jsonl").write_text(json.dumps(record))
    with pytest.raises(ArgumentError, match="no such answer"):
        tasks.read(tmp_path / "x.jsonl")


def test_what_is_known_before_a_model_runs_is_said_before(
    two: Two, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, _, _ = two
    (tmp_path / "x.jsonl").write_text(json.dumps({"question": "abc " * 200, "choices": ["d", "e"], "answer": 0}))
    monkeypatch.setattr(streaming, "stream", None)  # which is not reached
    with pytest.raises(ArgumentError, match=r"tasks: the question in line 1 of 'x' is too long.*at most 128 tokens"):
        gguflike.evaluate(first, {"t": TEXT}, tasks=[tmp_path / "x.jsonl"], context=CONTEXT)
    for name, value in (("context", 64), ("tokens", 64), ("score", "all")):
        with pytest.raises(ArgumentError, match=f"{name}: says how texts are cut and scored, and there is none"):
            gguflike.evaluate(first, tasks=[tmp_path / "x.jsonl"], **{name: value})  # type: ignore[arg-type]
    monkeypatch.setattr(models, "float_file", None)
    folder = tiny.checkpoint(tmp_path / "hf")
    for settings in ({"text": {"x": "short"}}, {"text": {"x": TEXT}, "context": 129}):
        with pytest.raises(ArgumentError, match=r"too short|more than the model was trained with"):
            gguflike.evaluate(first, settings.pop("text"), reference=folder, **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("wide", [40, 80, 200])
def test_tables_are_as_wide_as_the_terminal(
    two: Two, tmp_path: Path, wide: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second, _ = two
    texts_ = [tmp_path / f"{name}.txt" for name in ("one", "two", "three", "four")]
    for path in texts_:
        path.write_text(TEXT)
    monkeypatch.setenv("COLUMNS", str(wide))
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    command = ["eval", str(second), "--reference", str(first), "--context", str(CONTEXT), "--text", *map(str, texts_)]
    assert main(command) == 0
    _, *lines = capsys.readouterr().out.rstrip().split("\n")
    heads = [line.split() for line in lines if set(line.split()) & {"one", "two", "three", "four", "all"}]
    assert [name for head in heads for name in head] == ["one", "two", "three", "four", "all"]
    if wide >= 80:
        assert max(map(len, lines)) <= wide
    assert len(heads) == {40: 5, 80: 3, 200: 1}[wide]


def test_a_file_without_questions(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text("\n\n")
    with pytest.raises(ArgumentError, match="no questions"):
        tasks.read(tmp_path / "x.jsonl")


def test_a_question_may_hold_what_only_python_takes_for_a_line_end(tmp_path: Path) -> None:
    line = json.dumps({"question": "a\u2028b", "choices": ["c\u0085", "d"], "answer": 0}, ensure_ascii=False)
    (tmp_path / "x.jsonl").write_bytes(b"\xef\xbb\xbf" + line.encode() + b"\r\n")
    assert tasks.read(tmp_path / "x.jsonl") == [tasks.Question("a\u2028b", ("c\u0085", "d"), 0)]


# The command


def test_the_command_prints_a_table_or_a_document(two: Two, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second, _ = two
    (tmp_path / "a.txt").write_text(TEXT)
    (tmp_path / "q.jsonl").write_text("\n".join(json.dumps(each) for each in QUESTIONS))
    command = [
        *("eval", str(second), "--reference", str(first), "--text", str(tmp_path / "a.txt")),
        *("--tasks", str(tmp_path / "q.jsonl"), "--context", "32"),
    ]
    assert main(command) == 0
    out, _ = capsys.readouterr()
    for words in ("second half scored", "KL divergence, mean", "99.9 %", "same likeliest token", "same choice"):
        assert words in out
    assert main([*command, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["context"] == 32
    (quality,) = document["texts"]
    assert quality["kind"] == "a"
    assert quality["kl"]["low"] < quality["kl"]["value"] < quality["kl"]["high"]
    assert document["tasks"][0]["questions"] == 3
    assert main(["eval", str(second)]) == 2
    assert "no text to measure on" in capsys.readouterr().err
