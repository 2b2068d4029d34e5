"""Nothing that a command reads is ever its target, by whatever name."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest

from gguflike.cli import main
from gguflike.convert import convert, export, quantize_file
from gguflike.errors import OutputError
from tests import tiny
from tests.imatrix_files import imatrix_dat, imatrix_gguf

NAMES = (
    *("config.json", "generation_config.json", "model.safetensors.index.json", "model-00002-of-00002.safetensors"),
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "tokenizer.model"),
    *("chat_template.json", "chat_template.jinja", "additional_chat_templates/rag.jinja", "README.md", "LICENSE"),
)

Alias = Callable[[Path, Path], "str | Path"]


def itself(path: Path, folder: Path) -> Path:
    return path


def symbolic(path: Path, folder: Path) -> Path:
    (folder / "link.gguf").symlink_to(path)
    return folder / "link.gguf"


def chain(path: Path, folder: Path) -> Path:
    (folder / "second.gguf").symlink_to(symbolic(path, folder))
    return folder / "second.gguf"


def hard(path: Path, folder: Path) -> Path:
    os.link(path, folder / "hard.gguf")
    return folder / "hard.gguf"


def hard_beside(path: Path, folder: Path) -> Path:
    return hard(path, path.parent)


def through_a_folder_link(path: Path, folder: Path) -> Path:
    (folder / "there").symlink_to(path.parent)
    return folder / "there" / path.name


def roundabout(path: Path, folder: Path) -> str:
    return f"{path.parent}/../{path.parent.name}/./{path.name}"


def relative(path: Path, folder: Path) -> str:
    return os.path.relpath(path)


def by_descriptor(path: Path, folder: Path) -> str:
    descriptor = os.open(path, os.O_RDONLY)  # closed with the process
    return f"/proc/self/fd/{descriptor}"


def link_to_a_descriptor(path: Path, folder: Path) -> Path:
    (folder / "fd.gguf").symlink_to(by_descriptor(path, folder))
    return folder / "fd.gguf"


ALIASES: list[Alias] = [
    *(itself, symbolic, chain, hard, hard_beside),
    *(through_a_folder_link, roundabout, relative),
    *((by_descriptor, link_to_a_descriptor) if sys.platform == "linux" else ()),
]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tiny.checkpoint(tmp_path / "hf", shards=2)
    (folder / "additional_chat_templates").mkdir()
    for name in NAMES:
        if not (folder / name).exists():
            (folder / name).write_text("{}" if name.endswith(".json") else "x", encoding="utf-8")
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", NAMES)
def test_no_file_of_a_checkpoint_is_overwritten(name: str, source: Path, tmp_path: Path) -> None:
    before = contents(source)
    with pytest.raises(OutputError, match="the target is also a source"):
        convert(source, source / name, "F32")
    with pytest.raises(OutputError, match="the target is also a source"):
        convert(source, source / name, "F32", dry_run=True)
    assert contents(source) == before


@pytest.mark.parametrize("alias", ALIASES)
@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model-00001-of-00002.safetensors"])
def test_no_alias_of_it_either(alias: Alias, name: str, source: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    target = alias(source / name, tmp_path / "out")
    before = contents(tmp_path)
    with pytest.raises(OutputError, match="the target is also a source"):
        convert(source, target, "F32")
    assert contents(tmp_path) == before


def test_a_file_that_is_not_there_yet_but_would_be_read(source: Path) -> None:
    (source / "generation_config.json").unlink()
    with pytest.raises(OutputError, match="the target is also a source"):
        convert(source, source / "generation_config.json", "F32")
    assert not (source / "generation_config.json").exists()


def test_a_gguf_beside_the_checkpoint_may_be_replaced(source: Path) -> None:
    first = convert(source, source / "model.gguf", "F32")
    with pytest.raises(OutputError, match="the target exists; choose another name, or replace it by `overwrite=True`"):
        convert(source, source / "model.gguf", "F16")
    assert convert(source, source / "model.gguf", "F16", overwrite=True).file_bytes < first.file_bytes
    assert (source / "model.gguf").read_bytes()[:4] == b"GGUF"


@pytest.mark.parametrize("alias", ALIASES)
def test_files_that_are_read_elsewhere_are_inputs(alias: Alias, source: Path, tmp_path: Path) -> None:
    """A shard in a subfolder, one that is given itself, a module's weights, a list of types."""
    (tmp_path / "out").mkdir()
    document = json.loads((source / "model.safetensors.index.json").read_text())
    (source / "weights").mkdir()
    for shard in sorted(source.glob("*.safetensors")):
        shard.rename(source / "weights" / shard.name)
    document["weight_map"] = {name: f"weights/{file}" for name, file in document["weight_map"].items()}
    (source / "model.safetensors.index.json").write_text(json.dumps(document))
    (tmp_path / "types.txt").write_text("attn_v=F16\n")
    other = tiny.checkpoint(tmp_path / "other")
    (other / "model.safetensors").rename(other / "llama.safetensors")
    cases = (
        (source, source / "weights" / "model-00001-of-00002.safetensors", {}),
        (other, other / "llama.safetensors", {}),
        (other / "llama.safetensors", other / "llama.safetensors", {}),
        (other / "llama.safetensors", other / "config.json", {}),
        (other, tmp_path / "types.txt", {"tensor_type_file": tmp_path / "types.txt"}),
    )
    for number, (src, path, options) in enumerate(cases):
        (tmp_path / "out" / str(number)).mkdir()
        target = alias(path, tmp_path / "out" / str(number))
        before = contents(tmp_path)
        with pytest.raises(OutputError, match="the target is also a source"):
            convert(src, target, "F32", overwrite=True, **options)
        assert contents(tmp_path) == before
        if alias is hard_beside:
            target.unlink()


