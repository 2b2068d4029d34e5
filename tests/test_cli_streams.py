"""Commands whose standard streams are closed, full or not in UTF-8, and what a full context says."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import gguflike
from gguflike.cli import main
from tests import tiny, tiny_gguf

TEMPLATE = "{% for m in messages %}{{ m.role }}:{{ m.content }}|{% endfor %}"
pytestmark = pytest.mark.skipif(os.name == "nt", reason="a POSIX shell closes the streams")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("streams") / "m.gguf"
    tiny_gguf.write(path, "F32", template=TEMPLATE)
    assert main(["run", str(path), "-p", "warm", "-n", "2"]) == 0  # kernels are compiled, and nobody hears of it below
    return path


def shell(line: str, stdin: bytes = b"", **environment: str) -> subprocess.CompletedProcess[bytes]:
    """Run ``gguflike LINE`` in a shell that may close or redirect its streams."""
    command = f'exec "$PYTHON" -m gguflike {line}'
    variables = os.environ | {"PYTHON": sys.executable, **environment}
    return subprocess.run(["/bin/sh", "-c", command], input=stdin, capture_output=True, env=variables, check=False)


@pytest.mark.parametrize(
    "command", ["inspect M", "verify M", "run M -p hi -n 2", "diff M M", "run M -p hi -n 2 --json"]
)
@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-", ">&- 2>&-"])
def test_closed_streams(command: str, closed: str, model: Path) -> None:
    done = shell(f"{command.replace('M', str(model))} {closed}")
    assert (done.returncode, done.stderr) == (0, b"")
    assert (done.stdout == b"") == (closed not in ("<&-", "2>&-"))


def test_closed_streams_leave_the_file_alone(tmp_path: Path) -> None:
    folder = tiny.checkpoint(tmp_path / "hf")
    gguflike.convert(folder, tmp_path / "a.gguf", "F32")
    done = shell(f"convert {folder} -o {tmp_path / 'b.gguf'} -t F32 <&- >&- 2>&-")
    assert done.returncode == 0
    assert (tmp_path / "b.gguf").read_bytes() == (tmp_path / "a.gguf").read_bytes()


@pytest.mark.parametrize(
    ("command", "status"), [("inspect nosuch", 1), ("inspect", 2), ("run nosuch -p hi", 1), ("nosuch", 2)]
)
@pytest.mark.parametrize("closed", ["2>&-", "<&- >&- 2>&-"])
def test_errors_without_a_place_to_say_them(command: str, status: int, closed: str) -> None:
    done = shell(f"{command} {closed}")
    assert (done.returncode, done.stdout, done.stderr) == (status, b"", b"")


@pytest.mark.parametrize("command", ["run M -p -", "chat M"])
def test_nothing_to_read_from(command: str, model: Path) -> None:
    done = shell(f"{command.replace('M', str(model))} <&-")
    assert done.returncode == 2
    assert done.stderr.startswith(f"gguflike {command.split()[0]}: standard input is closed".encode())
    assert done.stderr.count(b"\n") == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("command", ["inspect M", "run M -p hi -n 2", "verify M --json"])
def test_a_full_disk_is_one_line(command: str, model: Path) -> None:
    done = shell(f"{command.replace('M', str(model))} >/dev/full")
    assert done.returncode == 1
    assert done.stderr == f"gguflike {command.split()[0]}: No space left on device\n".encode()


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_bytes_that_are_no_text(encoding: str, model: Path) -> None:
    """What is not UTF-8 becomes "?", from standard input as from -p."""
    plain = json.loads(shell(f"run {model} -p 'caf? x' -n 3 --json").stdout)
    piped = shell(f"run {model} -p - -n 3 --json", b"caf\xe9 x", PYTHONIOENCODING=encoding)
    assert (piped.returncode, piped.stderr) == (0, b"")
    assert json.loads(piped.stdout)["tokens"] == plain["tokens"]
    assert json.loads(piped.stdout)["prompt_tokens"] == 6


def test_bytes_that_are_no_text_in_a_chat(model: Path) -> None:
    want = shell(f"chat {model} -n 3 --temp 0", b"caf?\n", PYTHONIOENCODING="utf-8")
    done = shell(f"chat {model} -n 3 --temp 0", b"caf\xe9\n", PYTHONIOENCODING="utf-8")
    assert (done.returncode, done.stderr, done.stdout) == (0, b"", want.stdout)
    assert want.stdout


# A context that is full, and settings out of range


@pytest.mark.parametrize(("context", "shown"), [(2, ""), (3, "text")])
def test_a_full_context_is_said(context: int, shown: str, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["run", str(model), "-p", "ab", "-n", "10", "--context", str(context)]
    assert main(arguments) == 0
    out, err = capsys.readouterr()
    assert bool(out) == bool(shown)
    assert err == f"the context of {context} tokens is full: nothing more fits; --context N sets a larger one\n"
    assert main([*arguments, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["finish_reason"] == "context"


def test_a_full_context_is_said_in_a_chat(model: Path) -> None:
    done = shell(f"chat {model} --context 10 --temp 0", b"abc\n")  # "user:abc|" takes nine
    assert done.returncode == 0
    assert done.stderr.startswith(b"the context of 10 tokens is full")


@pytest.mark.parametrize("option", ["--seed=-2", "--seed=1.5", "--top-p=0", "--min-p=1", "--temp=nan", "--temp=-1"])
def test_settings_out_of_range(option: str, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", str(model), "-p", "ab", "-n", "2", option]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "internal error" not in err


def test_an_empty_prompt(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", str(model), "-p", "", "-n", "2"]) == 2
    assert "give a prompt that is at least one token long" in capsys.readouterr().err


@pytest.mark.parametrize("value", ["abc", "4.0", "0", "-2", "2 3"])
@pytest.mark.parametrize("command", ["run M -p ab -n 2", "bench M", "diff M M", "quantize M {out} -t Q8_0"])
def test_a_number_of_threads_that_is_none(command: str, value: str, model: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.gguf"
    tiny_gguf.write(other, "Q8_0", seed=1)
    line = command.replace("M M", f"{model} {other}").replace("M", str(model)).format(out=tmp_path / "x.gguf")
    done = shell(line, GGUFLIKE_THREADS=value)
    assert (done.returncode, done.stdout if "quantize" not in line else b"") == (2, b"")
    *_, last = done.stderr.splitlines()  # a line about kernels that are compiled may come first
    assert last.startswith(b"gguflike ")
    assert b": GGUFLIKE_THREADS: " in last
    assert b"internal error" not in done.stderr
    assert not (tmp_path / "x.gguf").exists()
