"""The command line: what it prints, its exit status, and what it must not load."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gguflike
from gguflike import cli, demo, inspect
from gguflike.amounts import size
from gguflike.cli import COMMANDS, main, output
from gguflike.inspect.summary import summary
from tests import tiny

AUSTEN = Path(gguflike.__file__).parent / "data" / "austen-kjv-6m"
PACKAGE = [sys.executable, "-m", "gguflike"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cli") / "austen.gguf"
    gguflike.convert(AUSTEN, path, type="Q8_0")
    return path


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file that needs no kernel and no model."""
    path = tmp_path_factory.mktemp("cli") / "small.gguf"
    tensors = [gguflike.quantize(np.ones((2, 32)), "F32", name=f"blk.{i}.x") for i in range(3)]
    metadata = {"general.architecture": "llama", "evil.key\x1b[31m": "red\x1b[31m\n", "a.list": list(range(100))}
    gguflike.write(path, metadata, tensors)
    return path


def run_json(capsys: pytest.CaptureFixture[str], *arguments: object) -> Any:
    assert main([str(argument) for argument in (*arguments, "--json")]) == 0
    out, err = capsys.readouterr()
    assert but_compiling(err) == ""
    return json.loads(out)


def but_compiling(err: str) -> str:
    """What was said on standard error, but for whoever needs a kernel first, and signs of life on a slow machine."""
    return "".join(line for line in err.splitlines(keepends=True) if not re.match("compiling |.*: .* (s|left)$", line))


# Help, usage, errors


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"]) == 0
    out, _ = capsys.readouterr()
    assert out.startswith(f"usage: gguflike {command}")
    assert "--debug" in out
    assert main(["--help"]) == 0
    assert COMMANDS[command] in capsys.readouterr().out


