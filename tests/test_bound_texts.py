"""Texts of a model that are bound, told with log probabilities, or both: in Python and on the command line."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gguflike import runner
from gguflike.chat import Called
from gguflike.cli import main
from gguflike.errors import ArgumentError
from gguflike.runner import Model
from tests import tiny_gguf

TEMPLATE = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}a: "
CHOICES = {"enum": [1, 22, "x"]}
TOOL = {
    "type": "function",
    "function": {
        "name": "f",
        "parameters": {
            "type": "object",
            "properties": {"n": {"enum": [1, 2, 3]}},
            "required": ["n"],
            "additionalProperties": False,
        },
    },
}
USER = [{"role": "user", "content": "Hi"}]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("model") / "m.gguf"
    tiny_gguf.write(file, template=TEMPLATE, n_ctx=2048)
    return file


@pytest.fixture(scope="module")
def model(path: Path) -> Iterator[Model]:
    with runner.load(path, threads=1) as loaded:
        yield loaded


@pytest.mark.parametrize("settings", [{}, {"temperature": 2.0, "seed": 1}, {"logprobs": 2}, {"lookup": 4}])
def test_bound_texts(settings: dict[str, Any], model: Model) -> None:
    def text(**bounds: Any) -> str:
        made = model.generate("Say: ", 60, **bounds, **settings).result()
        assert made.finish_reason == "stop"
        assert made.logprobs is None or len(made.logprobs) == len(made.tokens)
        return made.text

    assert json.loads(text(schema=CHOICES)) in CHOICES["enum"]
    assert json.loads(text(schema=json.dumps(CHOICES))) in CHOICES["enum"]
    assert re.fullmatch("(ab|cd){2}e", text(regex="(ab|cd){2}e"))
    assert text(grammar='root ::= "yes" | "no"') in ("yes", "no")
    assert text(grammar=model.grammars.regex("[xy]z").start()) in ("xz", "yz")


def test_a_text_that_is_cut_off(model: Model) -> None:
    made = model.generate("x", 3, regex="abcdef").result()
    assert (made.text, made.finish_reason) == ("abc", "length")


def test_forced_tokens_do_not_change_what_follows(model: Model) -> None:
    """Tokens that have to come are computed together, which changes logits by the order of sums at most."""
    bound = model.generate("x", 20, regex="abc[de]", logprobs=0).result()
    fast = model.generate("x", 20, regex="abc[de]").result()
    assert bound.tokens == fast.tokens


def test_two_bounds_are_one_too_many(model: Model) -> None:
    with pytest.raises(ArgumentError, match=r"regex: a text can be bound by one.*schema and regex"):
        model.generate("x", schema={}, regex="a")
    with pytest.raises(ArgumentError, match="schema: cannot be enforced"):
        model.generate("x", schema={"not": {}})


def test_chats_that_are_bound(model: Model) -> None:
    assert json.loads(model.chat(USER, 60, schema=CHOICES).result().text) in CHOICES["enum"]
    for choice in ("required", ("f",)):
        made = model.chat(USER, 600, tools=[TOOL], tool_choice=choice, parallel_calls=False).result()
        reader = model.conversations.prompt(USER, tools=[TOOL]).reader()
        (call,) = [*reader.push(made.text), *reader.end()]
        assert isinstance(call, Called)
        assert (call.name, json.loads(call.arguments)["n"] in (1, 2, 3)) == ("f", True)
    with pytest.raises(ArgumentError, match="tool_choice"):
        model.chat(USER, tool_choice="required")


@pytest.mark.parametrize("lookup", [0, 6])
def test_logprobs(lookup: int, model: Model) -> None:
    prompt = [10, 20, 30] * 6
    made = model.generate(prompt, 12, logprobs=3, lookup=lookup)
    pieces = list(made)
    result = made.result()
    assert result.logprobs is not None
    assert [piece.logprobs for piece in pieces if piece.logprobs] == result.logprobs
    rows = model.logits([*prompt, *result.tokens])[len(prompt) - 1 :].astype(np.float64)
    for row, token, told in zip(rows, result.tokens, result.logprobs, strict=False):
        want = row - np.log(np.exp(row - row.max()).sum()) - row.max()
        assert told.chosen == pytest.approx(want[token], abs=2e-3)
        assert [each for each, _ in told.alternatives] == np.argsort(-row, kind="stable")[:3].tolist()
        assert told.alternatives[0] == (token, told.chosen)


def test_on_the_command_line(path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    grammar, schema = tmp_path / "g.gbnf", tmp_path / "s.json"
    grammar.write_text('root ::= "red" | "green"')
    schema.write_text(json.dumps(CHOICES))

    def run(*options: str) -> str:
        assert main(["run", str(path), "x", "-n", "60", *options]) == 0
        return capsys.readouterr().out.strip()

    assert run("--grammar", str(grammar)) in ("red", "green")
    assert json.loads(run("--schema", str(schema))) in CHOICES["enum"]
    assert json.loads(run("--schema", json.dumps(CHOICES))) in CHOICES["enum"]
    assert json.loads(run("--chat", "--schema", json.dumps(CHOICES))) in CHOICES["enum"]


@pytest.mark.parametrize(
    ("options", "status", "told"),
    [
        (["--schema", '{"not": {}}'], 2, "--schema: cannot be enforced"),
        (["--schema", "{"], 2, "--schema: not JSON"),
        (["--schema", "/no/such.json"], 1, "/no/such.json"),
        (["--grammar", "/no/such.gbnf"], 1, "/no/such.gbnf"),
        (["--grammar", "x", "--schema", "{}"], 2, "not allowed with"),
        (["--grammar", "LATIN"], 2, "LATIN: byte 10: this is no UTF-8"),
        (["--schema", "LATIN"], 2, "LATIN: byte 10: this is no UTF-8"),
    ],
)
def test_bounds_that_are_wrong(
    options: list[str],
    status: int,
    told: str,
    path: Path,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("LATIN").write_bytes('root ::= "é"'.encode("latin-1"))
    try:
        got = main(["run", str(path), "x", *options])
    except SystemExit as error:
        got = int(error.code or 0)
    assert got == status
    assert told in capsys.readouterr().err
