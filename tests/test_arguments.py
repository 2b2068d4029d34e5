"""What the API does not take: an error of the one tree that is a ValueError or TypeError, too, never a default."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gguflike
from gguflike import runner
from gguflike.errors import ArgumentError, ArgumentTypeError, GGUFLikeError, as_integer
from gguflike.runner.model import Model
from gguflike.runner.sampling import Sampler, Sampling
from tests import tiny, tiny_gguf

X = np.ones((2, 256), np.float32)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("arguments") / "m.gguf"
    tiny_gguf.write(path, "F32", template="{% for m in messages %}{{ m.content }}{% endfor %}")
    return path


@pytest.fixture(scope="module")
def model(path: Path) -> Model:
    return runner.load(path, threads=1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.checkpoint(tmp_path_factory.mktemp("arguments") / "hf")


def test_the_errors_are_pythons_too() -> None:
    assert issubclass(ArgumentError, GGUFLikeError)
    assert issubclass(ArgumentError, ValueError)
    assert issubclass(ArgumentTypeError, GGUFLikeError)
    assert issubclass(ArgumentTypeError, TypeError)


@pytest.mark.parametrize("name", ["Q8_0", "Q4_K", "IQ2_XXS", "F16", "F32", "MXFP4"])
@pytest.mark.parametrize("method", ["nonsense", "Search", "", "rtn"])
def test_unknown_methods(name: str, method: Any) -> None:
    with pytest.raises(ArgumentError, match="method: unknown value; expected search, absmax; got"):
        gguflike.quantize(X, name, method=method)


@pytest.mark.parametrize("kind", ["F32", "Q8_0"])
def test_unknown_methods_of_commands(kind: str, folder: Path, path: Path, tmp_path: Path) -> None:
    wrong: Any = "nonsense"
    with pytest.raises(ArgumentError, match="method"):
        gguflike.convert(folder, tmp_path / "x.gguf", kind, method=wrong)
    with pytest.raises(ArgumentError, match="method"):
        gguflike.quantize_file(path, tmp_path / "x.gguf", kind, method=wrong)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("call", "kind"),
    [
        (lambda: gguflike.quantize(X, "Q9_K"), ArgumentError),
        (lambda: gguflike.quantize(X, None), ArgumentTypeError),
        (lambda: gguflike.quantize(X, 8), ArgumentTypeError),
        (lambda: gguflike.quantize(X, "F32", method=None), ArgumentTypeError),
        (lambda: gguflike.quantize(X, "F32", threads=0), ArgumentError),
        (lambda: gguflike.quantize(X, "F32", threads=1.5), ArgumentTypeError),
        (lambda: gguflike.quantize(X, "F32").dequantize(threads=0), ArgumentError),
        (lambda: gguflike.quantize(X, "F32").linear(X, threads=-1), ArgumentError),
    ],
)
def test_quantize(call: Callable[[], object], kind: type[Exception]) -> None:
    with pytest.raises(kind):
        call()


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ({"type": "Q4_X"}, ArgumentError),
        ({"type": None}, ArgumentTypeError),
        ({"threads": 0}, ArgumentError),
        ({"tensor_types": "attn=Q8_0"}, ArgumentTypeError),
        ({"tensor_types": ["attn"]}, ArgumentError),
        ({"tensor_types": ["attn=Q9_0"]}, ArgumentError),
        ({"tensor_types": ["(=Q8_0"]}, ArgumentError),
        ({"tensor_types": [b"attn=Q8_0"]}, ArgumentTypeError),
    ],
)
def test_options_of_convert_and_quantize_file(
    options: dict[str, Any], kind: type[Exception], folder: Path, path: Path, tmp_path: Path
) -> None:
    options = {"type": "F32", **options}
    for command, source in ((gguflike.convert, folder), (gguflike.quantize_file, path)):
        with pytest.raises(kind):
            command(source, tmp_path / "x.gguf", **options)  # type: ignore[operator]
    assert not list(tmp_path.iterdir())


def test_other_options_of_files(folder: Path, path: Path, tmp_path: Path) -> None:
    with pytest.raises(ArgumentTypeError, match="ignore_config"):
        gguflike.convert(folder, None, "F32", dry_run=True, ignore_config="key")
    with pytest.raises(ArgumentError, match="a folder has no revisions"):
        gguflike.convert(folder, None, "F32", dry_run=True, revision="main")
    with pytest.raises(ArgumentError, match="dtype"):
        gguflike.export(path, tmp_path / "x", "F16")
    with pytest.raises(ArgumentError, match="threads"):
        gguflike.diff(path, path, threads=0)


@pytest.mark.parametrize(
    ("setting", "value", "kind"),
    [
        ("threads", 0, ArgumentError),
        ("threads", -2, ArgumentError),
        ("threads", "2", ArgumentTypeError),
        ("threads", True, ArgumentTypeError),
        ("context", 0, ArgumentError),
        ("context", 64.0, ArgumentTypeError),
        ("cache_type", "q4_0", ArgumentError),
        ("cache_type", "F16", ArgumentError),
        ("cache_type", None, ArgumentTypeError),
    ],
)
def test_load(setting: str, value: Any, kind: type[Exception], path: Path) -> None:
    with pytest.raises(kind, match=setting):
        gguflike.load(path, **{setting: value})


PROMPTS = [
    *(b"text", bytearray(b"text"), memoryview(b"text"), None, 7, 1.5, {1: 2}, {1, 2}),
    *([1.7, 2.2], [[1, 2]], [None], ["a", "b"], [b"a"], [True], [np.float32(1)], [np.array([1, 2])]),
    *(np.array([1.0, 2.0]), np.array([[1, 2]]), np.array([True]), np.array(3), np.array(["a"]), np.array([1, None])),
]


def said(prompt: object) -> str:
    """The same in every process, so that several share the tests."""
    return f"memoryview({bytes(prompt)!r})" if isinstance(prompt, memoryview) else repr(prompt)


@pytest.mark.parametrize("prompt", PROMPTS, ids=said)
def test_prompts_of_another_kind(prompt: Any, model: Model) -> None:
    for call in (model.generate, model.logits, model.detokenize, model.perplexity):
        with pytest.raises(ArgumentTypeError, match=r"token id|expected"):
            call(prompt)
    with pytest.raises(ArgumentTypeError):
        model.extend(prompt, 0)


@pytest.mark.parametrize("call", ["logits", "perplexity", "detokenize"])
def test_text_is_no_list_of_ids(call: str, model: Model) -> None:
    with pytest.raises(ArgumentTypeError, match="a flat list of integers; got str 'text'"):
        getattr(model, call)("text")


def test_prompts_that_are_taken(model: Model) -> None:
    want = model.generate([1, 2, 3], 4).result().tokens
    for prompt in ((1, 2, 3), np.array([1, 2, 3]), np.array([1, 2, 3], np.uint16), iter([1, 2, 3]), range(1, 4)):
        assert model.generate(prompt, 4).result().tokens == want  # type: ignore[arg-type]
    assert model.generate([np.int64(1), 2, np.uint8(3)], 4).result().tokens == want


def test_text_of_another_kind(model: Model) -> None:
    for text in (b"text", None, 5, ["a"]):
        with pytest.raises(ArgumentTypeError, match="text: not text"):
            model.tokenize(text)  # type: ignore[arg-type]


@pytest.mark.parametrize("ids", [[300], [-1], [2**40], [0, 300, 1], []])
def test_ids_out_of_range(ids: list[int], model: Model) -> None:
    for call in (model.generate, model.logits):
        with pytest.raises(ArgumentError, match="token"):
            call(ids)
    if ids:
        with pytest.raises(ArgumentError, match="no such token"):
            model.detokenize(ids)


NUMBERS = ("temperature", "top_p", "min_p", "repetition_penalty")


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        *((name, float("nan")) for name in NUMBERS),
        *((name, float("inf")) for name in NUMBERS),
        *((name, -1) for name in (*NUMBERS, "top_k", "seed", "lookup", "draft_tokens", "max_tokens")),
        *(("max_tokens", -5), ("top_p", 0), ("top_p", 1.01), ("min_p", 1), ("repetition_penalty", 0)),
        *(("repetition_penalty", 1e-30), ("repetition_penalty", 1e30)),
    ],
)
def test_settings_out_of_range(setting: str, value: float, model: Model) -> None:
    with pytest.raises(ArgumentError, match=f"^{setting}: out of range"):
        model.generate([1, 2], **{setting: value})


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        *((name, value) for name in NUMBERS for value in (None, "0", [1.0], True, 1j, np.array([1.0]))),
        *((name, value) for name in ("top_k", "lookup", "max_tokens") for value in (1.5, "1", True, np.float32(1))),
        *(("top_k", None), ("lookup", None), ("seed", 1.5), ("seed", "1")),
        *(("stop", None), ("stop", b"x"), ("stop", [b"x"]), ("stop", [1]), ("stop", 3), ("stop", {"a": 1})),
    ],
    ids=repr,
)
def test_settings_of_another_kind(setting: str, value: Any, model: Model) -> None:
    with pytest.raises(ArgumentTypeError, match=f"^{setting}: not "):
        model.generate([1, 2], **{setting: value})


def test_an_unknown_setting_is_a_type_error(model: Model) -> None:
    for call in (lambda: model.generate([1], temprature=1.0), lambda: model.chat([], temprature=1.0)):
        with pytest.raises(TypeError, match="temprature"):
            call()


def test_no_limit_of_tokens_means_the_context(path: Path) -> None:
    with runner.load(path, context=40) as model:
        result = model.generate([10, 20, 30], None).result()
        assert (len(result.tokens), result.finish_reason) == (37, "context")


@pytest.mark.parametrize(
    ("messages", "kind"),
    [
        ("What?", ArgumentTypeError),
        ({"role": "user", "content": "What?"}, ArgumentTypeError),
        ([("user", "What?")], ArgumentTypeError),
        (["What?"], ArgumentTypeError),
        (None, ArgumentTypeError),
        ([{"content": "What?"}], ArgumentTypeError),
        ([{"role": "user", "text": "What?"}], ArgumentError),
        ([{"role": "user", "content": None}], ArgumentError),
    ],
)
def test_conversations(messages: Any, kind: type[Exception], model: Model) -> None:
    with pytest.raises(kind, match="messages"):
        model.chat(messages)


def test_positions_that_are_not_cached(model: Model) -> None:
    model.logits([1, 2, 3])
    with pytest.raises(ArgumentError, match=r"position: out of range; expected 0 to 3; got 4"):
        model.extend([5], 4)
    with pytest.raises(ArgumentError, match="position"):
        model.extend([5], -1)
    with pytest.raises(ArgumentError, match="position"):
        model.forget(-1)
    with pytest.raises(ArgumentError, match="window"):
        model.perplexity([1, 2, 3], window=0)


@pytest.mark.parametrize("temperature", [1e-320, 1e-30, 1e-3, 1e30])
def test_any_finite_temperature_draws_a_token(temperature: float) -> None:
    logits = np.array([1.0, 3.0, -2.0], np.float32)
    token = Sampler(Sampling(temperature, seed=0)).choose(logits)
    assert token in (0, 1, 2)
    assert token == 1 or temperature > 1


@pytest.mark.parametrize("value", [3, np.int8(3), np.uint64(3), np.array(3)])
def test_integers(value: Any) -> None:
    assert as_integer(value) == 3


@pytest.mark.parametrize("value", [3.0, True, np.bool_(True), np.float32(3), "3", None, np.array([3]), np.array(True)])
def test_what_is_no_integer(value: Any) -> None:
    assert as_integer(value) is None