@pytest.mark.parametrize("alias", [itself, symbolic, hard])
def test_an_adapter_and_its_base_are_inputs(alias: Alias, source: Path, tmp_path: Path) -> None:
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    settings = {"peft_type": "LORA", "base_model_name_or_path": str(source), "r": 4, "lora_alpha": 8}
    (adapter / "adapter_config.json").write_text(json.dumps(settings))
    name = "base_model.model.model.layers.0.self_attn.q_proj.lora_{}.weight"
    factors = {name.format("A"): np.ones((4, 32), "f4"), name.format("B"): np.ones((32, 4), "f4")}
    (adapter / "adapter_model.safetensors").write_bytes(tiny.safetensors(factors))
    config_only = tmp_path / "config only"
    config_only.mkdir()
    (config_only / "config.json").write_bytes((source / "config.json").read_bytes())
    cases = (
        *((source, path, {"lora": [adapter]}) for path in sorted(adapter.iterdir())),
        *((adapter, path, {}) for path in sorted(adapter.iterdir())),
        *((adapter, source / name, {}) for name in ("config.json", "model-00002-of-00002.safetensors")),
        (adapter, source / "config.json", {"base": source}),
        (adapter, config_only / "config.json", {"base": config_only}),
    )
    for number, (src, path, options) in enumerate(cases):
        (tmp_path / f"out{number}").mkdir()
        target = alias(path, tmp_path / f"out{number}")
        before = contents(tmp_path)
        with pytest.raises(OutputError, match="the target is also a source"):
            convert(src, target, "F32", overwrite=True, **options)
        assert contents(tmp_path) == before
    (adapter / "config.json").write_bytes((source / "config.json").read_bytes())
    with pytest.raises(OutputError, match="the target is also a source"):
        convert(adapter, adapter / "config.json", "F32", overwrite=True)


@pytest.mark.parametrize("kind", ["dat", "gguf"])
@pytest.mark.parametrize("alias", [itself, symbolic, hard])
def test_the_importance_matrix_is_an_input(kind: str, alias: Alias, source: Path, tmp_path: Path) -> None:
    name, mean = "blk.0.attn_q.weight", np.arange(1.0, 33.0)
    path = tmp_path / f"i.{kind}"
    if kind == "dat":
        imatrix_dat(path, {name: (1, mean)})
    else:
        imatrix_gguf(path, {name: mean[None]}, {name: np.ones((1, 1))})
    convert(source, tmp_path / "f32.gguf", "F32")
    (tmp_path / "out").mkdir()
    target = alias(path, tmp_path / "out")
    before = contents(tmp_path)
    for command, src in ((convert, source), (quantize_file, tmp_path / "f32.gguf")):
        with pytest.raises(OutputError, match="the target is also a source"):
            command(src, target, "Q8_0", imatrix=path)
    assert contents(tmp_path) == before


def test_every_shard_of_a_gguf_is_an_input(source: Path, tmp_path: Path) -> None:
    convert(source, tmp_path / "f32.gguf", "F32")
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama", split_max_tensors=8)
    for name, tensor in tiny.gguf_tensors(tmp_path / "f32.gguf").items():
        writer.add_tensor(name, np.array(tensor.data))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    shards = sorted(tmp_path.glob("m-*.gguf"))
    for number, alias in enumerate([itself, symbolic, hard]):
        (tmp_path / f"out{number}").mkdir()
        target = alias(shards[number], tmp_path / f"out{number}")
        before = contents(tmp_path)
        with pytest.raises(OutputError, match="the target is also a source"):
            quantize_file(shards[1], target, "Q8_0")
        assert contents(tmp_path) == before


@pytest.mark.parametrize("ending", ["dir/", "dir/.", "dir/sub/..", "there", "there/"])
def test_a_folder_is_where_the_file_goes(ending: str, source: Path, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    convert(source, tmp_path / "f32.gguf", "F32")
    target = f"{tmp_path}/{ending}"
    assert main(["convert", str(source), "-o", target, "--dry-run"]) == 0
    assert sorted(path.name for path in tmp_path.rglob("*.gguf")) == ["f32.gguf"]
    assert main(["convert", str(source), "-o", target, "-t", "f16"]) == 0
    assert main(["quantize", str(tmp_path / "f32.gguf"), target, "-t", "Q8_0"]) == 0
    assert sorted(path.name for path in Path(target).iterdir() if path.is_file()) == [
        *("f32-Q8_0.gguf", f"{source.name}-F16.gguf")
    ]


def test_export_touches_nothing_that_exists(source: Path, tmp_path: Path) -> None:
    convert(source, source / "m.gguf", "F32")
    (tmp_path / "link").symlink_to(source)
    (tmp_path / "nowhere").symlink_to(tmp_path / "missing")
    before = contents(source)
    for target in (source, source / "m.gguf", tmp_path / "link", tmp_path / "nowhere", tmp_path):
        for dry_run in (True, False):
            with pytest.raises(OutputError, match="the target exists"):
                export(source / "m.gguf", target, dry_run=dry_run)
    assert contents(source) == before
    assert not (tmp_path / "missing").exists()


def test_the_command_line_refuses_too(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (source / "config.json").read_bytes()
    assert main(["convert", str(source), "-o", str(source / "config.json")]) == 1
    assert "the target is also a source" in capsys.readouterr().err
    assert (source / "config.json").read_bytes() == before
    assert json.loads(before)
