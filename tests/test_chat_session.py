"""What a conversation does, without a terminal: commands, messages from a pipe, and how text is shown."""

from __future__ import annotations

import argparse
import io
import json
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import gguflike
from gguflike.chat import template
from gguflike.cli import main, screen
from gguflike.cli.config import Config
from gguflike.cli.generation import Drafter
from gguflike.cli.screen import DIM, PLAIN, Screen, is_colored, width
from gguflike.cli.settings import ALL
from gguflike.cli.talk.commands import COMMANDS, is_command, message
from gguflike.cli.talk.conversation import Conversation
from gguflike.cli.talk.loop import converse
from gguflike.cli.talk.piped import Piped
from gguflike.cli.talk.session import Session
from gguflike.errors import counted
from gguflike.runner import Model
from tests import tiny_gguf

TEMPLATE = (
    "{% for m in messages %}{{ m.role }}:{{ m.content }}|{% endfor %}"
    "{% if messages[-1].content == 'no' %}{{ raise_exception('never') }}{% endif %}"
)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("session") / "m.gguf"
    tiny_gguf.write(place, "F32", template=TEMPLATE, n_ctx=512)
    return place


@pytest.fixture(scope="module")
def model(path: Path) -> Iterator[Model]:
    with gguflike.load(path) as loaded:
        yield loaded


class Typed(list[str]):
    """Messages in turn, as somebody types them. ``begun`` is what they found begun."""

    is_typed = True

    def __init__(self, *words: str) -> None:
        super().__init__(words)
        self.begun: list[str] = []

    def ask(self, begun: str) -> str | None:
        self.begun.append(begun)
        return self.pop(0) if self else None


def sit(model: Model, *words: str, **settings: object) -> tuple[Session, Typed]:
    """A session in which these things are said."""
    values = dict.fromkeys(ALL) | {"special": False, "usual": {"temperature": 0.0, "tokens": 4}} | settings
    args = argparse.Namespace(**values, sources={}, config=Config(""), parser=argparse.ArgumentParser())
    source = Typed(*words)
    session = Session(Conversation(model, args, Drafter(args)), is_typed=source.is_typed)
    converse(session, source)
    return session, source


def user(session: Session) -> list[str]:
    return [turn["content"] for turn in session.conversation.turns if turn["role"] == "user"]


def told(capsys: pytest.CaptureFixture[str]) -> str:
    return capsys.readouterr().err


def test_messages_are_answered(model: Model, capsys: pytest.CaptureFixture[str]) -> None:
    session, _ = sit(model, "one", "  ", "\n", "//usr", "/two\nlines", system="be")
    assert user(session) == ["one", "/usr", "/two\nlines"]
    said, want = [{"role": "system", "content": "be"}], ""
    for words in user(session):
        said.append({"role": "user", "content": words})
        said.append({"role": "assistant", "content": model.chat(said, 4).result().text})
        want += said[-1]["content"] + "\n" * (not said[-1]["content"].endswith("\n"))
    assert session.conversation.messages == said
    assert capsys.readouterr() == (want, "")


def test_commands_are_never_said_to_the_model(model: Model, capsys: pytest.CaptureFixture[str]) -> None:
    session, _ = sit(model, "/hepl", "/", "/help", "/HELP", *(f"/{name}" for name in COMMANDS if name != "bye"))
    assert session.conversation.turns == []
    text = told(capsys)
    assert "no command /hepl; did you mean /help? (a message that begins with / is written with two)" in text
    assert "no command /HELP; did you mean /help?" in text
    assert "no command /; /help lists them" in text
    for name, command in COMMANDS.items():
        assert f"/{name} {command.takes}".rstrip() in text
    assert text.count("nothing was said yet") == 3
    assert [is_command(words) for words in ("/x", "//x", "x", "/x\ny", "")] == [True, False, False, False, False]
    assert message("//x") == "/x"


def test_the_end_is_said(model: Model) -> None:
    for bye in ("/bye", "/exit", "/quit", "/q"):
        session, source = sit(model, bye, "more")
        assert (session.is_over, source) == (True, ["more"])


def test_going_back(model: Model, capsys: pytest.CaptureFixture[str]) -> None:
    session, source = sit(model, "one", "two", "/undo", "three", "/edit", "four", "/edit five", "/retry", system="be")
    assert user(session) == ["one", "five"]
    assert source.begun == ["", "", "", "", "", "three", "", "", ""]
    assert "taken back: two" in told(capsys)
    session, _ = sit(model, "one", "/clear", "/undo", system="be")
    assert session.conversation.messages == [{"role": "system", "content": "be"}]


