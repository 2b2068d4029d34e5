"""Commands that look at files, and what the program says of itself."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import gguflike
from gguflike.cli import COMMANDS, main
from gguflike.cli.completion import SHELLS, commands
from gguflike.inspect import document
from gguflike.progress import READING
from tests import tiny_gguf


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file that needs no kernel and no model."""
    path = tmp_path_factory.mktemp("files") / "small.gguf"
    tensors = [gguflike.quantize(np.ones((2, 32)), "F32", name="blk.0.x")]
    metadata = {
        **{"general.architecture": "llama", "tokenizer.chat_template": "{% if a %}\n\x1b[31m" + "x" * 200},
        **{"tokenizer.ggml.tokens": [f"token{i}" for i in range(300)], "a.list": list(range(60))},
    }
    gguflike.write(path, metadata, tensors)
    return path


class Tty(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_values_are_cut_to_the_screen(
    small: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    screen = Tty()
    monkeypatch.setenv("COLUMNS", "60")
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", screen)
        assert main(["inspect", str(small), "--metadata"]) == 0
    metadata = screen.getvalue().partition("metadata\n")[2].partition("\n\n")[0].splitlines()
    assert len(metadata) >= 4
    assert max(map(len, metadata)) == 60
    assert any(line.endswith("… (300 string)") for line in metadata)
    assert main(["inspect", str(small), "--metadata"]) == 0  # in a pipe, as long as they may be
    assert max(map(len, capsys.readouterr().out.splitlines())) > 80


def test_metadata_in_full(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(small), "--key", "tokenizer.*", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["tokenizer.ggml.tokens"] == [f"token{i}" for i in range(300)]
    assert document["tokenizer.chat_template"].endswith("x" * 200)
    assert main(["inspect", str(small), "--key", "tokenizer.chat_template"]) == 0
    assert capsys.readouterr().out == "{% if a %}\n\\x1b[31m" + "x" * 200 + "\n"
    assert main(["inspect", str(small), "--key", "*a.l*"]) == 0
    assert capsys.readouterr().out == str(list(range(60))) + "\n"
    assert main(["inspect", str(small), "--key", "tokenizer.chat_templ"]) == 1
    assert "no such metadata; did you mean tokenizer.chat_template?" in capsys.readouterr().err


def test_several_files(small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = bytearray(small.read_bytes())
    data[-1] ^= 1
    bad, broken = tmp_path / "bad.gguf", tmp_path / "broken.gguf"
    bad.write_bytes(data)
    broken.write_bytes(b"GGUF" + b"\xff" * 20)
    missing = tmp_path / "missing"
    assert main(["verify", str(small), str(missing), str(bad), str(small)]) == 1
    out, err = capsys.readouterr()
    assert [line.split(": ")[1] for line in out.splitlines() if ".gguf: " in line and "SHA-256 of" in line] == [
        *("good", "BAD", "good")
    ]
    assert err == f"gguflike verify: {missing}: No such file or directory\n"
    assert main(["inspect", str(small), str(broken), str(small), "--json"]) == 1
    out, err = capsys.readouterr()
    with gguflike.open(small) as file:
        assert json.loads(out) == [document(file)] * 2
    assert err.startswith(f"gguflike inspect: {broken}, byte ")
    assert main(["verify", str(small), str(small), "--json"]) == 0
    assert [each["ok"] for each in json.loads(capsys.readouterr().out)] == [True, True]
    assert main(["inspect", str(small), "--tensors", str(small), "--key", "a.list"]) == 0
    assert capsys.readouterr().out.count("small.gguf:\n[0, 1, ") == 2


def test_a_file_has_one_size(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sizes = []
    for command in ("inspect", "verify"):
        assert main([command, str(small), "--json"]) == 0
        sizes.append(json.loads(capsys.readouterr().out)["file_bytes"])
    assert sizes == [small.stat().st_size] * 2


def test_what_is_there_is_replaced_by_nobody_unasked(
    small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And before a plan is shown it is known whether its file can be written."""
    target, folder = tmp_path / "t.gguf", tmp_path / "deep" / "down" / "t.gguf"
    assert main(["quantize", str(small), str(folder), "COPY"]) == 0
    assert folder.exists()
    target.write_bytes(b"mine")
    (tmp_path / "dir").mkdir()
    (tmp_path / "dir" / "config.json").touch()
    capsys.readouterr()
    export = ["export", small, tmp_path / "dir", "--generic"]
    lines = (["quantize", small, target, "COPY"], export)
    for line in lines:
        assert main([str(word) for word in line]) == 1
        out, err = capsys.readouterr()
        assert (out, "--overwrite" in err) == ("", True), line
    assert target.read_bytes() == b"mine"
    assert main(["quantize", str(small), str(small / "x.gguf"), "COPY"]) == 1
    assert capsys.readouterr().out == ""


def test_what_memory_gives_is_measured_on_as_many_bytes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from gguflike.runner import bench

    asked = []

    def limits(threads: int, repeat: int, read_bytes: int) -> tuple[float, float]:
        asked.append(read_bytes)
        return 1.0, 2.0

    monkeypatch.setattr(bench, "machine_limits", limits)
    tiny_gguf.write(tmp_path / "m.gguf", "F32")
    arguments = ["bench", str(tmp_path / "m.gguf"), "--prompt-tokens", "8", "--new-tokens", "2", "--repeat", "1"]
    assert main([*arguments, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert asked == [document["weight_bytes"]] == [document["machine_read_bytes"]]
    assert main(arguments) == 0
    assert "; the machine can 1.0, " in capsys.readouterr().out
    monkeypatch.setattr(bench, "READ_BYTES", 1 << 20)
    monkeypatch.undo()
    assert min(bench.machine_limits(1, 1, 5000)) > 0  # less than one round of reading


def test_the_prompt_is_counted(tmp_path: Path) -> None:
    tiny_gguf.write(tmp_path / "m.gguf", "F32", n_ctx=2000)
    heard: list[tuple[int, int, str]] = []
    with gguflike.load(tmp_path / "m.gguf") as model:
        model.generate("x" * 1200, 1, progress=lambda *said: heard.append(said)).result()
        assert heard == [(0, 1200, READING), (512, 1200, READING), (1024, 1200, READING)]
        heard.clear()
        model.generate("y" * 500, 1, progress=lambda *said: heard.append(said)).result()
        assert heard == []


# What the program says of itself


def test_alone_it_says_how_to_begin(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", "/c")
    assert main([]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    for name, line in COMMANDS.items():
        assert f"  {name:10}  {line}\n" in out
    for word in ("gguflike demo", "gguflike chat org/repo", "GGUFLIKE_THREADS", "/c/gguflike/config.toml", "NO_COLOR"):
        assert word in out
    assert max(map(len, out.splitlines())) <= 80


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["help"]) == 0
    everything = capsys.readouterr().out
    assert main(["--help"]) == 0
    assert capsys.readouterr().out == everything
    assert main(["help", "verify"]) == 0
    assert capsys.readouterr().out.startswith("usage: gguflike verify FILE [FILE ...] [options]\n")
    assert main(["-V"]) == 0
    assert capsys.readouterr().out == f"gguflike {gguflike.__version__}\n"
    assert main(["help", "verfy"]) == 2
    assert "did you mean verify?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "usage", "words"),
    [
        ("run x --stopp y", "run [MODEL] [PROMPT ...] [options]", "unrecognized arguments: --stopp"),
        ("chat x --sytem y", "chat [MODEL] [options]", "did you mean --system?"),
        ("bench x --threads 0", "bench FILE [options]", "argument --threads: 0 is not 1 or more"),
        ("bench x --threads many", "bench FILE [options]", "argument --threads: not a whole number: 'many'"),
        ("tune", "tune SRC -o OUT --text F --held-out F [options]", "the following arguments are required"),
        ("completion tcsh", "completion bash|zsh|fish [options]", "invalid choice: 'tcsh'"),
    ],
)
def test_usage_errors_show_how_the_command_is_used(
    line: str, usage: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(line.split()) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"usage: gguflike {usage}\ngguflike ")
    assert words in err


def test_debug_may_stand_in_front(tmp_path: Path) -> None:
    for arguments in (["--debug", "inspect", str(tmp_path / "x")], ["inspect", str(tmp_path / "x"), "--debug"]):
        with pytest.raises(FileNotFoundError):
            main(arguments)


@pytest.mark.parametrize("shell", SHELLS)
def test_completion_knows_all_commands_and_options(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert {each.name for each in commands()} == {*COMMANDS, "help"}
    for each in commands():
        assert each.name in script
        for option in each.options:
            for name in option.names:
                assert (name if shell != "fish" or not name.startswith("--") else f"-l {name[2:]}") in script or (
                    shell == "fish" and f" {name[1:]}" in script
                )


def complete(*words: str) -> list[str]:
    """What bash offers at the end of these words."""
    script = (
        'source <("$0" -m gguflike completion bash); COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _gguflike; '
        'printf "%s\\n" "${COMPREPLY[@]}"'
    )
    done = subprocess.run(["bash", "-c", script, sys.executable, *words], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return done.stdout.split()


def test_completion_in_bash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my model.gguf").touch()
    assert complete("gguflike", "qu") == ["quantize"]
    assert complete("gguflike", "run", "--cache-") == ["--cache-type"]
    assert complete("gguflike", "run", "--cache-type", "q") == ["q8_0"]
    assert complete("gguflike", "help", "ver") == ["verify"]
    assert complete("gguflike", "inspect", "my") == ["my", "model.gguf"]


def test_completion_loads_nothing_heavy() -> None:
    code = (
        "import sys\nfrom gguflike.cli.completion import commands\ncommands()\n"
        "print({'numba', 'prompt_toolkit', 'starlette', 'uvicorn', 'jinja2'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
