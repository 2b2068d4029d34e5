"""gguflike run: where the prompt is from, settings of all kinds, and what is said at the end."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import gguflike
from gguflike.cli import main
from gguflike.cli.config import path, state_folder, variable
from gguflike.cli.settings import ALL, SAMPLING
from gguflike.errors import UnsupportedError
from gguflike.runner.sampling import Sampling
from tests import tiny_gguf

TEMPLATE = "{% for m in messages %}{{ m.role }}:{{ m.content }}|{% endfor %}"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("run") / "m.gguf"
    tiny_gguf.write(place, "F32", template=TEMPLATE)
    return place


@pytest.fixture(autouse=True)
def no_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a file of settings nor variables of who runs the tests."""
    for name in [name for name in os.environ if name.startswith("GGUFLIKE_") and name != "GGUFLIKE_CACHE_DIR"]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


class Pipe(io.StringIO):
    """Standard input as a pipe that has something."""

    def fileno(self) -> int:
        return self.reader

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.reader, self.writer = os.pipe()


def said(capsys: pytest.CaptureFixture[str], *arguments: object) -> Any:
    assert main([*map(str, arguments), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


# The prompt


def prompt_tokens(capsys: pytest.CaptureFixture[str], *arguments: object) -> int:
    return int(said(capsys, *arguments, "-n", 1)["prompt_tokens"])


def test_words_behind_the_model_are_the_prompt(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    want = said(capsys, "run", model, "-p", "what is it", "-n", 4)["text"]
    assert said(capsys, "run", model, "what", "is", "it", "-n", 4)["text"] == want
    assert said(capsys, "run", "-n", 4, model, "what", "--temp", 0, "is", "it")["text"] == want
    assert said(capsys, "run", "-m", model, "-n", 4, "what is", "it")["text"] == want


def test_piped_text_goes_before_the_prompt(
    model: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for piped, words, whole in (
        ("ab\ncd\n", ["why", "so"], "ab\ncd\nwhy so"),
        ("ab\n", [], "ab"),
        ("", ["why"], "why"),
    ):
        monkeypatch.setattr(sys, "stdin", Pipe(piped))
        assert prompt_tokens(capsys, "run", model, *words) == len(whole)
    monkeypatch.setattr(sys, "stdin", Pipe("ab"))
    assert prompt_tokens(capsys, "run", model, "-p", "xyz") == 3  # -p is all of it, as llama.cpp has it
    monkeypatch.setattr(sys, "stdin", Pipe("ab\n"))
    assert prompt_tokens(capsys, "run", model, "-p", "-") == 2


def test_who_forgets_a_pipe_is_told(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = os.pipe()
    command = [sys.executable, "-m", "gguflike", "run", str(model), "hi", "-n", "1"]
    with subprocess.Popen(command, stdin=reader, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        os.close(reader)
        assert process.stderr is not None
        assert process.stderr.readline().startswith(b"waiting for the end of standard input: it goes before the prompt")
        os.close(writer)
        assert process.wait(timeout=90) == 0


def test_no_prompt_at_all(model: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", Pipe(""))
    assert main(["run", str(model)]) == 2
    assert "standard input is empty; give a prompt behind the model" in capsys.readouterr().err
    assert main(["run"]) == 2
    assert "MODEL is required" in capsys.readouterr().err


def test_a_system_message_is_for_chats(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert prompt_tokens(capsys, "run", model, "--chat", "--system", "be", "hi") == len("system:be|user:hi|")
    assert main(["run", str(model), "--system", "be", "hi"]) == 2
    assert "--system is for --chat" in capsys.readouterr().err


def test_markup_is_text_unless_special(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """</s> is the end token of these files."""
    for chat, around in (([], 0), (["--chat"], len("user:|"))):
        assert prompt_tokens(capsys, "run", model, *chat, "a</s>") == around + 5
        assert prompt_tokens(capsys, "run", model, *chat, "--special", "a</s>") == around + 2


# Settings


def test_the_table_has_all_of_sampling() -> None:
    assert [setting.name for setting in SAMPLING] == [
        *(name for name in Sampling.__annotations__ if name != "seed"),
        "seed",
    ]


def test_every_way_to_choose_tokens_is_taken(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = {
        **{"temp": 0.9, "top-k": 40, "top-p": 0.95, "min-p": 0.01, "typical-p": 0.99, "top-n-sigma": 3},
        **{"xtc-probability": 0.5, "xtc-threshold": 0.05, "dry-multiplier": 0.8, "dry-base": 1.5},
        **{"dry-allowed-length": 3, "dry-penalty-last-n": 64, "dry-sequence-breaker": "\n", "seed": 7},
        **{"repetition-penalty": 1.1, "frequency-penalty": 0.1, "presence-penalty": 0.2, "penalty-last-n": 32},
        **{
            "logit-bias": "65=-inf,66=2",
            "order": "penalties,dry,top_n_sigma,top_k,typical_p,top_p,min_p,xtc,temperature",
        },
        **{"mirostat": 0, "mirostat-tau": 4, "mirostat-eta": 0.2, "lookup": 0},
    }
    flags = [f"--{name}={value}" for name, value in options.items()]
    got = said(capsys, "run", model, "abc", "-n", 12, *flags)
    names = {"temp": "temperature", "dry-sequence-breaker": "dry_sequence_breakers"}
    values = {names.get(name, name.replace("-", "_")): value for name, value in options.items()}
    values |= {"dry_sequence_breakers": ["\n"], "logit_bias": {65: float("-inf"), 66: 2.0}}
    values["order"] = tuple(str(values["order"]).split(","))
    with gguflike.load(model) as loaded:
        assert got["tokens"] == loaded.generate("abc", 12, **values).result().tokens  # type: ignore[arg-type]
    assert (got["seed"], got["finish_reason"]) == (7, "length")


def test_a_text_that_ends_it(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = said(capsys, "run", model, "abc", "-n", 20)["text"]
    got = said(capsys, "run", model, "abc", "-n", 20, "--stop", "never there", "--stop", text[7:9])
    assert got["finish_reason"] == "stop"
    assert got["text"] == text[: text.index(text[7:9])]


@pytest.mark.parametrize("text", ["[", "[1]", "[" * 5000, "[1e999]"])
def test_a_bracket_that_begins_no_list_is_text(
    text: str, model: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert said(capsys, "run", model, "abc", "-n", 1, "--stop", text)["finish_reason"] == "length"
    monkeypatch.setenv("GGUFLIKE_STOP", text)
    assert said(capsys, "run", model, "abc", "-n", 1)["finish_reason"] == "length"


def test_a_seed_that_is_drawn_is_said(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", str(model), "abc", "-n", "8", "--temp", "1", "--seed", "-1", "--json"]) == 0
    out, err = capsys.readouterr()
    drawn = json.loads(out)
    assert err == f"seed {drawn['seed']}\n"
    assert said(capsys, "run", model, "abc", "-n", 8, "--temp", 1, "--seed", drawn["seed"])["text"] == drawn["text"]
    assert said(capsys, "run", model, "abc", "-n", 1)["seed"] is None  # the likeliest is no chance


def test_cache_types(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for kind in ("f16", "f32", "q8_0"):
        with gguflike.load(model, cache_type=kind) as loaded:
            want = loaded.generate("abc", 8).result().tokens
        assert said(capsys, "run", model, "abc", "-n", 8, "--cache-type", kind)["tokens"] == want
    assert main(["run", str(model), "abc", "--cache-type", "q8"]) == 2
    assert "--cache-type" in capsys.readouterr().err


# Settings from elsewhere


def settle(text: str) -> str:
    Path(path()).parent.mkdir(parents=True, exist_ok=True)
    Path(path()).write_text(text, encoding="utf-8")
    return path()


def test_options_go_before_the_environment_and_that_before_the_file(
    model: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    settle("tokens = 3\ncontext = 64\n[sampling]\nseed = 5\ntemperature = 1\n")
    got = said(capsys, "run", model, "abc")
    assert (len(got["tokens"]), got["context"], got["seed"]) == (3, 64, 5)
    monkeypatch.setenv("GGUFLIKE_TOKENS", "2")
    monkeypatch.setenv("GGUFLIKE_CONTEXT", "32")
    monkeypatch.setenv("GGUFLIKE_SEED", "")  # as if it were not there
    got = said(capsys, "run", model, "abc")
    assert (len(got["tokens"]), got["context"], got["seed"]) == (2, 32, 5)
    got = said(capsys, "run", model, "abc", "-n", 1, "-c", 16, "--temp", 0)
    assert (len(got["tokens"]), got["context"]) == (1, 16)


def test_models_by_name(model: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    settle(f"model = 'small'\n[aliases]\nsmall = '{model}'\n")
    want = said(capsys, "run", model, "abc", "-n", 4)["text"]
    assert said(capsys, "run", "small", "abc", "-n", 4)["text"] == want
    monkeypatch.setattr(sys, "stdin", Pipe("abc"))
    assert said(capsys, "run", "-n", 4)["text"] == want
    assert main(["run", "smal", "abc"]) == 2
    assert "smal: No such file or directory; did you mean small?" in capsys.readouterr().err
    settle("model = ''")
    assert main(["run"]) == 2
    assert "MODEL is required" in capsys.readouterr().err
    monkeypatch.setenv("GGUFLIKE_MODELS_DIR", str(model.parent))
    for name in (model.name, model.stem):
        assert said(capsys, "run", name, "abc", "-n", 4)["text"] == want


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("thread = 2", "no setting 'thread'; did you mean threads?"),
        ("top_k = 3", "no setting 'top_k'; did you mean sampling.top_k?"),
        ("[sampling]\ntopk = 3", "no setting 'sampling.topk'; did you mean sampling.top_k?"),
        ("[sampling]\nthreads = 3", "no setting 'sampling.threads'; did you mean threads?"),
        ("[alias]\na = 'b'", "no setting 'alias'; did you mean [aliases]?"),
        ("zzz = 1", "no setting 'zzz'; spec/cli.md lists all"),
        ("threads = 'two'", "threads: expected a whole number, 1 or more; got 'two'"),
        ("threads = 0", "threads: 0 is not 1 or more"),
        ("threads = true", "threads: expected a whole number, 1 or more; got True"),
        ("cache_type = 'q4'", "cache_type: 'q4' is none of f16, q8_0, f32"),
        ("sampling = 3", "sampling: expected a table, [sampling]; got 3"),
        ("[aliases]\na = 3", "aliases.a: expected the name of a model; got 3"),
        ("stop = [3]", "stop: expected text, or a list of texts; got [3]"),
        ("[sampling]\ntop_p = 7", "sampling.top_p: out of range; expected above 0, at most 1; got 7"),
        ("threads = ", "Invalid value (at "),
    ],
)
def test_a_file_of_settings_that_cannot_be(
    text: str, words: str, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = settle(text)
    assert main(["run", str(model), "abc", "-n", "1"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"gguflike run: {place}: {words}")


def test_variables_that_cannot_be(
    model: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GGUFLIKE_TOP_K", "many")
    assert main(["run", str(model), "abc"]) == 2
    assert "GGUFLIKE_TOP_K: not a whole number: 'many'" in capsys.readouterr().err
    monkeypatch.setenv("GGUFLIKE_TOP_K", "-1")
    assert main(["run", str(model), "abc"]) == 2
    assert "GGUFLIKE_TOP_K: out of range; expected 0 or more; got -1" in capsys.readouterr().err


def test_values_of_the_file_are_those_of_options(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = said(capsys, "run", model, "abc", "-n", 20)["text"]
    settle(f"stop = [{json.dumps(text[7:9])}]\nwrap = false\n")
    assert said(capsys, "run", model, "abc", "-n", 20)["finish_reason"] == "stop"
    settle("[sampling]\nlogit_bias = { 65 = -1.5 }\norder = ['top_k', 'temperature']\n")
    with gguflike.load(model) as loaded:
        want = loaded.generate("abc", 8, logit_bias={65: -1.5}, order=("top_k", "temperature")).result().tokens
    assert said(capsys, "run", model, "abc", "-n", 8)["tokens"] == want


def test_a_draft_model_changes_no_text(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = said(capsys, "run", model, "abc", "-n", 20)
    monkeypatch.setenv("GGUFLIKE_DRAFT", str(model))
    drafted = said(capsys, "run", model, "abc", "-n", 20, "--draft-tokens", 5)
    assert drafted["tokens"] == plain["tokens"]
    assert drafted["accepted"] == drafted["drafted"] > 10
    assert "drafted" not in plain
    tiny_gguf.write(tmp_path / "other.gguf", n_vocab=310)
    assert main(["run", str(model), "abc", "--draft", str(tmp_path / "other.gguf")]) == 2
    assert "the draft model has another vocabulary" in capsys.readouterr().err
    assert main(["chat", str(model), "--draft", str(tmp_path / "gone.gguf"), "--json"]) == 1
    assert "gone.gguf: No such file or directory" in capsys.readouterr().err


def test_where_the_files_are(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert path() == str(tmp_path / "config" / "gguflike" / "config.toml")
    monkeypatch.delenv("XDG_CONFIG_HOME")
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    monkeypatch.setenv("HOME", "/h")
    assert (path(), state_folder()) == ("/h/.config/gguflike/config.toml", "/h/.local/state/gguflike")
    monkeypatch.setenv("GGUFLIKE_CONFIG", str(tmp_path / "gone"))
    assert main(["inspect", "x"]) == 1  # a file that is named must be there


def test_settings_are_told_of() -> None:
    """The page of the command line names every setting, its options and its variable."""
    page = (Path(__file__).parent.parent / "spec" / "cli.md").read_text(encoding="utf-8")
    for setting in ALL.values():
        for text in (f"`{setting.key}`", *(f"`{flag}`" for flag in setting.flags[:1]), variable(setting.name)):
            assert text in page, text


def test_a_vocabulary_that_says_no_pre_tokenizer(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It runs, as in llama.cpp, and that is said; one that nobody knows is refused before a text is given."""
    unsaid, unknown = tmp_path / "unsaid.gguf", tmp_path / "unknown.gguf"
    assert main(["edit", str(model), "-o", str(unsaid), "--unset", "tokenizer.ggml.pre"]) == 0
    assert main(["edit", str(model), "-o", str(unknown), "--set", "tokenizer.ggml.pre=shiny"]) == 0
    capsys.readouterr()
    for each, words in ((model, 0), (unsaid, 1)):
        assert main(["run", str(each), "-p", "a", "-n", "1"]) == 0
        assert capsys.readouterr().err.count("no pre-tokenizer is named") == words
        assert main(["inspect", str(each)]) == 0
        assert capsys.readouterr().out.count("no pre-tokenizer is named") == words
    with pytest.raises(UnsupportedError, match="such as"):
        gguflike.load(unknown)
    assert main(["inspect", str(unknown)]) == 0
    assert "pre-tokenizer is not handled" in " ".join(capsys.readouterr().out.split())
