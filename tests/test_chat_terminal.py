"""A conversation in a pseudo-terminal: keys, pastes, Ctrl-C, and what is left to the shell."""

from __future__ import annotations

import json
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("pty")

from tests import tiny_gguf
from tests.terminals import CTRL_C, CTRL_D, CTRL_Z, ENTER, ESCAPE, UP, Terminal, pasted

TEMPLATE = "{% for m in messages %}{{ m.role }}:{{ m.content }}|{% endfor %}"
#: The model says nothing but this letter.
SAYS = ("--logit-bias", f"{ord('a')}=1000000", "--temp", "0")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("terminal") / "m.gguf"
    tiny_gguf.write(path, "F32", template=TEMPLATE, n_ctx=20_000)
    return path


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("CONFIG", "STATE"):
        monkeypatch.setenv(f"XDG_{name}_HOME", str(tmp_path / name.lower()))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def said(path: Path) -> list[str]:
    """What the user said, by a file of /save."""
    found: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["messages"]
    return [message["content"] for message in found if message["role"] == "user"]


def answers(path: Path) -> list[str]:
    found: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["messages"]
    return [message["content"] for message in found if message["role"] == "assistant"]


def begun(model: Path, *options: object, **more: Any) -> Terminal:
    return Terminal("chat", model, *SAYS, *options, **more)


def ends_well(terminal: Terminal) -> None:
    """It ended by itself, the terminal is as before, the cursor at the beginning of a line, and nothing left over."""
    assert terminal.ends() == 0
    assert terminal.is_as_before
    assert terminal.left == b""
    assert "Traceback" not in terminal.text


def test_what_is_pasted_is_one_message(model: Path, home: Path) -> None:
    code = "def f(x):\n    return x\n\nWhat does this do?"
    with begun(model, "-n", 3) as terminal:
        terminal.wait_for("Ctrl-D leaves", ">")
        terminal.type(pasted(code) + ENTER)
        terminal.wait_for("aaa\n", r"3 tokens \(cut at --tokens 3\), .*first after \d+\.\d s, context \d+/20000")
        terminal.type(f"two{ESCAPE}{ENTER}lines{ENTER}")
        terminal.wait_for("aaa\n", "context")
        terminal.type(f'"""{ENTER}more{ENTER}{ENTER}lines"""{ENTER}')
        terminal.wait_for("aaa\n", "context")
        terminal.type(f"{UP}{ENTER}")  # the history
        terminal.wait_for("aaa\n", "context")
        terminal.type(f"/save all.json{ENTER}")
        terminal.wait_for("saved 8 messages in all.json", ">")
        terminal.type(CTRL_D)
        ends_well(terminal)
    assert said(home / "all.json") == [code, "two\nlines", "more\n\nlines", "more\n\nlines"]
    assert answers(home / "all.json") == ["aaa"] * 4
    assert terminal.raw.rstrip(" ").count("^[") == 0
    history = home / "state" / "gguflike" / "history"
    assert "+    return x" in history.read_text(encoding="utf-8").splitlines()
    assert (history.stat().st_mode & 0o777, history.parent.stat().st_mode & 0o777) == (0o600, 0o700)


def test_ctrl_c_never_ends_a_conversation(model: Path, home: Path) -> None:
    with begun(model, "-n", 19_000, "--no-history") as terminal:
        terminal.wait_for(">")
        terminal.type("half a mess" + CTRL_C)
        terminal.type(CTRL_C)
        terminal.wait_for("Ctrl-D or /bye leaves", ">")
        terminal.type(f"one{ENTER}")
        terminal.wait_for("aaaaaaaaaa")
        terminal.type(CTRL_C)
        terminal.wait_for(r"tokens \(stopped\)", ">")
        terminal.type(f"/save a.json{ENTER}")
        terminal.wait_for("saved 2 messages")
        terminal.type(f"/bye{ENTER}")
        ends_well(terminal)
    assert said(home / "a.json") == ["one"]
    assert set(answers(home / "a.json")[0]) == {"a"}
    assert not (home / "state").exists()


def test_what_is_typed_during_an_answer_is_the_next_message(model: Path, home: Path) -> None:
    with begun(model, "-n", 600) as terminal:
        terminal.wait_for(">")
        terminal.type(f"one{ENTER}")
        terminal.wait_for("aaaaaaaaaa")
        terminal.type(f"two{ENTER}" + pasted("three\n\nfour") + ENTER)
        answer = terminal.wait_for("600 tokens")
        assert set(answer.replace("\n", "")) <= set("a600 tokens")  # nothing is echoed into it
        terminal.wait_for("600 tokens", "600 tokens", ">")
        terminal.type(f"/save a.json{ENTER}")
        terminal.wait_for("saved 6 messages")
        terminal.type(f"/set tokens 20000{ENTER}five{ENTER}")
        terminal.wait_for("aaaaaaaaaa")
        terminal.type("rm -rf x\nls\n")  # and then it is ended from outside
        terminal.signal(signal.SIGTERM)
        assert terminal.ends() == 128 + signal.SIGTERM
        assert terminal.is_as_before
        assert terminal.left == b""
    assert said(home / "a.json") == ["one", "two", "three\n\nfour"]