def test_an_answer_anew_is_another(model: Model) -> None:
    answers = set()
    for count in (0, 1, 2):
        session, _ = sit(model, "one", *["/retry"] * count, usual={"temperature": 50.0, "tokens": 20})
        assert user(session) == ["one"]
        answers.add(session.conversation.turns[-1]["content"])
    assert len(answers) == 3


def test_settings_are_changed(model: Model, capsys: pytest.CaptureFixture[str]) -> None:
    session, _ = sit(
        model,
        *(
            "/set tokens 2",
            "/set temprature 3",
            "/set top-k x",
            "/set top-p 7",
            "/set on-full drop",
            "/set temp 1.5",
            "/set temperature",
        ),
        *("/set min-p", "/set seed 5", "/set think off", '/set stop ["a", "b"]', "/set temperature default", "one"),
    )
    text = told(capsys)
    assert "no setting 'temprature'; did you mean temperature?" in text
    assert "top-k: not a whole number: 'x'" in text
    assert "top-p: out of range; expected above 0, at most 1; got 7.0" in text
    assert "min-p: default" in text
    assert "temperature: 1.5" in text
    args = session.args
    assert (args.tokens, args.on_full, args.top_k, args.top_p, args.seed) == (2, "drop", None, None, 5)
    assert (args.temperature, args.think, args.stop) == (None, False, ("a", "b"))
    assert len(session._last.result.tokens) == 2  # type: ignore[union-attr]
    sit(model, "/set", "/system be kind", '/system ""', "/system")
    text = told(capsys)
    assert re.search("^  tokens  +4  +tokens at most$", text, re.M)
    assert "system: be kind\nno system message" in text


