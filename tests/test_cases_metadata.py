"""The general.* keys: what llama.cpp's converter writes, by the ``gguf`` package, of cards and names as people write
them."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import gguf
import pytest

from gguflike.checkpoint import card
from gguflike.cli import main
from gguflike.convert import convert
from gguflike.convert.metadata import CARD_KEYS, general
from gguflike.convert.mixes import Recipe
from gguflike.convert.model_names import parse, rounded, size_label, title
from gguflike.convert.recipe import by_name
from gguflike.errors import CheckpointError
from tests import tiny

NAMES = (
    *("SmolLM2-135M-Instruct", "TinyLlama-1.1B-Chat-v1.0", "smollm2-135M-8k-lc100k", "Mixtral-8x7b", "Mixtral-8x7B"),
    *("my-model", "merged", "Llama-3.2-1B", "Llama-3.2-1B-Instruct", "Qwen3-30B-A3B-Instruct-2507", "bloom-7b1"),
    *("Phi-3-mini-4k-instruct", "Phi-3-medium-128k-instruct", "gemma-2-9b-it", "stablelm-2-1_6b-chat", "gpt2-xl"),
    *("gpt2", "Hermes-2-Pro-Llama-3-8B", "xlm-roberta-base", "all-MiniLM-L6-v2", "bge-small-en-v1.5", "v1.5", "7B"),
    *("DeepSeek-R1-Distill-Qwen-1.5B", "Meta-Llama-3.1-8B-Instruct-Q4_K_M", "model-fp16", "a--b-", "-", "Model-V2.0"),
    *("vicuna-7b-v1.5-16k", "iter-3", "Model-iter3-7B", "openchat-3.5-0106", "falcon-40b-lora", "Yi-34B-200K", "x-1T"),
    *("org/Name-7B", "org/name/with/more", "./local-7B", "../up", "A human name 7B", "Name.with.dots-7B-v2"),
)  # fmt: skip
COUNTS = (0, 22_656, 134_515_008, 1_235_814_400, 7_241_732_096, 46_702_792_704)


@pytest.mark.parametrize("name", NAMES)
def test_parts_of_names(name: str) -> None:
    for count in COUNTS:
        want = gguf.Metadata.get_model_id_components(name, count)
        got = parse(name, count)
        assert (got.name, got.organization) == (want[0] or None, want[1]), count
        assert (got.basename, got.finetune, got.version, got.size_label) == want[2:], count
    assert title(name) == gguf.Metadata.id_to_title(name)


def test_sizes() -> None:
    for count in (134_515_008, 1_100_048_384, 5_770_496, 999, 8e9, 1.2e12, 0, 999_999, 1e6, 99.6e9):
        assert rounded(count) == gguf.utility.model_weight_count_rounded_notation(count)
    shapes = {"token_embd.weight": (1000, 64), "blk.0.ffn_up_exps.weight": (8, 256, 64), "blk.0.exp_probs_b.bias": (8,)}
    writer = gguf.GGUFWriter(None, "llama")
    for name, shape in shapes.items():
        writer.tensors[0][name] = gguf.gguf_writer.TensorInfo(shape, gguf.GGMLQuantizationType.F32, 0)
    assert size_label(shapes) == gguf.size_label(*writer.get_total_parameter_count()) == "8x80K"


CARDS: dict[str, str] = {
    "plain": "license: apache-2.0\nlanguage:\n- en\n- de\ntags: [a, 'b']\nlicense_name: \"x\"\n",
    "base and data": "base_model: meta-llama/Llama-3.1-8B\ndatasets:\n- org/set-a\n- org/Set-B-v2\n"
    "model_name: My Model\nmodel_creator: Me\ntags:\n- a\n- 'b: c'\nlanguage: en\n",
    "several bases": "base_model:\n- mistralai/Mistral-7B-v0.1\n- https://huggingface.co/org/Other-13B-Chat\n"
    "- https://example.org/x\nbase_model_relation: merge\n",
    "known bases": "base_models:\n- name: X\n  author: Y\n  version: '2'\n  organization: Z\n  url: https://x\n"
    "  doi: 10/1\n  repo_url: https://y\n  description: d\n  uuid: u\ndataset_sources: https://huggingface.co/datasets/a/b\n",
    "all of llama.cpp's": "name: N\nauthor: A\nversion: v3\norganization: O\ndescription: D\nfinetune: F\nbasename: B\n"
    "size_label: 3B\nurl: https://u\ndoi: 10/2\nuuid: '123'\nrepo_url: https://r\n",
    "with model_": "model_name: N\nmodel_author: A\nmodel_version: v3\nmodel_organization: O\nmodel_description: D\n"
    "model_finetune: F\nmodel_basename: B\nmodel_size_label: 3B\nmodel_url: https://u\nmodel_type: llama\n",
    "licences": "license:\n- mit\n- apache-2.0\nlicense_name: n\nlicense_link: https://l\n",
    "a licence": "license: other\nlicense_name: llama3.1\nlicense_link: LICENSE\n"
    "pipeline_tag: text-generation\ntags: one\n",
    "nothing of use": "extra:\n  nested: 1\nmodel-index:\n- name: x\n  results: []\n",
    "Norway": "language:\n- en\n- no\n- sv\n",
    "tabs and comments": "# a comment\nlicense: mit # here too\ntags:\n-\tx\n- y\n",
    "folded": "description: >-\n  of several\n  lines\nlicense: mit\n",
    "quoted keys": "'license': mit\n\"tags\": [x]\n",
    "one line": "{license: mit, tags: [x, y]}\n",
}
NAMED = (None, "acme/Tiny-Llama-9M-Instruct", "meta-llama/Llama-2-7b-hf", "/home/me/out/checkpoint-500", "./out")


def oracle(folder: Path, parameters: int, named: str | None = None) -> dict[str, Any]:
    metadata = gguf.Metadata.load(None, folder, named, parameters)
    writer = gguf.GGUFWriter(None, "llama")
    metadata.name = metadata.name or folder.name
    metadata.set_gguf_meta_model(writer)
    found = {key: value.value for key, value in writer.kv_data[0].items() if key != "general.architecture"}
    return {key: value for key, value in found.items() if value not in (0, [], "")}  # counts of nothing


def ours(folder: Path, parameters: int, recipe: Recipe | None = None) -> dict[str, Any]:
    config = json.loads((folder / "config.json").read_text())
    read, notices = card.read(folder, CARD_KEYS)
    assert notices == []
    shapes = {"token_embd.weight": (parameters,)}
    recipe = recipe or by_name("F32")
    found = general("llama", folder.name, shapes, recipe, {}, read, None, config.get("_name_or_path"))
    constant = ("architecture", "type", "file_type", "quantization_version")
    return {key: value for key, value in found.items() if key not in {f"general.{name}" for name in constant}}


@pytest.mark.parametrize("named", NAMED)
@pytest.mark.parametrize("name", CARDS)
def test_cards_are_read_as_llama_cpp_reads_them(name: str, named: str | None, tmp_path: Path) -> None:
    folder = tmp_path / "Tiny-135M-Chat-v2"
    folder.mkdir()
    (folder / "README.md").write_text(f"---\n{CARDS[name]}---\n# Title\nlicense: wrong\n")
    (folder / "config.json").write_text(json.dumps({} if named is None else {"_name_or_path": named}))
    assert ours(folder, 134_515_008) == oracle(folder, 134_515_008)
    if named is None:
        for nothing in ("", ".", "./", 7, ["a/b"]):
            (folder / "config.json").write_text(json.dumps({"_name_or_path": nothing}))
            assert ours(folder, 134_515_008)["general.name"] in ("Tiny 135M Chat v2", "My Model", "N")


def test_a_card_of_odd_entries(tmp_path: Path) -> None:
    """llama.cpp's converter stops at some of these; none of them hides the rest."""
    folder = tiny.checkpoint(tmp_path / "Tiny")
    (folder / "README.md").write_bytes(
        b"\xef\xbb\xbf---\nlicense: apache-2.0\ntags:\nlanguage:\n- en\n- no\n- \n- ~\nmodel_name: 7\n"
        b"model_version: 2024-01-01\nbase_model:\n- \n- 12\ndatasets: null\nmodel_creator: Andr\xe9\n---\n".replace(
            b"\n", b"\r\n"
        )
    )
    convert(folder, tmp_path / "m.gguf", "F32")
    fields = {key: value for key, (_, value) in tiny.gguf_fields(tmp_path / "m.gguf").items()}
    assert fields["general.languages"] == ["en", "no"]
    assert fields["general.name"] == "7"
    assert (fields["general.license"], fields["general.version"]) == ("apache-2.0", "2024-01-01")
    assert (fields["general.base_model.count"], fields["general.base_model.0.name"]) == (1, "12")
    assert fields["general.author"] == "Andr\ufffd"
    assert not any(key.startswith("general.dataset") or key == "general.tags" for key in fields)


