"""Converting from the Hub and running from it: the real client of huggingface_hub against a server of our own."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from huggingface_hub import constants

import gguflike
from gguflike import checkpoint
from gguflike.amounts import size
from gguflike.checkpoint import elsewhere, safetensors
from gguflike.checkpoint.hub import ahead, remote
from gguflike.cli import main
from gguflike.container import reader
from gguflike.convert import convert
from gguflike.errors import ArgumentError, ChangedError, CheckpointError, RemoteError, UnsupportedError
from gguflike.locate import locate, open_header
from tests import hub_server, test_lora, tiny, tiny_gguf
from tests.files import contents, sha256
from tests.hub_server import Hub
from tests.terminals import CTRL_C, Terminal


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    monkeypatch.setattr(remote, "PART", 1 << 12)
    monkeypatch.setattr(ahead, "WINDOW", 1 << 15)
    monkeypatch.setattr(safetensors, "FIRST_READ", 1 << 12)
    monkeypatch.chdir(tmp_path)
    with hub_server.in_use(monkeypatch, tmp_path) as running:
        yield running


def tensors(path: Path) -> dict[str, bytes]:
    return {name: tensor.data.tobytes() for name, tensor in tiny.gguf_tensors(path).items()}


def weights_on_disk(tmp_path: Path) -> list[Path]:
    return [path for path in (tmp_path / "hub").rglob("*.safetensors") if path.exists()]


# Converting


@pytest.mark.parametrize("shards", [1, 3])
def test_what_is_streamed_is_what_a_folder_gives(hub: Hub, tmp_path: Path, shards: int) -> None:
    folder = tiny.checkpoint(tmp_path / "Tiny-35K", "BF16", shards)
    commit = hub.repo("org/Tiny-35K", contents(folder))
    plan = convert("org/Tiny-35K", tmp_path / "streamed.gguf", "Q8_0")
    assert weights_on_disk(tmp_path) == []
    assert plan.source == "org/Tiny-35K"
    convert(folder, tmp_path / "local.gguf", "Q8_0")
    assert tensors(tmp_path / "streamed.gguf") == tensors(tmp_path / "local.gguf")
    fields = tiny.gguf_fields(tmp_path / "streamed.gguf")
    assert fields["gguflike.source"][1] == "org/Tiny-35K"
    assert fields["gguflike.source.revision"][1] == commit
    assert fields["general.source.repo_url"][1] == "https://huggingface.co/org/Tiny-35K"
    asked = len(hub.asked("/storage/"))
    convert("org/Tiny-35K", tmp_path / "kept.gguf", "Q8_0", cache=True)
    assert len(weights_on_disk(tmp_path)) == shards
    assert sha256(tmp_path / "kept.gguf") == sha256(tmp_path / "streamed.gguf")
    assert len(hub.asked("/storage/")) == asked + shards
    convert("org/Tiny-35K", tmp_path / "again.gguf", "Q8_0")  # what the cache has is not fetched
    assert sha256(tmp_path / "again.gguf") == sha256(tmp_path / "streamed.gguf")
    [snapshot] = (tmp_path / "hub").glob("models--*/snapshots/*")
    convert(snapshot, tmp_path / "folder.gguf", "Q8_0")
    assert sha256(tmp_path / "folder.gguf") == sha256(tmp_path / "streamed.gguf")
    assert len(hub.asked("/storage/")) == asked + shards


def test_a_branch_may_move_meanwhile(hub: Hub, tmp_path: Path) -> None:
    """All of a conversion is of the commit that was there when it began."""
    first = contents(tiny.checkpoint(tmp_path / "a", seed=1))
    other = contents(tiny.checkpoint(tmp_path / "b", seed=2))
    old = hub.repo("org/name", first)

    def move(handler: hub_server.Handler, body: bytes) -> None:
        hub.repos["org/name"].commit(other)
        handler.ranged(body, {})

    hub.fault("/storage/", move)
    assert main(["convert", "org/name", "-o", "moved.gguf", "-t", "F16"]) == 0
    assert convert("org/name", "new.gguf", "F16").metadata["gguflike.source.revision"] != old
    plan = convert(f"org/name@{old}", "old.gguf", "F16")
    assert plan.metadata["gguflike.source.revision"] == old
    assert sha256(tmp_path / "moved.gguf") == sha256(tmp_path / "old.gguf") != sha256(tmp_path / "new.gguf")
    with pytest.raises(ArgumentError, match="two revisions"):
        convert("org/name@main", "x.gguf", revision="other")


@pytest.mark.parametrize("fault", ["cut", "503", "429", "whole", "expired", "stalled"])
def test_faults_change_nothing(hub: Hub, tmp_path: Path, fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.3)
    hub.repo("org/name", contents(tiny.checkpoint(tmp_path / "folder")))
    convert("org/name", "good.gguf", "F16")
    remote._files.clear()
    expire = hub_server.status(403)
    does, times = {
        "cut": (hub_server.cut(1000), 20),
        "503": (hub_server.status(503), 5),
        "429": (hub_server.status(429, Retry_After="1"), 5),
        "whole": (hub_server.whole, 20),
        "expired": (expire, 1),
        "stalled": (hub_server.stall(0.5), 1),
    }[fault]
    hub.fault("/storage/", does, times, after=2)
    convert("org/name", "x.gguf", "F16")
    assert not hub.faults
    assert sha256(tmp_path / "x.gguf") == sha256(tmp_path / "good.gguf")


def test_what_cannot_be_had_leaves_nothing(hub: Hub, tmp_path: Path) -> None:
    hub.repo("org/name", contents(tiny.checkpoint(tmp_path / "folder")))
    (tmp_path / "x.gguf").write_bytes(b"mine")
    for fault, message in ((hub_server.cut(0), "the connection fails"), (hub_server.longer, "not what it was")):
        remote._files.clear()
        hub.fault("/storage/", fault, 99, after=3)
        with pytest.raises(RemoteError, match=message):
            convert("org/name", "x.gguf", "F16", overwrite=True, resume=False)
        hub.faults.clear()
    assert (tmp_path / "x.gguf").read_bytes() == b"mine"
    assert not list(tmp_path.glob(".gguflike-*"))


@pytest.mark.parametrize("shards", [1, 3])
def test_what_is_read_whole_is_compared_with_the_hubs_digest(hub: Hub, tmp_path: Path, shards: int) -> None:
    files = contents(tiny.checkpoint(tmp_path / "folder", shards=shards))
    hub.repo("org/name", files)
    body = files[sorted(name for name in files if name.endswith(".safetensors"))[-1]]
    hub.storage[hashlib.sha256(body).hexdigest()] = body[:-40_000] + bytes([body[-40_000] ^ 1]) + body[-39_999:]
    with pytest.raises(
        ChangedError, match=f"what was read is not what the Hub has; .*{hashlib.sha256(body).hexdigest()}"
    ):
        convert("org/name", "x.gguf", "F16")
    assert not [path for path in tmp_path.iterdir() if "gguf" in path.name]  # nor is anything kept to go on from
    del hub.storage[hashlib.sha256(body).hexdigest()]
    convert("org/name", "x.gguf", "F16")


def test_what_was_cut_off_goes_on(hub: Hub, tmp_path: Path) -> None:
    hub.repo("org/name", contents(tiny.checkpoint(tmp_path / "folder", shards=3)))
    convert("org/name", "whole.gguf", "F16")
    hub.fault("/storage/", hub_server.status(503), 999, after=25)
    with pytest.raises(RemoteError, match=r"7 times in a row; .* tensors are kept: the same command goes on from"):
        convert("org/name", "x.gguf", "F16")
    hub.faults.clear()
    hub.log.clear()
    plan = convert("org/name", "x.gguf", "F16")
    assert any("tensors are written already" in notice for notice in plan.notices)
    assert sha256(tmp_path / "x.gguf") == sha256(tmp_path / "whole.gguf")


@pytest.mark.parametrize("kind", [ThreadPoolExecutor, ProcessPoolExecutor])
def test_workers_read_by_themselves(hub: Hub, tmp_path: Path, kind: Any) -> None:
    hub.repo("org/name", contents(tiny.checkpoint(tmp_path / "folder", shards=2)))
    convert("org/name", "one.gguf", "F16")
    with kind(2) as executor:
        convert("org/name", "many.gguf", "F16", executor=executor)
    assert sha256(tmp_path / "many.gguf") == sha256(tmp_path / "one.gguf")


def test_offline_mode_takes_what_the_cache_has(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.repo("org/name", contents(tiny.checkpoint(tmp_path / "folder", shards=2)))
    convert("org/name", "x.gguf", "F16")
    hub.log.clear()
    elsewhere._names.clear()  # as in a process that begins offline
    with monkeypatch.context() as offline:
        offline.setattr(constants, "HF_HUB_OFFLINE", True)
        with pytest.raises(CheckpointError, match="shard is missing"):
            convert("org/name", "y.gguf", "F16")
        with pytest.raises(
            RemoteError, match="org/other: not in the cache, and offline mode is on; unset HF_HUB_OFFLINE"
        ):
            convert("org/other", "y.gguf", "F16")
    assert hub.log == []
    commit = hub.repos["org/name"].refs["main"]
    convert("org/name", "kept.gguf", "F16", cache=True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    convert(f"org/name@{commit}", "y.gguf", "F16")
    assert sha256(tmp_path / "y.gguf") == sha256(tmp_path / "x.gguf")


def test_a_process_obeys_its_environment(hub: Hub, tmp_path: Path) -> None:
    hub.repo("org/private", contents(tiny.checkpoint(tmp_path / "folder")), token="hf_secret")
    environment = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_XET": "1"}

    def convert_(**more: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "gguflike", "convert", "org/private", "--cache", "-t", "F16", "--overwrite"]
        env = {**os.environ, **environment, **more}
        return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=env, check=False)

    refused = convert_()
    assert refused.returncode == 1
    assert "org/private: there is no such repository, or it is private; check the name" in refused.stderr
    done = convert_(HF_TOKEN="hf_secret")
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "wrote private-F16.gguf"), done.stderr
    assert "fetching model.safetensors, 143.2 kB" in done.stderr
    assert list((tmp_path / "home" / "hub" / "models--org--private").glob("snapshots/*/model.safetensors"))
    first = sha256(tmp_path / "private-F16.gguf")
    hub.log.clear()
    assert convert_(HF_HUB_OFFLINE="1").returncode == 0
    assert hub.log == []
    assert sha256(tmp_path / "private-F16.gguf") == first


def test_a_dry_run_reads_headers_only(hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    big = {"model.embed_tokens.weight": np.ones((20_000, 32), "f4"), "lm_head.weight": np.ones((20_000, 32), "f4")}
    hub.repo("org/big", contents(tiny.checkpoint(tmp_path / "folder", change=big, vocab_size=20_000)))
    assert main(["convert", "org/big", "--dry-run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["source"] == "org/big"
    sent = sum(
        int(span.split("-")[1]) - int(span.split("=")[1].split("-")[0]) + 1 for span in hub.asked("/storage/") if span
    )
    assert sent <= 1 << 18


def test_adapters_come_from_the_hub_too(hub: Hub, tmp_path: Path) -> None:
    base = tiny.checkpoint(tmp_path / "base")
    lora = test_lora.adapter(tmp_path / "lora", test_lora.factors("model.layers.0.self_attn.q_proj", 32, 32))
    hub.repo("org/base", contents(base))
    hub.repo("org/lora", contents(lora))
    convert("org/base", "streamed.gguf", "F32", lora=["org/lora"])
    convert(base, "local.gguf", "F32", lora=[lora])
    assert tensors(tmp_path / "streamed.gguf") == tensors(tmp_path / "local.gguf")
    convert("org/lora", "alone.gguf", "F32", base="org/base")
    convert(lora, "local-alone.gguf", "F32", base=base)
    assert tensors(tmp_path / "alone.gguf") == tensors(tmp_path / "local-alone.gguf")
    assert weights_on_disk(tmp_path) == []


def test_what_is_no_checkpoint(hub: Hub, tmp_path: Path) -> None:
    hub.repo("org/data", {"x.parquet": b"1"})
    with pytest.raises(RemoteError, match=r"org/data: the repository holds no model; expected .*; got x.parquet"):
        convert("org/data", "x.gguf")
    hub.repo("org/gguf", {"x.gguf": b"1", "config.json": b"{}"})
    with pytest.raises(RemoteError, match=r"holds GGUF files, and no checkpoint; got x.gguf; .*gguflike run org/gguf"):
        convert("org/gguf", "x.gguf")
    with pytest.raises(RemoteError, match="org/none: there is no such repository, or it is private"):
        convert("org/none", "x.gguf")
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        convert("a/b/c", "x.gguf")
    with pytest.raises(UnsupportedError, match="names no model"):
        convert("hf://datasets/org/name", "x.gguf")
    folder = tiny.checkpoint(tmp_path / "org" / "local")
    hub.log.clear()
    assert checkpoint.open("org/local").folder == Path("org/local")  # a folder wins
    assert hub.log == []
    assert folder.is_dir()


# Running


GGUFS = {
    "Model-Q2_K.gguf": "a",
    "Model-Q4_K_M.gguf": "b",
    "Model-Q8_0.gguf": "c",
    "UD/Model-UD-Q4_K_XL.gguf": "d",
    "BF16/Model-BF16-00001-of-00002.gguf": "e",
    "BF16/Model-BF16-00002-of-00002.gguf": "f",
    "mmproj-Model-F16.gguf": "g",
    "Model-imatrix.gguf": "h",
    "A-mmproj.gguf": "i",
    "README.md": "j",
}


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("org/m", "Model-Q4_K_M.gguf"),
        ("org/m:Q8_0", "Model-Q8_0.gguf"),
        ("org/m:q2_k", "Model-Q2_K.gguf"),
        ("org/m:ud-q4_k_xl", "UD/Model-UD-Q4_K_XL.gguf"),
        ("org/m:Q4_K_XL", "UD/Model-UD-Q4_K_XL.gguf"),
        ("org/m:bf16", "BF16/Model-BF16-00001-of-00002.gguf"),
        ("org/m:Model-Q8_0.gguf", "Model-Q8_0.gguf"),
        ("org/m:model-q8", "Model-Q8_0.gguf"),
        ("hf://org/m/Model-Q2_K.gguf", "Model-Q2_K.gguf"),
        ("hf://org/m@main/mmproj-Model-F16.gguf", "mmproj-Model-F16.gguf"),
        ("hf://org/m/BF16/Model-BF16-00002-of-00002.gguf", "BF16/Model-BF16-00001-of-00002.gguf"),
        ("https://huggingface.co/org/m/blob/main/Model-Q8_0.gguf", "Model-Q8_0.gguf"),
    ],
)
def test_which_file_a_name_stands_for(hub: Hub, name: str, file: str) -> None:
    hub.repo("org/m", {path: text.encode() for path, text in GGUFS.items()})
    path = Path(locate(name))
    assert path.as_posix().endswith(f"/snapshots/{hub.repos['org/m'].refs['main']}/{file}")
    assert path.read_text() == GGUFS[file]
    others = [each for each in GGUFS if "BF16" in each] if "BF16" in file else [file]
    assert sorted(each.name for each in path.parent.glob("*.gguf")) == sorted(Path(each).name for each in others)


def test_which_file_where_the_usual_ones_are_missing(hub: Hub) -> None:
    hub.repo("org/a", {"x-Q8_0.gguf": b"1", "x-Q2_K.gguf": b"2"})
    hub.repo("org/b", {"b.gguf": b"1", "a.gguf": b"2"})
    assert Path(locate("org/a")).name == "x-Q8_0.gguf"
    assert Path(locate("org/b")).name == "a.gguf"


def test_names_that_stand_for_nothing(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.repo("org/m", {path: text.encode() for path, text in GGUFS.items()})
    hub.repo("org/base", {"model.safetensors": b"", "config.json": b"{}"})
    hub.repo("org/cut", {"x-00001-of-00002.gguf": b""})
    for name, message in (
        (
            "org/m:Q4_K_S",
            r"no type of that name; expected one of BF16, Q2_K, Q4_K_M, .*; got 'Q4_K_S'; did you mean Q4_K_M\?",
        ),
        ("hf://org/m/Model-Q4KM.gguf", r"no file of that name; expected one of .*; did you mean Model-Q4_K_M.gguf\?"),
        ("org/base", "no GGUF file of a model; .*; convert it: gguflike convert org/base -o model.gguf"),
        (
            "org/cut",
            "shards of the model are missing in the repository; expected 2 files; got no x-00002-of-00002.gguf",
        ),
        ("org/none", "no such file here, and on the Hub there is no such repository, or it is private; check the name"),
    ):
        with pytest.raises(RemoteError, match=message):
            locate(name)
    with monkeypatch.context() as gone:
        gone.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
        with pytest.raises(RemoteError, match="org/m: no such file here, and the Hub cannot be reached"):
            locate("org/m")
        with pytest.raises(RemoteError, match="org/m: the Hub cannot be reached"):
            locate("hf://org/m")
    hub.log.clear()
    for path in ("x.gguf", "org/m.gguf", "./org/m", "a/b/c.gguf"):
        assert locate(path) == path
        with pytest.raises(FileNotFoundError, match="No such file"):
            gguflike.open(path)
    (tmp_path / "org").mkdir()
    (tmp_path / "org" / "m").touch()
    assert locate("org/m") == "org/m"  # a path wins
    assert locate(Path("org/none")) == Path("org/none")
    assert hub.log == []


def test_commands_take_names(
    hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tmp_path / "tiny.gguf"
    tiny_gguf.write(model)
    hub.repo("org/tiny", {"tiny-F32.gguf": model.read_bytes()})
    assert main(["inspect", "org/tiny", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert main(["inspect", str(model), "--json"]) == 0
    assert document == json.loads(capsys.readouterr().out)
    assert not list((tmp_path / "hub").rglob("*.gguf"))  # the header was read, and the file is not here
    assert main(["run", str(model), "-p", "a", "-n", "4"]) == 0  # after which nothing is compiled
    text = capsys.readouterr().out
    for name, told in (("org/tiny:f32", "fetching tiny-F32.gguf, "), ("hf://org/tiny/tiny-F32.gguf", "")):
        assert main(["run", name, "-p", "a", "-n", "4"]) == 0
        printed = capsys.readouterr()
        assert printed.out == text
        assert printed.err.startswith(told)
    assert main(["verify", "org/tiny"]) == 0
    assert "good" in capsys.readouterr().out
    hub.files["/m.gguf"] = model.read_bytes()
    assert main(["verify", f"{hub.storage_url}/m.gguf"]) == 0
    first, *more = capsys.readouterr().err.splitlines()
    assert first == f"fetching m.gguf, {size(model.stat().st_size)}"
    assert all(line.startswith("fetching m.gguf: ") for line in more)  # signs of life, where the machine is busy
    with monkeypatch.context() as offline:
        offline.setattr(constants, "HF_HUB_OFFLINE", True)
        assert main(["run", "org/tiny", "-p", "a", "-n", "4"]) == 0
        assert capsys.readouterr().out == text
    with gguflike.load("org/tiny") as loaded, gguflike.open("org/tiny") as opened:
        assert loaded.path == opened.path
    assert main(["quantize", "org/tiny", "-t", "F16"]) == 0
    assert main(["quantize", str(model), "local.gguf", "-t", "F16"]) == 0
    assert main(["diff", "tiny-F16.gguf", "local.gguf"]) == 1
    assert capsys.readouterr().out.endswith("0 of 21 common tensors differ\n")  # only the name of the source does
    assert main(["diff", "org/tiny", str(model)]) == 0
    assert capsys.readouterr().out.endswith("identical\n")
    assert main(["export", "org/tiny", "folder"]) == 0
    assert main(["convert", "folder", "--dry-run"]) == 0
    capsys.readouterr()
    assert main(["inspect", "org/tiny:Q4_K_M"]) == 1
    assert "expected one of F32; got 'Q4_K_M'" in capsys.readouterr().err


def test_inspecting_what_is_elsewhere_reads_the_header_only(
    hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And so does planning what could be made of it."""
    monkeypatch.setattr(remote, "PART", 1 << 20)
    monkeypatch.setattr(reader, "FIRST_READ", 1 << 16)
    metadata = {"general.architecture": "llama", "tokenizer.ggml.tokens": [f"token {i}" for i in range(20_000)]}
    big = gguflike.quantize(np.zeros((512, 1024), "f4"), "F32", name="token_embd.weight")
    gguflike.write(tmp_path / "big.gguf", metadata, [big])
    body = (tmp_path / "big.gguf").read_bytes()
    hub.files["/big.gguf"] = body
    hub.repo("org/big", {"big.gguf": body})
    for name in (f"{hub.storage_url}/big.gguf", "org/big"):
        with open_header(name) as file, gguflike.open(tmp_path / "big.gguf") as local:
            assert dict(file.infos) == dict(local.infos)
            assert file.metadata["tokenizer.ggml.tokens"] == local.metadata["tokenizer.ggml.tokens"]
            assert file.file_bytes == local.file_bytes
            with pytest.raises(UnsupportedError, match="only the header of the file was fetched; download the file"):
                _ = file.tensors["token_embd.weight"]
        assert main(["quantize", name, "Q8_0", "--dry-run"]) == 0
        planned = capsys.readouterr().out
        assert main(["quantize", "big.gguf", "Q8_0", "--dry-run"]) == 0
        assert planned == capsys.readouterr().out
    assert not list((tmp_path / "hub").rglob("*.gguf"))
    assert [path.name for path in tmp_path.glob("*.gguf")] == ["big.gguf"]
    spans = hub.asked("/storage/") + hub.asked("/big.gguf")
    sent = sum(int(span.split("-")[1]) - int(span.split("=")[1].split("-")[0]) + 1 for span in spans if span)
    assert sent < len(body)
    hub.files["/cut.gguf"] = body[:10_000]
    with pytest.raises(gguflike.GGUFError, match="count is larger than the file can hold"):
        open_header(f"{hub.storage_url}/cut.gguf")
    hub.files["/page.gguf"] = b"<html>"
    with pytest.raises(gguflike.GGUFError, match="web page"):
        open_header(f"{hub.storage_url}/page.gguf")


