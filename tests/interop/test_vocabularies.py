"""Large vocabularies that llama.cpp publishes with golden ids, and llama.cpp itself, on the same texts.

The files are not in the repository: $GGUFLIKE_VOCAB names their folder, by default ../shared/vocab; further ones are
in the folder ``models`` of llama.cpp's source. X.gguf.inp holds texts separated by lines ``__ggml_vocab_test__``, and
line n of X.gguf.out the ids of text n.
"""

from __future__ import annotations

import json
import os
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gguflike
from gguflike.checkpoint.tokenizer import metadata_from_folder, read
from gguflike.checkpoint.tokenizer_json import tokenizer_config_from_metadata, tokenizer_json_from_metadata
from gguflike.convert.proof import prove
from gguflike.runner.tokenizer import Tokenizer
from tests.interop.conftest import MODELS, TEXT

FOLDER = Path(os.environ.get("GGUFLIKE_VOCAB") or Path(__file__).parents[3] / "shared" / "vocab")
FOLDERS = (FOLDER, MODELS / "llama.cpp" / "models")
NAMES = ("gpt-2", "llama-bpe", "qwen2", "llama-spm", "phi-3", "bert-bge", "nomic-bert-moe", "gemma-4", "command-r")
NAMES += ("deepseek-coder", "deepseek-llm", "falcon", "mpt", "refact", "starcoder", "qwen35")
NAMES += ("gpt-neox", "baichuan", "aquila")
WITHOUT_GOLDENS = ("nomic-bert-moe", "gpt-neox", "baichuan", "aquila")
# Of WordPiece, whose texts are taken apart: llama.cpp orders the parts of Korean syllables otherwise than Unicode does,
# and strips spacing marks (of Hindi, say), not accents alone. The models were trained with what transformers does.
TAKEN_APART = ("bert-bge",)
# Names of pre-tokenizers that split alike: of a rule, a folder tells the first.
SPLIT_ALIKE = ("command-r", "mpt", "refact", "starcoder")
AWKWARD = (
    "<|im_start|>user\nhi<|im_end|>\n<|endoftext|> x",
    "<s> a b <s>  c",
    "<|eot_id|>hi<|begin_of_text|> there <|end|> you",
    "<unk>x",
    "  two  spaces ",
    "▁▁ x<0x0A>",
    "----====....   x",
    "a\u0301 e\u0301 \u200d\ufeff",
)


pytestmark = pytest.mark.timeout(900)  # the largest vocabularies, on a busy machine


@pytest.fixture(scope="module", params=NAMES)
def vocabulary(request: pytest.FixtureRequest) -> tuple[Path, dict[str, Any]]:
    name = f"ggml-vocab-{request.param}.gguf"
    path = next((folder / name for folder in FOLDERS if (folder / name).exists()), None)
    if path is None:
        pytest.skip(f"{name} is missing; set GGUFLIKE_VOCAB")
    with gguflike.open(path) as file:
        return path, dict(file.metadata)


def goldens(path: Path) -> list[tuple[str, list[int]]]:
    """(text, ids) as published beside a vocabulary."""
    if any(f"-{name}.gguf" in path.name for name in WITHOUT_GOLDENS):
        pytest.skip("published without goldens")
    texts = path.with_name(path.name + ".inp").read_bytes().decode().split("\n__ggml_vocab_test__\n")
    lines = path.with_name(path.name + ".out").read_text().split("\n")
    lines = lines[: len(texts)] if lines[-1] == "" else lines  # some end with a line break
    assert len(texts) in (46, 47, 51)
    return [(text, [int(number) for number in line.split()]) for text, line in zip(texts, lines, strict=True)]


def test_golden_ids(vocabulary: tuple[Path, dict[str, Any]]) -> None:
    path, metadata = vocabulary
    tokenizer = Tokenizer(metadata)
    for text, ids in goldens(path):
        assert tokenizer.encode(text, add_special=False) == ids, text