def test_a_full_context_ends_nothing(model: Path, home: Path) -> None:
    with begun(model, "-n", 20, "--context", 100) as terminal:
        terminal.wait_for(">")
        for words in ("first words", "second words"):
            terminal.type(words + ENTER)
            terminal.wait_for("a\n", "context")
        terminal.type(f"third words{ENTER}")
        told = terminal.wait_for(r"the context of 100 tokens is full: the conversation takes 114", ">")
        assert "the message is taken back; /undo" in " ".join(told.split())
        assert "/set on-full drop" in " ".join(told.split())
        terminal.type(f"/set on-full drop{ENTER}")
        terminal.wait_for("/set on-full drop\n", ">")
        terminal.type(f"{UP}{UP}{ENTER}")
        terminal.wait_for("the context is full: dropped the oldest 1 turn", "a\n", "context")
        terminal.type(pasted("long " * 30) + ENTER)
        terminal.wait_for(r"this message\s+alone takes 1[0-9]+", "say less", ">")
        terminal.type(f"/save a.json{ENTER}")
        terminal.wait_for("saved 4 messages")
        terminal.type(CTRL_D)
        ends_well(terminal)
    assert said(home / "a.json") == ["second words", "third words"]


def test_answers_alone_go_to_standard_output(model: Path, home: Path) -> None:
    with (
        (home / "log").open("wb") as log,
        begun(model, "-n", 5, stdout=log.fileno(), NO_COLOR="1", PYTHONIOENCODING="ascii") as terminal,
    ):
        terminal.wait_for(">")
        terminal.type(f"one é{ENTER}")
        terminal.wait_for("5 tokens", ">")
        terminal.type(f"/nosuch{ENTER}")
        terminal.wait_for("no command /nosuch; /help lists them", ">")
        terminal.type(CTRL_D)
        ends_well(terminal)
    assert (home / "log").read_bytes() == b"aaaaa\n"
    assert "\x1b[2m" not in terminal.raw


def test_a_base_model_is_said_before_anything_is_asked(home: Path) -> None:
    tiny_gguf.write(home / "base.gguf", "F32")
    with Terminal("chat", "base.gguf") as terminal:
        terminal.type("what is typed too early\n")
        assert terminal.ends() == 1
        said = " ".join(terminal.text.split())
        assert "this is a base model" in said
        assert "gguflike run base.gguf continues one" in said
        assert (">" in terminal.text, terminal.is_as_before, terminal.left) == (False, True, b"")


def test_a_text_is_gone_on_with(model: Path, home: Path) -> None:
    with Terminal("run", model, *SAYS, "-n", 4) as terminal:
        terminal.wait_for("Begin a text, which the model continues", "`gguflike chat` talks to this model", ">")
        terminal.type(f"once{ENTER}")
        terminal.wait_for("aaaa\n", "4 tokens", "context 8/20000", ">")
        terminal.type(ENTER)
        terminal.wait_for("aaaa\n", "4 tokens", "context 12/20000", ">")
        terminal.type(f"/undo{ENTER}/undo{ENTER}")
        terminal.wait_for(r"taken back:\s*\n", "taken back: once")
        terminal.type(CTRL_D)
        ends_well(terminal)


def test_ctrl_c_while_kernels_are_compiled(model: Path, home: Path) -> None:
    with begun(model, GGUFLIKE_CACHE_DIR=str(home / "cache")) as terminal:
        terminal.wait_for(r"compiling kernels: \d+ of \d+ \|")
        terminal.type(CTRL_C)
        assert terminal.ends() == 130
        assert terminal.text.rstrip().endswith("interrupted")
        assert "Exception ignored" not in terminal.text
        assert terminal.is_as_before


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs a shell with jobs")
def test_ctrl_z_gives_the_shell_its_terminal_for_a_while(model: Path, home: Path) -> None:
    """The same at the prompt, where it is a key, and during an answer, where it is a signal."""
    shell = ["bash", "--norc", "--noprofile", "-i"]
    with Terminal(command=shell, PS1="shell$ ") as terminal:
        terminal.wait_for(r"shell\$")
        terminal.type(f"{sys.executable} -m gguflike chat {model} {' '.join(SAYS)} -n 19000\n")
        terminal.wait_for("Ctrl-D leaves", ">")
        terminal.type(CTRL_Z)
        terminal.wait_for("Stopped", r"shell\$")
        terminal.type("fg\n")
        terminal.wait_for("gguflike chat.*\n", ">")
        terminal.type(f"one{ENTER}")
        terminal.wait_for("aaaaaaaaaa")
        terminal.type(CTRL_Z)
        terminal.wait_for("Stopped", r"shell\$")
        terminal.type("echo 4$((1 + 1))\n")
        terminal.wait_for(r"\n42\n", r"shell\$")
        terminal.type("fg\n")
        terminal.wait_for("aaaaaaaaaa")
        terminal.type("echo never" + CTRL_C)
        terminal.wait_for(r"\(stopped\)", "echo never")  # it is the beginning of the next message
        terminal.type(CTRL_C + CTRL_D)
        assert "command not found" not in terminal.wait_for(r"shell\$")
        terminal.type("exit $((3 + 4))\n")
        assert terminal.ends() == 7


@pytest.mark.parametrize("kind", ["dumb", "vt100"])
def test_simple_terminals(kind: str, model: Path, home: Path) -> None:
    with begun(model, "-n", 3, TERM=kind) as terminal:
        terminal.wait_for(">")
        terminal.type(f"one{ENTER}")
        terminal.wait_for("aaa", "3 tokens")
        terminal.type(f"/bye{ENTER}")
        ends_well(terminal)
        assert ("\x1b[2m" in terminal.raw) == (kind != "dumb")


def test_history_that_cannot_be_kept_is_said(model: Path, home: Path) -> None:
    (home / "state").write_text("in the way")
    with begun(model, "-n", 3) as terminal:
        terminal.wait_for(
            r"what is typed is not kept:\s.*state/gguflike/history:\sNot\sa\sdirectory;\s--no-history", ">"
        )
        terminal.type(CTRL_D)
        ends_well(terminal)