@pytest.mark.parametrize("columns", ["", "100", "0", "-3", "wide"])
def test_help_is_as_wide_as_the_terminal(columns: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    assert output.columns() == shutil.get_terminal_size().columns


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"gguflike {gguflike.__version__}\n"


@pytest.mark.parametrize(
    "arguments",
    [
        ["frobnicate"],
        ["inspect"],
        ["inspect", "a", "--nosuch"],
        ["convert", "x"],
        ["convert", "x", "-o", "y", "-t", "Q9_K"],
        ["convert", "x", "-o", "y", "--tensor-type", "(=Q8_0"],
        ["quantize", "x", "y"],
        ["quantize", "x", "-t", "Q8_0"],
        ["run"],
        ["run", "x", "y", "-p", "z"],
        ["run", "x", "-p", "y", "-n", "-1"],
        ["run", "x", "-p", "y", "--temp", "hot"],
        ["run", "x", "-p", "y", "--top-p", "1.5"],
        ["bench", "x", "--threads", "0"],
    ],
)
def test_usage_errors_are_status_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "gguflike" in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    "arguments",
    [
        ["inspect", "{bad}"],
        ["inspect", "{bad}", "--json"],
        ["inspect", "{missing}"],
        ["inspect", "{folder}"],
        ["verify", "{missing}"],
        ["diff", "{bad}", "{bad}"],
        ["convert", "{folder}", "-o", "{missing}"],
        ["convert", "{folder}", "-o", "{missing}", "--dry-run"],
        ["quantize", "{bad}", "{missing}", "-t", "Q8_0"],
        ["export", "{bad}", "{missing}"],
        ["run", "{bad}", "-p", "x"],
        ["chat", "{bad}"],
        ["bench", "{missing}", "--json"],
    ],
)
def test_bad_files_are_status_1_and_one_line(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad, folder = tmp_path / "bad.gguf", tmp_path / "folder"
    bad.write_bytes(b"GGUF\x03\x00\x00\x00" + b"\xff" * 16)
    folder.mkdir()
    names = {"bad": bad, "folder": folder, "missing": tmp_path / "missing"}
    assert main([argument.format_map(names) for argument in arguments]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith(f"gguflike {arguments[0]}: ")
    assert str(tmp_path) in err
    assert not (tmp_path / "missing").exists()


def test_debug_shows_where(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        main(["inspect", str(tmp_path / "missing"), "--debug"])


def test_a_name_steers_no_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = f"{tmp_path}/a\x1b[2J.gguf"
    assert main(["inspect", name]) == 1
    assert main(["verify", name, name]) == 1
    err = capsys.readouterr().err
    assert "\x1b" not in err
    assert err.count(r"a\x1b[2J.gguf: No such file") == 3


def test_a_defect_is_one_line_too(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    import gguflike.container

    def broken(_path: str) -> None:
        raise ZeroDivisionError("by\nzero\x1b")

    monkeypatch.setattr(gguflike.container, "open", broken)
    assert main(["inspect", "x"]) == 1
    assert capsys.readouterr().err.startswith("gguflike inspect: internal error: ZeroDivisionError: by zero\\x1b;")


def test_interrupt(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    import gguflike.container

    def interrupted(_path: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(gguflike.container, "open", interrupted)
    assert main(["inspect", "x"]) == cli.INTERRUPTED
    assert capsys.readouterr().err == "interrupted\n"


# inspect, verify, diff


def test_inspect(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(small)]) == 0
    out = capsys.readouterr().out
    for text in ("3 tensors", "llama", "192", "32.000", "F32", "runs here"):
        assert text in out
    assert "blk.1.x" not in out
    assert main(["inspect", str(small), "--metadata"]) == 0
    out = capsys.readouterr().out
    assert "0, 1, 2, 3, 4, 5, 6, 7 (100 int32)" in out
    assert "\x1b" not in out  # what a file says must not steer the terminal
    assert r"evil.key\x1b[31m" in out
    assert main(["inspect", str(small), "--tensors"]) == 0
    assert "blk.1.x" in capsys.readouterr().out


def test_inspect_json_is_describe_and_the_summary(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    document = run_json(capsys, "inspect", small)
    with gguflike.open(small) as file:
        assert document == {**gguflike.describe(file), "summary": summary(file)} == inspect.document(file)


def test_verify(small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(small)]) == 0
    whole = size(small.stat().st_size)
    assert capsys.readouterr().out.startswith(
        f"good: {whole}, 768 bytes of it in 3 tensors; checked structure, values, metadata and the SHA"
    )
    assert run_json(capsys, "verify", small)["ok"] is True
    data = bytearray(small.read_bytes())
    data[-1] ^= 1
    (tmp_path / "bad.gguf").write_bytes(data)
    assert main(["verify", str(tmp_path / "bad.gguf")]) == 1
    assert "error: " in (out := capsys.readouterr().out)
    assert "blk.2.x" in out
    assert main(["verify", str(tmp_path / "bad.gguf"), "--json"]) == 1
    document = json.loads(capsys.readouterr().out)
    assert document["ok"] is False
    assert [finding["tensor"] for finding in document["findings"]] == ["blk.2.x"]


def test_diff(small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["diff", str(small), str(small)]) == 0
    assert capsys.readouterr().out == "identical\n"
    other = tmp_path / "other.gguf"
    tensors = [gguflike.quantize(np.ones(shape), "F32", name=f"blk.{i}.x") for i, shape in enumerate([(2, 32), (3, 3)])]
    gguflike.write(other, {"general.architecture": "llama", "b.new": 1}, tensors)
    assert main(["diff", str(small), str(other)]) == 1
    out = capsys.readouterr().out
    assert "tensor only in A: blk.2.x" in out
    assert "metadata only in B: b.new" in out
    assert "shapes differ" in out
    assert main(["diff", str(small), str(other), "--json"]) == 1
    document = json.loads(capsys.readouterr().out)
    assert document["identical"] is False
    assert document["tensors"][1]["relative"] is None


# convert, quantize, export


def test_convert_prints_the_plan(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out_path = tmp_path / "a.gguf"
    assert main(["convert", str(AUSTEN), "-t", "Q4_K_M", "--dry-run"]) == 0
    dry = capsys.readouterr().out
    assert "5,770,496 weights" in dry
    assert "bits per weight" in dry
    assert main(["convert", str(AUSTEN), "-o", str(out_path), "-t", "Q4_K_M", "--threads", "1"]) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[1:-1] == dry.splitlines()[1:]
    assert out.splitlines()[-1] == f"wrote {out_path}"
    with gguflike.open(out_path) as file:
        assert f"{file.file_bytes:,} bytes" in out
    again = run_json(capsys, "convert", AUSTEN, "-o", out_path, "-t", "q4_k_m", "--overwrite")
    assert (again["written"], again["type"], again["file_bytes"]) == (True, "Q4_K_M", out_path.stat().st_size)


def test_convert_lists_substitutions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "tiny"
    tiny.checkpoint(folder, hidden_size=64, vocab_size=260)
    document = run_json(capsys, "convert", folder, "-t", "Q4_K_M", "--dry-run")
    assert document["written"] is False
    substituted = document["substitutions"]
    assert {(row["wanted"], row["type"]) for row in substituted} == {("Q4_K", "Q5_0"), ("Q6_K", "Q8_0")}
    assert main(["convert", str(folder), "-t", "Q4_K_M", "--dry-run"]) == 0
    assert "substituted: " in capsys.readouterr().out


def test_quantize_and_export(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    smaller, folder = tmp_path / "q4.gguf", tmp_path / "hf"
    assert main(["quantize", str(model), str(smaller), "-t", "Q4_0", "--tensor-type", "attn_v=Q8_0"]) == 0
    assert "Q4_0: 5,770,496 weights" in capsys.readouterr().out
    with gguflike.open(smaller) as file:
        assert file.tensors["blk.3.attn_v.weight"].format.name == "Q8_0"
        assert file.tensors["blk.3.attn_q.weight"].format.name == "Q4_0"
    document = run_json(capsys, "export", model, folder, "--dtype", "bf16")
    assert (document["dtype"], document["written"]) == ("BF16", True)
    assert {path.name for path in folder.iterdir()} >= {"config.json", "tokenizer.json", "model.safetensors"}


# run, chat, bench, demo


def test_run(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    document = run_json(capsys, "run", model, "-p", "It is a truth", "-n", 8)
    assert list(document) == [
        *("text", "prompt_tokens", "tokens", "finish_reason", "context", "seed"),
        *("prefill_tokens_per_s", "decode_tokens_per_s"),
    ]
    assert document["finish_reason"] == "length"
    assert (document["prompt_tokens"], len(document["tokens"])) == (4, 8)
    assert main(["run", str(model), "-p", "It is a truth", "-n", "8"]) == 0
    assert capsys.readouterr().out == document["text"] + "\n"
    sampled = [run_json(capsys, "run", model, "-p", "It", "-n", 8, "--temp", 1, "--seed", 3)["text"] for _ in range(2)]
    assert sampled[0] == sampled[1]
    assert main(["run", str(model), "-p", "x", "--chat"]) == 1
    assert "no chat template" in capsys.readouterr().err


def test_chat(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "chat.gguf"
    template = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant:"
    with gguflike.open(model) as file:
        metadata = file.metadata.without("gguflike.").typed_dict() | {"tokenizer.chat_template": template}
        gguflike.write(path, metadata, file.tensors.values())
    monkeypatch.setattr(sys, "stdin", io.StringIO("Good day.\n\nIndeed?\n"))
    assert main(["chat", str(path), "-n", "5", "--temp", "0", "--system", "Speak plainly."]) == 0
    first, second = gguflike.load(path), []
    messages = [{"role": "system", "content": "Speak plainly."}]
    for words in ("Good day.", "Indeed?"):
        messages.append({"role": "user", "content": words})
        second.append(first.chat(messages, 5).result().text)
        messages.append({"role": "assistant", "content": second[-1]})
    assert capsys.readouterr().out == "".join(text + "\n" for text in second)


def test_bench(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sizes = ("--prompt-tokens", 16, "--new-tokens", 4, "--repeat", 1)
    document = run_json(capsys, "bench", model, *sizes, "--activations", "adaptive")
    assert document["activations"] == "adaptive"
    assert min(document[key] for key in ("load_s", "prefill_tokens_per_s", "decode_tokens_per_s")) > 0
    assert main(["bench", str(model), "--new-tokens", "2000"]) == 1
    assert "context" in capsys.readouterr().err


def test_demo(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    document = run_json(capsys, "demo", "--keep", tmp_path / "kept")
    rows = document["results"]
    assert [row["type"] for row in rows] == list(demo.TYPES) == ["Q8_0", "Q4_K_M", "Q2_K"]
    for key, rising in (("file_bytes", False), ("bits_per_weight", False), ("perplexity", True)):
        values = [row[key] for row in rows]
        assert values == sorted(values, reverse=not rising), key
    assert 30 < rows[0]["perplexity"] < 45
    assert document["best"] == "Q8_0"
    assert document["text"].startswith(demo.PROMPT)
    assert len(document["text"]) > 150
    assert [Path(row["path"]).stat().st_size for row in rows] == [row["file_bytes"] for row in rows]


# As a process


def test_looking_at_a_file_loads_no_compiler_and_no_network(small: Path) -> None:
    heavy = ("numba", "llvmlite", "huggingface_hub", "jinja2", "tokenizers", "tqdm", "safetensors")
    for arguments in (["inspect", str(small)], ["inspect", str(small), "--json"], ["verify", str(small)], ["--help"]):
        code = (
            "import sys\nfrom gguflike.cli import main\n"
            f"assert main({arguments!r}) == 0\n"
            f"print({{name.split('.')[0] for name in sys.modules}} & set({heavy!r}), file=sys.stderr)"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stderr == "set()\n"


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
def test_inspecting_stays_below_60_mib(tmp_path: Path) -> None:
    """As many tokens and merges as Llama 3 has."""
    path = tmp_path / "vocabulary.gguf"
    tokens = [f"token{i}" for i in range(128_256)]
    metadata = {"general.architecture": "llama", "tokenizer.ggml.tokens": tokens, "tokenizer.ggml.merges": tokens * 2}
    gguflike.write(path, metadata, [])
    code = (
        f"import sys\nfrom gguflike.cli import main\nassert main(['inspect', {str(path)!r}, '--json']) == 0\n"
        "status = open('/proc/self/status').read()\n"
        "print(status.partition('VmHWM:')[2].split()[0], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stderr) < 60 * 1024  # KiB at most


def test_closed_pipe_is_no_error(small: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([*PACKAGE, "inspect", str(small)], stdout=writer, stderr=subprocess.PIPE, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_ctrl_c_ends_with_one_line(model: Path) -> None:
    fcntl = pytest.importorskip("fcntl")
    command = [*PACKAGE, "run", str(model), "-p", "It is a truth", "-n", "3900", "--context", "4096"]
    with subprocess.Popen(
        command,
        bufsize=0,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # who runs the tests may ignore it
    ) as process:
        assert process.stdout is not None
        if hasattr(fcntl, "F_SETPIPE_SZ"):  # so small that it cannot be done before the signal comes
            fcntl.fcntl(process.stdout, fcntl.F_SETPIPE_SZ, 4096)
        assert process.stdout.read(1)  # it is writing
        time.sleep(0.5)  # as long as it likes
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert (process.returncode, but_compiling(err.decode())) == (cli.INTERRUPTED, "interrupted\n")


def test_output_that_cannot_be_encoded(small: Path) -> None:
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    for flags in ([], ["--json"]):
        command = [*PACKAGE, "inspect", str(small), *flags]
        done = subprocess.run(command, capture_output=True, env=environment, check=True)
        assert done.stdout.isascii()
    json.loads(done.stdout)


def test_a_process_of_its_own_spares_the_garbage_collector() -> None:
    """Neither a start nor the end looks through everything that a process holds."""
    code = "import gc; from gguflike import cli; cli.main = lambda: 3; print(cli.script(), gc.get_freeze_count() > 0)"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}; print(gc.get_threshold()[0])"], capture_output=True, text=True
    )
    assert done.stdout.split() == ["3", "True", "100000"]