def test_golden_ids_as_llama_cpp_reads_what_is_written(vocabulary: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    """Exported, converted again with its proof, and loaded by llama.cpp."""
    import llama_cpp

    path, metadata = vocabulary
    expected = goldens(path)
    folder = exported(metadata, tmp_path)
    found = read(folder, json.loads((folder / "config.json").read_text()), general={"general.name": "x"})
    if metadata["tokenizer.ggml.model"] != "bert":  # of which taken apart, see above
        prove(found, found.metadata)
    general = {"general.architecture": "llama", "general.name": metadata["general.name"]}
    gguflike.write(tmp_path / "again.gguf", general | found.metadata, {})
    peer = llama_cpp.Llama(str(tmp_path / "again.gguf"), vocab_only=True, verbose=False)
    ours = Tokenizer(general | found.metadata)
    for text, ids in expected:
        assert peer.tokenize(text.encode(), add_bos=False) == ids, text
        assert ours.encode(text, add_special=False) == ids, text


def exported(metadata: dict[str, Any], folder: Path) -> Path:
    """A folder with the tokenizer's files, and as much of config.json as they need."""
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer_json_from_metadata(metadata)))
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer_config_from_metadata(metadata)))
    kind = metadata["tokenizer.ggml.model"] if metadata["tokenizer.ggml.model"] in ("bert", "gemma4") else "llama"
    config = {"model_type": kind, "vocab_size": len(metadata["tokenizer.ggml.tokens"])}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_ids_and_end_tokens_are_llama_cpps(vocabulary: tuple[Path, dict[str, Any]]) -> None:
    import llama_cpp

    path, metadata = vocabulary
    peer = llama_cpp.Llama(str(path), vocab_only=True, verbose=False)
    tokenizer = Tokenizer(metadata)
    for text in (TEXT.read_text(encoding="utf-8"), (Path(__file__).parent / "many_scripts.txt").read_text(), *AWKWARD):
        for special in (False, True):
            if any(name in path.name for name in TAKEN_APART):
                text = "".join(c for c in text if not "\uac00" <= c <= "\ud7a3" and unicodedata.category(c) != "Mc")
            theirs = peer.tokenize(text.encode(), add_bos=True, special=special)
            assert tokenizer.encode(text, parse_special=special) == theirs, text
    ends = {i for i in range(tokenizer.vocab_size) if llama_cpp.llama_vocab_is_eog(peer._model.vocab, i)}
    assert tokenizer.eos_ids == ends


def test_there_and_back(vocabulary: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    """Exported, and read from the folder again: the same tokenizer, whoever reads it."""
    from transformers import AutoTokenizer

    _, metadata = vocabulary
    document = tokenizer_json_from_metadata(metadata)
    config = json.loads((exported(metadata, tmp_path) / "config.json").read_text())
    kind = config["model_type"]
    again = metadata_from_folder(tmp_path, config)
    again |= {key: metadata[key] for key in ("general.name", "general.architecture")}
    assert tokenizer_json_from_metadata(again) == document
    used = np.array(metadata["tokenizer.ggml.token_type"]) != 5  # the rest fills up the embedding, under any name
    tokens = (np.array(each["tokenizer.ggml.tokens"], object)[used] for each in (again, metadata))
    assert np.array_equal(*tokens)
    for key in ("model", "pre", "merges", "bos_token_id", "eos_token_id"):
        unread = key == "pre" and (kind == "bert" or metadata.get("tokenizer.ggml.pre") in SPLIT_ALIKE)
        if f"tokenizer.ggml.{key}" in metadata and not unread:
            assert np.array_equal(again[f"tokenizer.ggml.{key}"], metadata[f"tokenizer.ggml.{key}"]), key
    ours, theirs = Tokenizer(again), AutoTokenizer.from_pretrained(tmp_path)
    text = TEXT.read_text(encoding="utf-8")
    assert ours.encode(text, add_special=False) == theirs.encode(text, add_special_tokens=False)


@pytest.mark.parametrize(
    "name",
    ["youtu", "kimi-k2", "afmoe", "chameleon", "laguna", "jais-2", "granite-embed-multi-97m", "ufakzeka", "glm5"],
)
def test_pre_tokenizers_are_llama_cpps(name: str, tmp_path: Path) -> None:
    """A vocabulary of which no model is at hand: what counts is where its pre-tokenizer splits the texts."""
    import llama_cpp

    path = FOLDER / "ggml-vocab-gpt-2.gguf"
    if not path.exists():
        pytest.skip(f"{path} is missing; set GGUFLIKE_VOCAB")
    with gguflike.open(path) as file:
        metadata = {key: file.metadata.typed(key) for key in file.metadata}
        ours = Tokenizer(dict(file.metadata) | {"tokenizer.ggml.pre": name})
    gguflike.write(tmp_path / "named.gguf", metadata | {"tokenizer.ggml.pre": name}, {})
    peer = llama_cpp.Llama(str(tmp_path / "named.gguf"), vocab_only=True, verbose=False)
    texts = path.with_name(path.name + ".inp").read_bytes().decode().split("\n__ggml_vocab_test__\n")
    texts += [
        (Path(__file__).parent / "many_scripts.txt").read_text(),
        "1234567 12 x1234y \u0661\u0662\u0663\u0664\u0665",
    ]
    texts += [
        "I'VE we'Re don't 'LL x'd",
        "HelloWORLDfooBar//path/to\n/x\r\n\r\n" + 600 * " " + "b",
        "<sentinel:12>IMGIMGABZ",
    ]
    for text in texts:
        assert ours.encode(text, add_special=False) == peer.tokenize(text.encode(), add_bos=False), text


def test_minilm_is_tokenized_as_transformers_does(tmp_path: Path) -> None:
    from tokenizers import Tokenizer as Original

    folder = MODELS / "minilm"
    if not folder.exists():
        pytest.skip(f"{folder} is missing")
    original = Original.from_file(str(folder / "tokenizer.json"))
    original.no_truncation()
    original.no_padding()
    ours = Tokenizer(metadata_from_folder(folder, json.loads((folder / "config.json").read_text())))
    for text in (TEXT.read_text(encoding="utf-8"), (Path(__file__).parent / "many_scripts.txt").read_text(), *AWKWARD):
        original.encode_special_tokens = True
        assert ours.encode(text) == original.encode(text).ids, text