def test_a_draft_model_is_set(model: Model, path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What it guesses changes no answer; another vocabulary, or no file, changes no setting."""
    tiny_gguf.write(tmp_path / "other.gguf", "F32", n_vocab=310)
    tokens, before = "/set tokens 20", []
    for words in ((), (f"/set draft {path}", "/set draft-tokens 4")):
        session, _ = sit(model, tokens, *words, "one", "two", usual={"temperature": 0.7, "tokens": 4, "seed": 1})
        before.append(session.conversation.messages)
    assert before[0] == before[1]
    assert session._last.result.accepted > 0  # type: ignore[union-attr]
    assert "guessed" not in told(capsys)
    wrong = (f"/set draft {tmp_path / 'other.gguf'}", f"/set draft {tmp_path / 'gone.gguf'}", "/set draft-tokens 0")
    session, _ = sit(model, f"/set draft {path}", *wrong, tokens, "one", "/stats", "/set draft default", "two")
    text = told(capsys)
    assert "the draft model has another vocabulary" in text
    assert "gone.gguf: No such file" in text
    assert re.search(r"20 tokens .*, guessed (\d+)/\1, first after", text)
    assert session._last.result.drafted == 0  # type: ignore[union-attr]


def test_files_are_read_into_messages(model: Model, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.txt").write_text("caf\n\n", encoding="utf-8")
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    (tmp_path / "zero").write_bytes(b"GGUF\0")
    (tmp_path / "empty").touch()
    names = ("a.txt", "a.txt what?", "latin.txt", "zero", "empty", "nosuch", "")
    session, _ = sit(model, *(f"/read {tmp_path / name if name else ''}" for name in names))
    assert user(session) == ["caf\n\n", "caf\n\nwhat?", "caf\ufffd"]
    text = told(capsys)
    for words in ("zero is no text", "empty is empty", "nosuch: No such file or directory", "which file?"):
        assert words in text


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="a system without such pipes")
def test_what_is_no_file_is_neither_read_nor_replaced(
    model: Model, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pipe that nobody writes to, and a device that never ends, would hold the conversation up."""
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe")
    Path("folder").mkdir()
    Path("deep.json").write_text("[" * 100_000)
    commands = [f"/{do} {name}" for do in ("load", "read", "save --overwrite") for name in ("pipe", "folder")]
    sit(model, "one", *commands, "/load /dev/zero", "/read /dev/zero", "/save /dev/full", "/load deep.json")
    text = told(capsys)
    assert text.count("pipe is no regular file") == text.count("folder is ") == 3
    assert text.count("/dev/zero is no regular file") == 2
    assert "/dev/full is no regular file; choose another name" in text
    assert "deep.json is no JSON" in text
    assert Path("pipe").is_fifo()


def test_conversations_are_kept(
    model: Model, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    first, _ = sit(model, "one", "/save a.json", "two", "/save a.json", "/save no/a.json", "/save", system="be")
    kept = json.loads((tmp_path / "a.json").read_text(encoding="utf-8"))["messages"]
    assert kept == first.conversation.messages[:3]
    text = told(capsys)
    assert "a.json is there already; /save --overwrite a.json replaces it" in text
    assert "no/a.json: No such file or directory" in text
    sit(model, "x", "/save --overwrite a.json")
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
    (tmp_path / "a.json").write_text(json.dumps({"messages": kept}))
    second, _ = sit(model, "lost", "/load a.json", "two")
    assert second.conversation.messages == first.conversation.messages


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "is no JSON"),
        ("[" * 100_000, "is no JSON"),
        ("{}", "not a conversation"),
        ('[{"role": "user"}]', "a message without content"),
        ('[{"role": "user", "content": [{"type": "text", "text": "x"}]}]', "user and assistant that are text"),
        ('[{"role": "tool", "content": "x"}]', "user and assistant that are text"),
        ('[{"role": "assistant", "content": "x"}]', "the user speaks first"),
        ('[{"role": "user", "content": "x"}, {"role": "system", "content": "y"}]', "user and assistant"),
    ],
)
def test_files_that_are_no_conversations(
    text: str, words: str, model: Model, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.json").write_text(text)
    session, _ = sit(model, "kept", f"/load {tmp_path / 'a.json'}", f"/load {tmp_path / 'nosuch'}")
    assert user(session) == ["kept"]
    text = told(capsys)
    assert words in text
    assert "nosuch: No such file or directory" in text


def test_a_template_that_refuses(model: Model, capsys: pytest.CaptureFixture[str]) -> None:
    session, _ = sit(model, "yes", "no", "yes")
    assert user(session) == ["yes", "yes"]
    assert "never; the message is taken back" in " ".join(told(capsys).split())


def test_turns_that_are_dropped(model: Model, capsys: pytest.CaptureFixture[str]) -> None:
    """The seed that is said is the one that is used: there is one for each answer, whatever was tried before."""
    settings = {"on_full": "drop", "seed": -1, "usual": {"temperature": 1.0, "tokens": 4}}
    session, _ = sit(model, *(letter * 200 for letter in "abc"), "d" * 600, **settings)
    assert user(session) == ["c" * 200]  # nothing is dropped for what does not fit alone
    text = told(capsys)
    assert text.count("dropped the oldest 1 turn") == 2
    assert len(re.findall("seed [0-9]+", text)) == 4


def test_figures(model: Model, capsys: pytest.CaptureFixture[str]) -> None:
    sit(model, "one", "/stats", "/set order zz")
    text = told(capsys)
    assert f"; {counted(model.threads, 'thread')}, " in text
    assert "\norder: unknown value; expected penalties, " in text
    assert "4 tokens (cut at --tokens 4), " in text
    assert "1 turn; " in text


# From a pipe


def piped(monkeypatch: pytest.MonkeyPatch, text: str) -> list[str]:
    monkeypatch.setattr(sys, "stdin", io.StringIO(text))
    return list(iter(lambda: Piped().ask(""), None))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "messages"),
    [
        ("one\n\nthree\n", ["one", "three"]),
        ("  one  \r\n\t\ntwo", ["  one  ", "two"]),
        ('"""a\n\nb"""\nc\n', ["a\n\nb", "c"]),
        ('"""\na\n"""\n"""b"""\n', ["a", "b"]),
        ('"""never ends\nhere', ["never ends\nhere"]),
        ("", []),
        ("\n\n", []),
    ],
)
def test_lines_are_messages(text: str, messages: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert piped(monkeypatch, text) == messages


def test_a_conversation_from_a_pipe(
    path: Path, model: Model, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("one\n\n/nosuch\n/set tokens 2\nthree\n"))
    if hasattr(os, "fork"):
        monkeypatch.setattr(template, "_run_anew", None)  # which takes a fifth of a second for each message
    assert main(["chat", str(path), "-n", "3", "--temp", "0"]) == 0
    monkeypatch.undo()
    out, err = capsys.readouterr()
    said = [{"role": "user", "content": "one"}]
    first = model.chat(said, 3).result().text
    said += [{"role": "assistant", "content": first}, {"role": "user", "content": "three"}]
    assert out == f"{first}\n{model.chat(said, 2).result().text}\n"
    assert err == "no command /nosuch; /help lists them (a message that begins with / is written with two)\n"


def test_a_conversation_as_json(
    path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("one\ntwo\n"))
    assert main(["chat", str(path), "-n", "3", "--system", "be", "--seed", "4", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert [message["role"] for message in document["messages"]] == ["system", *["user", "assistant"] * 2]
    assert [(each["finish_reason"], each["seed"], len(each["tokens"])) for each in document["answers"]] == [
        *[("length", 4, 3)] * 2
    ]
    texts = [message["content"] for message in document["messages"] if message["role"] == "assistant"]
    assert texts == [answer["text"] for answer in document["answers"]]


def test_nothing_from_a_pipe_is_said(
    path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n"))
    assert main(["chat", str(path)]) == 2
    assert capsys.readouterr() == ("", "gguflike chat: standard input is empty, so there is nothing to answer\n")


# How text is shown


class Tty(io.StringIO):
    def isatty(self) -> bool:
        return True


def shown(monkeypatch: pytest.MonkeyPatch, *pieces: str, wrap: bool = True) -> str:
    stream = Tty()
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setenv("COLUMNS", "20")
    writer = Screen(argparse.Namespace(wrap=wrap, color="never"))
    for piece in pieces:
        writer.write(piece)
    writer.end()
    return stream.getvalue()


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("often depicted as a fearsome beast", ["often depicted as a", "fearsome beast"]),
        ("exactly twenty chars and more", ["exactly twenty chars", "and more"]),
        ("a\n\n  b\tc", ["a", "", "  b\tc"]),
        ("x" * 45, ["x" * 45]),  # the terminal breaks what is no word
        ("ab " + "x" * 20 + " cd", ["ab ", "x" * 20, "cd"]),
        ("字" * 12, ["字" * 10, "字" * 2]),
        ("e\u0301" * 10 + " " + "e\u0301" * 10, ["e\u0301" * 10 + " ", "e\u0301" * 10]),
        ("```\n" + "code " * 8 + "\n```\n" + "word " * 5, ["```", "code " * 8, "```", "word word word word", "word "]),
    ],
)
def test_lines_are_broken_at_words(text: str, lines: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    want = "\n".join(lines) + "\n"
    assert shown(monkeypatch, text) == want
    assert shown(monkeypatch, *text) == want  # whatever its pieces
    assert shown(monkeypatch, text, wrap=False) == text + "\n"


def test_text_is_escaped_and_ends_its_line(monkeypatch: pytest.MonkeyPatch) -> None:
    assert shown(monkeypatch, "a\x1b[2J\x07b\n") == "a\\x1b[2J\\x07b\n"
    assert shown(monkeypatch) == ""


def test_what_is_thought_is_dim(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Tty()
    monkeypatch.setattr(sys, "stdout", stream)
    writer = Screen(argparse.Namespace(wrap=None, color="always"))
    writer.write("hm", dim=True)
    writer.write("yes")
    writer.end()
    assert stream.getvalue() == f"{DIM}hm\n{PLAIN}\nyes\n"
    stream.truncate(stream.seek(0))
    writer = Screen(argparse.Namespace(wrap=None, color="never"))
    writer.write("hm\n", dim=True)
    writer.write("yes")
    writer.end()
    assert stream.getvalue() == "[thinking]\nhm\n[answer]\nyes\n"


def test_what_is_thought_is_not_given_to_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    writer = Screen(argparse.Namespace(wrap=None, color=None))
    writer.write("hm", dim=True)
    writer.write("yes")
    writer.end()
    assert capsys.readouterr() == ("yes\n", "hm")


def test_thoughts_are_no_part_of_what_was_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A template ends within reasoning, which a stop text of its format ends."""
    template = "{% for m in messages %}{{ m.content }}{% endfor %}<think>{# </think> #}"
    tiny_gguf.write(tmp_path / "m.gguf", "F32", template=template, n_ctx=512)
    with gguflike.load(tmp_path / "m.gguf") as model:
        session, _ = sit(model, "one")
        assert session.conversation.turns[-1]["content"] == ""
    out, err = capsys.readouterr()
    assert (out, err != "") == ("", True)


def test_colors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    auto, always, never = (argparse.Namespace(color=color) for color in (None, "always", "never"))
    assert [is_colored(auto, stream) for stream in (Tty(), io.StringIO(), None)] == [True, False, False]
    assert (is_colored(always, io.StringIO()), is_colored(never, Tty())) == (True, False)
    monkeypatch.setenv("NO_COLOR", "1")
    assert (is_colored(auto, Tty()), is_colored(always, Tty())) == (False, True)
    monkeypatch.setenv("NO_COLOR", "")
    monkeypatch.setenv("TERM", "dumb")
    assert not is_colored(auto, Tty())


def test_columns_that_text_takes() -> None:
    assert [width(text) for text in ("abc", "字é", "e\u0301", "👍", "\u200d")] == [3, 3, 1, 2, 0]
    assert screen.FENCE == "```"
