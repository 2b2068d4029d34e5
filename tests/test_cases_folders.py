"""Folders as people have them: which files hold the weights, and what a folder is that cannot be converted."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gguflike import checkpoint
from gguflike.convert import convert
from gguflike.errors import CheckpointError, GGUFLikeError, UnsupportedError
from tests import tiny

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"ab" * 32 + b"\nsize 4976698672\n"
ADAPTER = {"peft_type": "LORA", "base_model_name_or_path": "org/base", "r": 4}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tiny.checkpoint(tmp_path / "hf")


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    return tiny.checkpoint(tmp_path / "hf", shards=2)


def names(tensors: Any) -> set[str]:
    return set(tensors)


def weights() -> dict[str, np.ndarray]:
    return tiny.weights(tiny.config())


def write_json(path: Path, document: Any) -> None:
    path.write_text(json.dumps(document))


# How the files are called -> what becomes of those of two shards.
SHARDS: dict[str, Callable[[int], str]] = {
    "as Transformers": lambda n: f"model-{n:05d}-of-00002.safetensors",
    "a variant": lambda n: f"model.fp16-{n:05d}-of-00002.safetensors",
    "an old variant": lambda n: f"model-{n:05d}-of-00002.fp16.safetensors",
    "counted from 0": lambda n: f"model-{n - 1}-of-2.safetensors",
    "of another stem": lambda n: f"Llama_{n}-of-2.safetensors",
    "without numbers of all": lambda n: f"part{n}.safetensors",
}


@pytest.mark.parametrize("called", SHARDS)
def test_all_shards_without_an_index(called: str, sharded: Path) -> None:
    (sharded / INDEX).unlink()
    for n in (1, 2):
        (sharded / f"model-{n:05d}-of-00002.safetensors").rename(sharded / SHARDS[called](n))
    opened = checkpoint.open(sharded)
    assert names(opened.tensors) == set(tiny.shapes(tiny.config()))
    [notice] = opened.notices
    assert notice.startswith("the weights are those of ")
    assert SHARDS[called](1) in notice


@pytest.mark.parametrize("called", ["as Transformers", "a variant", "an old variant", "counted from 0"])
@pytest.mark.parametrize("there", [1, 2])
def test_a_shard_that_is_missing_is_named(called: str, there: int, sharded: Path) -> None:
    (sharded / INDEX).unlink()
    (sharded / "model-00001-of-00002.safetensors").unlink()
    (sharded / "model-00002-of-00002.safetensors").rename(sharded / SHARDS[called](there))
    missing = SHARDS[called](3 - there)
    if (called, there) == ("counted from 0", 2):  # nothing says that it counts from 0
        missing = "model-2-of-2.safetensors"
    with pytest.raises(CheckpointError, match=f"{missing}: shard is missing"):
        checkpoint.open(sharded)


def test_a_number_of_shards_is_not_counted_to(sharded: Path) -> None:
    (sharded / INDEX).unlink()
    (sharded / "model-00002-of-00002.safetensors").rename(sharded / f"model-1-of-{10**12}.safetensors")
    (sharded / "model-00001-of-00002.safetensors").unlink()
    with pytest.raises(CheckpointError, match=f"model-2-of-{10**12}.safetensors: shard is missing"):
        checkpoint.open(sharded)


@pytest.mark.parametrize("name", ["llama.safetensors", "model.fp16.safetensors", "model-00001-of-00001.safetensors"])
def test_one_file_of_another_name(name: str, folder: Path, tmp_path: Path) -> None:
    wanted = convert(folder, tmp_path / "a.gguf", "F32")
    (folder / SINGLE).rename(folder / name)
    plan = convert(folder, tmp_path / "b.gguf", "F32")
    assert (tmp_path / "a.gguf").read_bytes() == (tmp_path / "b.gguf").read_bytes()
    assert {*plan.notices} - {*wanted.notices} == {
        f"the weights are those of {name}: there is neither model.safetensors nor model.safetensors.index.json"
    }


def test_the_name_that_config_json_gives(folder: Path) -> None:
    (folder / SINGLE).rename(folder / "other.safetensors")
    (folder / "more.safetensors").write_bytes(tiny.safetensors({"model.norm.weight": np.ones(32, "f4")}))
    config = {**tiny.config(), "transformers_weights": "other.safetensors"}
    write_json(folder / "config.json", config)
    assert checkpoint.open(folder).files == (folder / "other.safetensors",)
    convert(folder, None, "F32", dry_run=True)
    for bad in ("../hf/other.safetensors", "/etc/passwd", "other.txt", 3):
        write_json(folder / "config.json", {**config, "transformers_weights": bad})
        with pytest.raises(CheckpointError, match="names something other than a file of weights in the folder"):
            checkpoint.open(folder)


def test_an_index_of_a_variant(sharded: Path) -> None:
    (sharded / INDEX).rename(sharded / "model.safetensors.index.fp16.json")
    assert len(checkpoint.open(sharded).files) == 2


def test_several_sets_of_weights_are_not_mixed(folder: Path) -> None:
    for name in ("model.fp16.safetensors", "model.bf16.safetensors"):
        (folder / name).write_bytes((folder / SINGLE).read_bytes())
    assert checkpoint.open(folder).files == (folder / SINGLE,)
    (folder / SINGLE).unlink()
    with pytest.raises(CheckpointError, match=r"several sets of weights.*model.bf16.safetensors, model.fp16") as caught:
        checkpoint.open(folder)
    assert caught.value.remedy == "name the file to take as the source"
    assert checkpoint.open(folder / "model.fp16.safetensors").files == (folder / "model.fp16.safetensors",)


@pytest.mark.parametrize("name", [SINGLE, "model-00002-of-00002.safetensors", INDEX])
def test_a_file_as_source_is_its_folder(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tiny.checkpoint(tmp_path / "hf", shards=1 if name == SINGLE else 2)
    by_folder, by_file = checkpoint.open(folder), checkpoint.open(folder / name)
    assert (by_file.tensors, by_file.source, by_file.folder) == (by_folder.tensors, "hf", folder)
    monkeypatch.chdir(folder)
    assert names(checkpoint.open(name).tensors) == names(by_folder.tensors)


def test_a_file_without_its_folder(tmp_path: Path) -> None:
    (tmp_path / "x.safetensors").write_bytes(tiny.safetensors(weights()))
    with pytest.raises(CheckpointError, match=r"there is no config.json; a checkpoint has one beside its weights"):
        checkpoint.open(tmp_path / "x.safetensors")


def test_a_stale_index(sharded: Path, tmp_path: Path) -> None:
    """Of files that are gone: what is there is named, or taken where Transformers takes it."""
    shards = sorted(sharded.glob("*.safetensors"))
    for shard in shards:
        shard.unlink()
    whole = sharded / "model-00001-of-00001.safetensors"
    whole.write_bytes(tiny.safetensors(weights()))
    with pytest.raises(CheckpointError, match=r"shard is missing.*the index is stale: name model-00001-of-00001.safe"):
        checkpoint.open(sharded)
    assert checkpoint.open(whole).files == (whole,)
    whole.rename(sharded / SINGLE)
    opened = checkpoint.open(sharded)
    assert opened.files == (sharded / SINGLE,)
    assert opened.notices == (f"{INDEX} is left aside: none of its files is there, but {SINGLE} is",)


@pytest.mark.parametrize("where", ["weights", "a/b-1.2", "./weights", "."])
def test_shards_in_a_subfolder(where: str, sharded: Path, tmp_path: Path) -> None:
    wanted = names(checkpoint.open(sharded).tensors)
    document = json.loads((sharded / INDEX).read_text())
    (sharded / where).mkdir(parents=True, exist_ok=True)
    for shard in sorted(sharded.glob("*.safetensors")):
        shard.rename(sharded / where / shard.name)
    document["weight_map"] = {name: f"{where}/{file}" for name, file in document["weight_map"].items()}
    write_json(sharded / INDEX, document)
    opened = checkpoint.open(sharded)
    assert names(opened.tensors) == wanted
    shard = sharded / where / "model-00001-of-00002.safetensors"
    before = shard.read_bytes()
    with pytest.raises(GGUFLikeError, match="the target is also a source"):
        convert(sharded, shard, "F32")
    assert shard.read_bytes() == before


def test_what_an_index_does_not_say_is_read_all_the_same(sharded: Path) -> None:
    """Transformers takes the names of files from the index, and all that is in them."""
    document = json.loads((sharded / INDEX).read_text())
    wanted = names(document["weight_map"])
    other = {
        name: f"model-0000{3 - int(file[10])}-of-00002.safetensors" for name, file in document["weight_map"].items()
    }
    del other["model.norm.weight"]
    write_json(sharded / INDEX, {"metadata": {"total_size": 1.5e12}, "weight_map": other})
    assert names(checkpoint.open(sharded).tensors) == wanted


@pytest.mark.parametrize("same", [True, False])
def test_a_tensor_in_two_files(same: bool, sharded: Path, tmp_path: Path) -> None:
    first, second = sorted(sharded.glob("*.safetensors"))
    every = weights()
    rows = list(every)
    norm = every["model.norm.weight"]
    first.write_bytes(tiny.safetensors({**{n: every[n] for n in rows[0::2]}, "model.norm.weight": norm}))
    last = norm if same else norm + np.float32(1)
    second.write_bytes(tiny.safetensors({**{n: every[n] for n in rows[1::2]}, "model.norm.weight": last}))
    plan = convert(sharded, tmp_path / "m.gguf", "F32")
    said = "model.norm.weight is in model-00001-of-00002.safetensors and, with other values, in model-00002-of-00002"
    assert any(notice.startswith(said) for notice in plan.notices) == (not same)
    stored = tiny.gguf_tensors(tmp_path / "m.gguf")["output_norm.weight"].data
    np.testing.assert_array_equal(stored, last)  # Transformers reads files in order, and the last one counts


def test_what_macos_keeps_beside_files_is_none(sharded: Path) -> None:
    (sharded / INDEX).unlink()
    (sharded / "additional_chat_templates").mkdir()
    for name in ("model-00001-of-00002.safetensors", "config.json", "additional_chat_templates/rag.jinja"):
        path = sharded / name
        path.with_name(f"._{path.name}").write_bytes(b"\0\5\x16\7" + bytes(4000))
    assert len(checkpoint.open(sharded).files) == 2
    convert(sharded, None, "F32", dry_run=True)


def dangling(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.symlink_to("../../blobs/" + "ab" * 32)


LINKS = (
    *("config.json", SINGLE, "tokenizer.json", "tokenizer_config.json", "generation_config.json", "README.md"),
    *("chat_template.jinja", "special_tokens_map.json", "added_tokens.json", "modules.json"),
)


@pytest.mark.parametrize("name", LINKS)
def test_a_link_that_points_nowhere(name: str, folder: Path, tmp_path: Path) -> None:
    dangling(folder / name)
    with pytest.raises(CheckpointError, match=rf"{name}: the link points nowhere; got ../../blobs/abab") as caught:
        convert(folder, tmp_path / "m.gguf", "F32")
    assert "download the checkpoint again" in str(caught.value)


@pytest.mark.parametrize("name", [INDEX, "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"])
@pytest.mark.parametrize("indexed", [True, False])
def test_a_link_to_a_shard_that_points_nowhere(name: str, indexed: bool, sharded: Path) -> None:
    if not indexed and name != INDEX:
        (sharded / INDEX).unlink()
    dangling(sharded / name)
    with pytest.raises(CheckpointError, match=f"{name}: the link points nowhere"):
        checkpoint.open(sharded)
    with pytest.raises(CheckpointError, match="the link points nowhere"):
        checkpoint.open(sharded / name)


PAGE = b"<!DOCTYPE html><html><body>Sign in</body></html>"
INSTEAD = {
    "a git-lfs pointer": (POINTER, "a git-lfs pointer.*git lfs pull"),
    "an empty file": (b"", "file is empty"),
    "a web page": (PAGE * 20, "a web page"),
    "a web page with a byte order mark": (b"\xef\xbb\xbf" + PAGE, "a web page"),
    "an error": (b"Entry not found", "an error message of a server"),
    "zeros": (bytes(4096), "begins with zeros"),
    "a zip archive": (b"PK\x03\x04" + bytes(100), "a zip archive"),
    "a GGUF file": (b"GGUF\x03\0\0\0" + bytes(100), "a GGUF file"),
}


@pytest.mark.parametrize("what", INSTEAD)
@pytest.mark.parametrize(
    "name", ["config.json", SINGLE, "tokenizer.json", "tokenizer_config.json", "generation_config.json"]
)
def test_what_stands_in_the_place_of_a_file_is_named(what: str, name: str, folder: Path, tmp_path: Path) -> None:
    data, message = INSTEAD[what]
    (folder / name).write_bytes(data)
    with pytest.raises(CheckpointError, match=f"{name}.*{message}"):
        convert(folder, tmp_path / "m.gguf", "F32")
    assert not (tmp_path / "m.gguf").exists()


@pytest.mark.parametrize(
    "name", ["chat_template.jinja", "additional_chat_templates/rag.jinja", "special_tokens_map.json"]
)
def test_a_pointer_is_no_text(name: str, folder: Path) -> None:
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_bytes(POINTER)
    with pytest.raises(CheckpointError, match=f"{name}: this is a git-lfs pointer"):
        convert(folder, None, "F32", dry_run=True)


def test_a_byte_order_mark_and_a_key_twice(folder: Path) -> None:
    (folder / "config.json").write_bytes(b"\xef\xbb\xbf" + (folder / "config.json").read_bytes())
    with pytest.raises(CheckpointError, match=r"BOM.*save it as UTF-8 without a byte order mark"):
        checkpoint.open(folder)
    (folder / "config.json").write_bytes(b'{"a": 1, "a": 1}')
    with pytest.raises(CheckpointError, match="duplicate key 'a'"):
        checkpoint.open(folder)


LORA = {"base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight": np.zeros((4, 32), "f4")}


def adapter_only(folder: Path) -> None:
    (folder / SINGLE).unlink()
    (folder / "adapter_model.safetensors").write_bytes(tiny.safetensors(LORA))


def test_an_adapter_is_no_model(folder: Path) -> None:
    adapter_only(folder)
    with pytest.raises(GGUFLikeError, match="no weights"):
        checkpoint.open(folder)
    config = (folder / "config.json").read_bytes()
    write_json(folder / "config.json", ADAPTER)  # copied there, to please a converter
    with pytest.raises(UnsupportedError, match="this is a LoRA adapter of org/base, not a model; merge it first"):
        checkpoint.open(folder)
    (folder / "config.json").write_bytes(config)
    write_json(folder / "adapter_config.json", ADAPTER)
    with pytest.raises(UnsupportedError, match="this is a LoRA adapter of org/base, not a model; merge it first"):
        checkpoint.open(folder)
    (folder / "config.json").unlink()
    with pytest.raises(UnsupportedError, match="this is a LoRA adapter of org/base, not a model; merge it first"):
        checkpoint.open(folder)
    write_json(folder / "adapter_config.json", {"peft_type": "IA3"})
    with pytest.raises(UnsupportedError, match=r"this is an adapter \(IA3\), not a model"):
        checkpoint.open(folder)
    with pytest.raises(UnsupportedError, match=r"this is an adapter \(IA3\), not a model"):
        checkpoint.open(folder / "adapter_model.safetensors")


@pytest.mark.parametrize("place", ["adapter_config.json", "config.json"])
def test_an_adapter_that_is_not_whole_is_named_too(place: str, folder: Path) -> None:
    adapter_only(folder)  # of which one factor is missing
    write_json(folder / place, ADAPTER)
    said = (
        "this is a LoRA adapter of org/base, not a model: a matrix of the adapter is missing.*: get the adapter again"
    )
    with pytest.raises(CheckpointError, match=said):
        convert(folder, None, "F32", dry_run=True)


def test_an_adapter_under_the_name_of_a_model(folder: Path) -> None:
    (folder / SINGLE).write_bytes(tiny.safetensors(LORA))
    with pytest.raises(UnsupportedError, match="this is an adapter, not a model; give its folder"):
        checkpoint.open(folder)
    (folder / SINGLE).write_bytes(tiny.safetensors({**weights(), **LORA}))
    with pytest.raises(UnsupportedError, match="the model holds an adapter that was not merged; merge it first"):
        checkpoint.open(folder)


def test_an_adapter_beside_a_model_is_said(folder: Path) -> None:
    write_json(folder / "adapter_config.json", ADAPTER)
    (folder / "adapter_model.safetensors").write_bytes(tiny.safetensors(LORA))
    plan = convert(folder, None, "F32", dry_run=True)
    assert any("a LoRA adapter of org/base lies beside the model and is not applied" in each for each in plan.notices)


# Files in a folder without a checkpoint -> what it is said to be, and what to do.
FOLDERS = {
    "model_index.json": "a pipeline of Diffusers",
    "snapshots/main/config.json": "the Hub cache's folder of a repository.*give the folder snapshots/COMMIT",
    "params.json": "Mistral's or Meta's own format.*format of Hugging Face",
    "consolidated.00.pth": "Mistral's or Meta's own format",
    "zero_to_fp32.py": "a training state of DeepSpeed",
    "global_step10/mp_rank_00_model_states.pt": "a training state of DeepSpeed",
    "__0_0.distcp": "a training state of FSDP",
    "checkpoint-500/config.json": "the folder of a training run.*got checkpoint-500/",
    "model.safetensors.incomplete": "an unfinished download",
    "m-Q4_K_M.gguf": "a folder of GGUF files.*quantize",
    "onnx/model.onnx": "an ONNX model",
    "tf_model.h5": "a TensorFlow or Keras checkpoint",
    "flax_model.msgpack": "a Flax checkpoint",
    "openvino_model.xml": "a compiled model",
    "mlc-chat-config.json": "compiled by MLC",
    "shared_vocabulary.json": "a model of CTranslate2",
    "model.nemo": "a model in another format",
    "model.tar.gz": "an archive.*unpack it first",
    "sub/config.json": "the checkpoint is in a subfolder.*give .*sub",
}


@pytest.mark.parametrize("name", FOLDERS)
@pytest.mark.parametrize("config", [True, False])
def test_what_a_folder_is(name: str, config: bool, tmp_path: Path) -> None:
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_bytes(b"{}")
    if config:
        write_json(tmp_path / "config.json", tiny.config())
    with pytest.raises(GGUFLikeError, match=FOLDERS[name]):
        checkpoint.open(tmp_path)


def test_a_file_of_no_tensors(folder: Path) -> None:
    (folder / SINGLE).write_bytes(tiny.safetensors({}))
    with pytest.raises(CheckpointError, match=f"{SINGLE}: there are no tensors in the file"):
        checkpoint.open(folder)


def test_an_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="the folder is empty"):
        checkpoint.open(tmp_path)


def test_other_formats_beside_a_checkpoint_are_no_matter(folder: Path) -> None:
    for name in ("tf_model.h5", "flax_model.msgpack", "pytorch_model.bin", "m.gguf", "consolidated.safetensors"):
        (folder / name).write_bytes(b"x")
    assert checkpoint.open(folder).notices == ()
    (folder / SINGLE).rename(folder / "llama.safetensors")
    assert checkpoint.open(folder).files == (folder / "llama.safetensors",)
    (folder / "config.json").unlink()
    with pytest.raises(GGUFLikeError, match="Mistral"):
        checkpoint.open(folder)
    (folder / "consolidated.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"there is no config.json; a checkpoint has one beside its weights"):
        checkpoint.open(folder)


def stored(path: Path, tensors: dict[str, tuple[str, tuple[int, ...]]]) -> None:
    """A file of zeros: name -> dtype and shape."""
    sizes = {"U8": 1, "I8": 1, "F8_E4M3": 1, "F16": 2, "BF16": 2, "F32": 4, "I32": 4, "U32": 4, "I64": 8}
    header, at = {}, 0
    for name, (dtype, shape) in tensors.items():
        end = at + int(np.prod(shape)) * sizes[dtype]
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, end]}
        at = end
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(at))


P = "model.layers.0.self_attn.q_proj"
SCHEMES: dict[str, dict[str, tuple[str, tuple[int, ...]]]] = {
    "GPTQ": {f"{P}.qweight": ("I32", (4, 32)), f"{P}.qzeros": ("I32", (1, 4)), f"{P}.scales": ("F16", (1, 32))},
    "AWQ": {f"{P}.qweight": ("I32", (32, 4)), f"{P}.qzeros": ("I32", (1, 4)), f"{P}.scales": ("F16", (1, 32))},
    "MLX": {f"{P}.weight": ("U32", (32, 4)), f"{P}.scales": ("F16", (32, 1)), f"{P}.biases": ("F16", (32, 1))},
    "bitsandbytes, in 4 bits": {f"{P}.weight": ("U8", (512, 1)), f"{P}.weight.absmax": ("U8", (16,))},
    "bitsandbytes, in 8 bits": {f"{P}.weight": ("I8", (32, 32)), f"{P}.SCB": ("F32", (32,))},
    "FP8": {f"{P}.weight": ("F8_E4M3", (32, 32)), f"{P}.weight_scale": ("F32", (1, 1))},
    "compressed-tensors": {f"{P}.weight_packed": ("I32", (32, 4)), f"{P}.weight_scale": ("BF16", (32, 1))},
    "ModelOpt": {f"{P}.weight": ("U8", (32, 16)), f"{P}.weight_scale_2": ("F32", ())},
    "ExLlamaV2": {f"{P}.q_weight": ("I32", (4, 32)), f"{P}.q_invperm": ("I32", (32,))},
    "ExLlamaV3": {f"{P}.trellis": ("U8", (32, 4)), f"{P}.suh": ("F16", (32,))},
    "HQQ": {f"{P}.W_q": ("U8", (32, 16))},
    "AQLM": {f"{P}.codes": ("U8", (32, 4)), f"{P}.codebooks": ("F16", (1, 256, 1, 8))},
    "quanto or torchao": {f"{P}.weight._data": ("I8", (32, 32)), f"{P}.weight._scale": ("F16", (32, 1))},
    "a scheme that is not known": {f"{P}.weight": ("I8", (32, 32))},
}


# Those that are read (tests/test_quantized.py) where something says how.
READ = ("GPTQ", "AWQ", "MLX", "bitsandbytes", "FP8", "compressed-tensors", "ModelOpt")


@pytest.mark.parametrize("scheme", SCHEMES)
def test_quantized_checkpoints_are_named(scheme: str, folder: Path, tmp_path: Path) -> None:
    stored(folder / SINGLE, {"model.embed_tokens.weight": ("BF16", (260, 32)), **SCHEMES[scheme]})
    remedy = "its settings are missing" if scheme.startswith(READ) else "convert the original"
    with pytest.raises(UnsupportedError, match=f"the checkpoint is quantized by {scheme}.*{remedy}"):
        convert(folder, tmp_path / "m.gguf", "F32")


@pytest.mark.parametrize("key", ["quantization", "quantization_config", "compression_config"])
def test_settings_of_weights_that_are_not_quantized(key: str, tmp_path: Path) -> None:
    folder = tiny.checkpoint(tmp_path / "hf", "BF16")
    wanted = convert(folder, tmp_path / "a.gguf", "F32")
    settings = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "quant_method": "bitsandbytes"}
    write_json(folder / "config.json", {**tiny.config(), key: settings})
    plan = convert(folder, tmp_path / "b.gguf", "F32")
    assert {*plan.notices} - {*wanted.notices} == {f"{key} of config.json is left aside: the weights are not quantized"}
    assert (tmp_path / "a.gguf").read_bytes() == (tmp_path / "b.gguf").read_bytes()


@pytest.mark.parametrize("settings", [{"a": 1}, {"quant_method": "unknown"}, {"bits": 4, "group_size": 128}])
@pytest.mark.parametrize("place", ["config.json", "quantize_config.json"])
def test_settings_of_no_known_method_of_plain_weights(settings: dict[str, Any], place: str, folder: Path) -> None:
    document = {**tiny.config(), "quantization_config": settings} if place == "config.json" else settings
    write_json(folder / place, document)
    [notice] = (each for each in convert(folder, None, "F32", dry_run=True).notices if place in each)
    assert notice.endswith("is left aside: the weights are not quantized")


OTHERS = {
    "not gathered when they were saved .DeepSpeed ZeRO-3": {"model.embed_tokens.weight": ("BF16", (0,))},
    "not gathered when they were saved .FSDP": {"model.layers.0._flat_param": ("F32", (99,))},
    "Mistral's or Meta's own format": {"layers.0.attention.wq.weight": ("BF16", (32, 32))},
    "named as in GGUF": {"blk.0.attn_q.weight": ("F32", (32, 32))},
    "named as in Megatron": {"decoder.layers.0.self_attention.linear_qkv.weight": ("F32", (64, 32))},
    "makes images or sound": {"model.diffusion_model.input_blocks.0.weight": ("F16", (32, 32))},
}


@pytest.mark.parametrize("message", OTHERS)
@pytest.mark.parametrize("config", [True, False])
def test_tensors_that_no_model_has_are_named(message: str, config: bool, folder: Path) -> None:
    stored(folder / SINGLE, OTHERS[message])
    if not config:
        (folder / "config.json").unlink()
    with pytest.raises(UnsupportedError, match=message):
        checkpoint.open(folder / SINGLE)


CACHED = "models--acme--Tiny-Llama-9M-Instruct/snapshots/0123456789abcdef0123456789abcdef01234567"


def test_a_snapshot_in_the_cache_is_called_as_its_repository(tmp_path: Path) -> None:
    folder = tiny.checkpoint(tmp_path / CACHED)
    blobs = folder.parent.parent / "blobs"
    blobs.mkdir()
    for path in sorted(folder.iterdir()):
        path.rename(blobs / path.name)
        path.symlink_to(os.path.relpath(blobs / path.name, folder))
    (tmp_path / "link").symlink_to(folder)
    for source in (folder, tmp_path / "link", folder / SINGLE):
        opened = checkpoint.open(source)
        assert (opened.source, opened.revision) == ("acme/Tiny-Llama-9M-Instruct", CACHED.rpartition("/")[2])
    one_word = tiny.checkpoint(tmp_path / "models--gpt2" / "snapshots" / "abc")
    assert checkpoint.open(one_word).source == "gpt2"
    with pytest.raises(UnsupportedError, match="the Hub cache's folder"):
        checkpoint.open(folder.parent.parent)


HALF = {
    "tokenizer.json": ("comment", '"\\ud83d"'),
    "tokenizer_config.json": ("chat_template", '"\\ud83d{{ messages[0].content }}"'),
    "special_tokens_map.json": ("pad_token", '"x\\ude00"'),
    "added_tokens.json": ("\\ud83d", "300"),
}


@pytest.mark.parametrize("name", HALF)
def test_half_of_a_surrogate_pair(name: str, folder: Path) -> None:
    """Python's JSON takes it for a character, which it is not; the library ``tokenizers`` refuses it, too."""
    key, value = HALF[name]
    document = json.loads((folder / name).read_text()) if (folder / name).exists() else {}
    text = json.dumps({**document, "KEY": "VALUE"}).replace("KEY", key).replace('"VALUE"', value)
    (folder / name).write_text(text)
    with pytest.raises(CheckpointError, match=rf"{name}: half of a surrogate pair") as caught:
        convert(folder, None, "F32", dry_run=True)
    assert caught.value.remedy == "write the character that was meant"