@pytest.mark.parametrize(
    ("text", "notice"),
    [
        ("tags: [a, b\nlicense: mit\n", "README.md: tags cannot be read: "),
        ("tags: &a [*a]\nlicense: mit\n", "README.md: tags cannot be read: aliases are not read"),
        ("tags: *nothing\nlicense: mit\n", "README.md: tags cannot be read: aliases are not read"),
        ("tags: !!python/object/apply:os.system ['true']\nlicense: mit\n", None),
        ("tags: " + "[" * 30_000 + "\nlicense: mit\n", "README.md: tags cannot be read: nested too deeply"),
        ("tags: [" + "a," * 40_000 + "]\nlicense: mit\n", "README.md: tags cannot be read: longer than 65,536"),
        ("model-index:\n" + "- a: [1, 2, 3]\n" * 200_000 + "license: mit\n", None),
        ("tags: \x07\nlicense: mit\n", "README.md: tags cannot be read: special characters are not allowed"),
        ("license: mit\ntags:\n- a: &x [y]\n  <<: *x\n", "README.md: tags cannot be read: aliases are not read"),
        (
            "license: mit\n"
            + "".join(f"a{n}: &a{n} [" + f"*a{n - 1}, " * 9 + "]\n" for n in range(1, 30))
            + "tags: [*a29]\n",
            "README.md: tags cannot be read: aliases are not read",
        ),
        (
            "license: mit\ntags: [&a [x, x], &b [*a, *a], &c [*b, *b], *c]\n",
            "README.md: tags cannot be read: aliases are not read",
        ),
    ],
)
def test_cards_that_harm(text: str, notice: str | None, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(f"---\n{text}---\n")
    read, notices = card.read(tmp_path, CARD_KEYS)
    assert read["license"] == "mit"
    assert [each[: len(notice or "")] for each in notices] == ([notice] if notice else [])
    found = general("llama", "x", {"a": (1,)}, by_name("F32"), {}, read)
    assert found["general.license"] == "mit"


@pytest.mark.parametrize(
    "text", ["", "x", "---", "---\nlicense: mit\n", "# T\n---\nlicense: mit\n---\n", "---\n---\n", "----\n"]
)
def test_no_front_matter(text: str, tmp_path: Path) -> None:
    assert card.read(tmp_path, CARD_KEYS) == ({}, [])
    (tmp_path / "README.md").write_text(text)
    assert card.read(tmp_path, CARD_KEYS) == ({}, [])


def test_a_repository_is_called_by_its_id(tmp_path: Path) -> None:
    folder = tmp_path / "models--acme--Tiny-Llama-35K-Instruct" / "snapshots" / "0123abcd"
    tiny.checkpoint(folder)
    (folder / "config.json").write_text(json.dumps({**tiny.config(), "_name_or_path": "meta-llama/Llama-2-7b-hf"}))
    convert(folder, tmp_path / "m.gguf", "F32")
    fields = {key: value for key, (_, value) in tiny.gguf_fields(tmp_path / "m.gguf").items()}
    assert {key: value for key, value in fields.items() if key.startswith(("general.", "gguflike.source"))} == {
        "general.architecture": "llama",
        "general.type": "model",
        "general.name": "Tiny Llama 35K Instruct",
        "general.organization": "Acme",
        "general.basename": "Tiny-Llama",
        "general.finetune": "Instruct",
        "general.size_label": "35K",
        "general.source.repo_url": "https://huggingface.co/acme/Tiny-Llama-35K-Instruct",
        "general.file_type": 0,
        "general.quantization_version": 2,
        "gguflike.source": "acme/Tiny-Llama-35K-Instruct",
        "gguflike.source.revision": "0123abcd",
    }


def test_a_name_that_is_not_utf_8(tmp_path: Path) -> None:
    folder = tiny.checkpoint(tmp_path / os.fsdecode(b"mod\xe9le"))
    with pytest.raises(CheckpointError, match=r"the model's name is not UTF-8.*name it by `name`"):
        convert(folder, tmp_path / "m.gguf", "F32")
    with pytest.raises(CheckpointError, match="the model's name is not UTF-8"):
        convert(folder, tmp_path / "m.gguf", "F32", name="\udce9")
    convert(folder, tmp_path / os.fsdecode(b"m\xe9.gguf"), "F32", name="Modèle")
    fields = tiny.gguf_fields(tmp_path / os.fsdecode(b"m\xe9.gguf"))
    assert fields["general.name"] == ("STRING", "Modèle")
    assert fields["gguflike.source"] == ("STRING", "mod\ufffdle")


def test_the_command_line_says_the_flag(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tiny.checkpoint(tmp_path / os.fsdecode(b"mod\xe9le"))
    assert main(["convert", str(folder), str(tmp_path / "m.gguf"), "-t", "F32"]) == 1
    assert "name it by --name" in capsys.readouterr().err
    assert main(["convert", str(folder), str(tmp_path / "m.gguf"), "-t", "F32", "--name", "x"]) == 0


def test_every_setting_of_generation(tmp_path: Path) -> None:
    settings = {"sequence": "k;p", "top_k": 40, "top_p": 1, "min_p": 0.1, "xtc_probability": 0.5, "xtc_threshold": 0.1}
    settings |= {"temperature": 0.7, "penalty_last_n": -1, "repetition_penalty": 1.1, "mirostat": 2, "mirostat_tau": 5}
    odd = {"mirostat_eta": True, "eos_token_id": 257, "do_sample": True}
    found = general("llama", "x", {"a": (1,)}, by_name("F32"), {**settings, **odd}, {})
    writer = gguf.GGUFWriter(None, "llama")
    (tmp_path / "generation_config.json").write_text(json.dumps({**settings, "penalty_repeat": 1.1}))
    gguf.Metadata.load(None, tmp_path, "x").set_gguf_meta_model(writer)
    want = {key: (value.type.name, value.value) for key, value in writer.kv_data[0].items() if ".sampling." in key}
    got = {key: (value.type.name, value.value) for key, value in found.items() if ".sampling." in key}
    assert got == want


def test_settings_of_generation_beyond_what_numbers_can_say() -> None:
    def of(**settings: float) -> dict[str, Any]:
        return general("llama", "x", {"a": (1,)}, by_name("F32"), settings, {})

    assert not any("sampling" in key for key in of(top_k=2**31))  # all tokens are fewer
    assert of(top_k=2**31 - 1)["general.sampling.top_k"].value == 2**31 - 1
    for value in (1e300, float("inf"), float("nan"), 10**400):
        with pytest.raises(CheckpointError, match=r"generation_config.json: (temperature|top_k): setting"):
            of(temperature=value)