@pytest.mark.parametrize("arguments", [("run", "MODEL", "Hello"), ("chat", "MODEL"), ("verify", "MODEL")])
def test_ctrl_c_ends_a_download(hub: Hub, tmp_path: Path, arguments: tuple[str, ...]) -> None:
    hub.repos["org/g"] = hub_server.Repo()
    hub.repos["org/g"].commit({"m.gguf": bytes(1 << 16)})
    hub.fault("/storage/", hub_server.stall(60), times=9)
    environment = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_XET": "1"}
    command = [each.replace("MODEL", "hf://org/g/m.gguf") for each in arguments]
    with Terminal(*command, **environment) as terminal:
        terminal.wait_for("fetching m.gguf")
        terminal.type(CTRL_C)
        assert terminal.ends() == 130
        assert "interrupted" in terminal.text
        assert "Traceback" not in terminal.text
        assert terminal.is_as_before
    assert not [path for path in (tmp_path / "home").rglob("*.gguf") if path.exists()]


def test_a_path_imports_no_client() -> None:
    code = (
        "import sys, gguflike.locate, gguflike.runner.model, gguflike.verify.verification\n"
        "for name in ('x.gguf', sys.executable): gguflike.locate.locate(name)\n"
        "clients = {'huggingface_hub', 'httpx', 'httpx2', 'urllib.request', 'concurrent.futures', 'ssl'}\n"
        "print(clients & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


@pytest.mark.parametrize(
    ("name", "fetched"),
    [
        *((name, True) for name in ("config.json", "README.md", "tokenizer.model.v3", "tokenizer.model.v11")),
        *((name, True) for name in ("additional_chat_templates/rag.jinja", "1_Pooling/config.json")),
        *((name, False) for name in ("model.safetensors", "onnx/config.json", "tokenizer.model.voice", "LICENSE")),
    ],
)
def test_small_files_of_a_repository(name: str, fetched: bool) -> None:
    from gguflike.checkpoint.hub import repository

    assert repository._is_small(name, 1000) is fetched
    assert not repository._is_small(name, 2**33)