def test_a_whole_pair_and_an_escaped_escape(folder: Path, tmp_path: Path) -> None:
    (folder / "tokenizer_config.json").write_text('{"chat_template": "\\ud83d\\ude00 \\\\ud83d", "bos_token": "<s>"}')
    convert(folder, tmp_path / "m.gguf", "F32")
    assert tiny.gguf_fields(tmp_path / "m.gguf")["tokenizer.chat_template"] == ("STRING", "\U0001f600 \\ud83d")


def templates(folder: Path, tmp_path: Path) -> dict[str, Any]:
    convert(folder, tmp_path / "m.gguf", "F32", overwrite=True)
    fields = tiny.gguf_fields(tmp_path / "m.gguf")
    return {key: value for key, (_, value) in fields.items() if "chat_template" in key}


def test_named_templates(folder: Path, tmp_path: Path) -> None:
    (folder / "chat_template.jinja").write_text("D{{ messages[0].content }}")
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "Tool Use.jinja").write_text("T")
    (folder / "additional_chat_templates" / "rag.jinja").write_text("R")
    found = templates(folder, tmp_path)
    assert found["tokenizer.chat_template"] == "D{{ messages[0].content }}"
    assert found["tokenizer.chat_templates"] == ["Tool_Use", "rag"]
    assert (found["tokenizer.chat_template.Tool_Use"], found["tokenizer.chat_template.rag"]) == ("T", "R")


@pytest.mark.parametrize("stored", [5, {"a": 1}, [5], [{"name": "a"}], [{"name": "a", "template": 5}]])
def test_a_malformed_template(stored: Any, folder: Path) -> None:
    write_json(folder / "tokenizer_config.json", {"chat_template": stored})
    with pytest.raises(CheckpointError, match="malformed chat template"):
        convert(folder, None, "F32", dry_run=True)


@pytest.mark.parametrize("name", [*LINKS, "additional_chat_templates/rag.jinja"])
@pytest.mark.parametrize("kind", ["folder", "pipe"])
def test_what_is_no_file_is_not_read(name: str, kind: str, folder: Path) -> None:
    """A pipe would be waited for."""
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(folder / name)
    else:
        (folder / name).mkdir()
    with pytest.raises(CheckpointError, match=f"{name}: not a file"):
        convert(folder, None, "F32", dry_run=True)


def test_a_file_too_large_to_be_read_whole(folder: Path) -> None:
    with (folder / "tokenizer.json").open("r+b") as file:
        file.truncate(1 << 40)  # sparse
    with pytest.raises(CheckpointError, match=r"tokenizer.json: too large; expected at most 536,870,912 bytes"):
        convert(folder, None, "F32", dry_run=True)
