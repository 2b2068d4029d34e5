"""The inspect document: exact keys, true figures, and JSON whatever the file holds."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from gguf import GGUFReader, LlamaFileType

import gguflike
from gguflike.container import Typed, ValueType
from gguflike.container.file_types import FILE_TYPES
from gguflike.convert.recipe import RECIPES
from gguflike.inspect.description import LONGEST_STRING, describe


def write(path: Path, metadata: dict[str, object], tensors: list[gguflike.QuantizedTensor]) -> dict[str, object]:
    gguflike.write(path, metadata, tensors)
    with gguflike.open(path) as file:
        document = describe(file)
    json.dumps(document, allow_nan=False)
    return document


def test_figures_are_those_of_the_gguf_package(tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    rng = np.random.default_rng(0)
    tensors = [
        gguflike.quantize(rng.standard_normal((4, 512)), "F32", name="norm"),
        gguflike.quantize(rng.standard_normal((3, 5, 64)), "Q8_0", name="blk.0.x"),
    ]
    document = write(path, {"general.architecture": "llama", "general.file_type": 7}, tensors)
    keys = "format version architecture file_type parameters file_bytes bits_per_weight metadata quality tensors"
    assert list(document) == keys.split()
    theirs = GGUFReader(path).tensors
    assert document["tensors"] == [
        {
            "name": t.name,
            "shape": [int(n) for n in reversed(t.shape)],
            "type": t.tensor_type.name,
            "bytes": int(t.n_bytes),
            "offset": int(t.data_offset),
        }
        for t in theirs
    ]
    weights, bits = sum(int(t.n_elements) for t in theirs), 8 * sum(int(t.n_bytes) for t in theirs)
    assert document["parameters"] == weights == 4 * 512 + 3 * 5 * 64
    assert document["bits_per_weight"] == bits / weights
    assert document["file_bytes"] == path.stat().st_size
    assert (document["format"], document["version"], document["architecture"]) == ("GGUF", 3, "llama")
    assert document["file_type"] == "Q8_0"
    assert document["quality"] == []


def test_every_value_becomes_json(tmp_path: Path) -> None:
    tokens = [f"t{i}" for i in range(1000)]
    document = write(
        tmp_path / "a.gguf",
        {
            "a.tokens": tokens,
            "a.short": [1, 2, 3],
            "a.floats": np.array([1.5, np.nan, np.inf, -np.inf], np.float32),
            "a.nan": float("nan"),
            "a.flag": True,
            "a.wide": Typed(2**64 - 1, ValueType.UINT64),
            "a.text": "é\n",
            "a.long": "x" * (LONGEST_STRING + 5),
            "a.empty": Typed([], ValueType.ARRAY, ValueType.STRING),
        },
        [],
    )
    metadata = document["metadata"]
    assert metadata["a.tokens"] == {"array": "string", "count": 1000, "first": tokens[:8]}
    assert metadata["a.short"] == [1, 2, 3]
    assert metadata["a.floats"] == [1.5, "NaN", "Infinity", "-Infinity"]
    assert metadata["a.nan"] == "NaN"
    assert metadata["a.flag"] is True
    assert metadata["a.wide"] == 2**64 - 1
    assert metadata["a.text"] == "é\n"
    assert metadata["a.long"] == {"string": "x" * LONGEST_STRING, "count": LONGEST_STRING + 5}
    assert metadata["a.empty"] == []
    assert document["bits_per_weight"] is None
    assert document["file_type"] is None
    assert document["architecture"] is None


def test_strings_that_are_not_utf8(tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    gguflike.write(path, {"a.text": "QQQQ", "a.list": ["QQQQ"]}, [])
    path.write_bytes(path.read_bytes().replace(b"QQQQ", b"\xff\xfeab"))
    with gguflike.open(path) as file:
        document = describe(file)
    assert document["metadata"]["a.text"] == {"bytes": "fffe6162"}
    assert document["metadata"]["a.list"] == [{"bytes": "fffe6162"}]


def test_odd_file_types(tmp_path: Path) -> None:
    for number, name in ((999, "unknown (999)"), ([1, 2], "unknown ([1, 2])"), ("x", "unknown ('x')"), (15, "Q4_K_M")):
        document = write(tmp_path / "a.gguf", {"general.file_type": number}, [])
        assert document["file_type"] == name


def test_file_types_are_llama_cpps_and_the_recipes() -> None:
    theirs = {int(kind): kind.name.removeprefix("MOSTLY_").removeprefix("ALL_") for kind in LlamaFileType}
    ours = {number: name.replace("guessed", "GUESSED") for number, name in FILE_TYPES.items()}
    assert ours == theirs | {41: "Q2_0"}  # newer than the gguf package
    for recipe in RECIPES.values():
        assert FILE_TYPES[recipe.file_type] in (recipe.name, recipe.name + "_MOE")
