"""Multi-token-prediction heads: files of llama.cpp's converter have the same tensors, and llama.cpp loads ours."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import gguflike
from gguflike import container, runner
from gguflike.families import registry
from gguflike.reference import mtp
from gguflike.reference.formulas import Context, normalize
from gguflike.reference.forward import blocks
from tests.interop.families import converter
from tests.interop.families.processes import Kept
from tests.measures import largest_error
from tests.mtp_models import PROMPT, VARIANTS, converted, stored, values

FAMILIES = Path(converter.__file__).parent

UNREAD = ("windows", "norms behind", "norms on both sides")  # whose heads it writes and does not compute


@pytest.fixture(scope="module")
def process() -> Iterator[Kept]:
    kept = Kept(FAMILIES / "converter_process.py", converter.source_tree(), environment={"PYTHONPATH": ""})
    yield kept
    kept.close()


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_converter_of_llama_cpp_keeps_the_same(tmp_path: Path, process: Kept, variant: str) -> None:
    path, other = converted(tmp_path, values(VARIANTS[variant])), tmp_path / "other.gguf"
    ropes = {"rope_theta": 1e4, "partial_rotary_factor": 0.5}  # where it asks for it of MiMo V2
    published: dict[str, object] = {"rope_parameters": ropes} if variant.startswith("three") else {}
    asked = {"pre": "smollm", "published": published, "removed": [], "heads": True}
    process.ask(folder=str(tmp_path / "hf"), out=str(other), **asked)
    ours, theirs = stored(path), stored(other)
    assert ours.keys() == theirs.keys()
    assert all(x.shape == theirs[name].shape and np.allclose(x, theirs[name]) for name, x in ours.items())
    with container.open(path) as first, container.open(other) as second:
        keys = {key for key in first.metadata if key.startswith(f"{first.architecture}.") and key in second.metadata}
        assert {f"{first.architecture}.{key}" for key in ("block_count", "nextn_predict_layers")} <= keys
        for key in keys:
            assert np.array_equal(first.metadata[key], second.metadata[key]), key


@pytest.mark.parametrize("variant", VARIANTS)
def test_llama_cpp_computes_the_same_without_the_head(tmp_path: Path, variant: str) -> None:
    path, out = converted(tmp_path, values(VARIANTS[variant])), tmp_path / "logits.npy"
    kept = Kept(FAMILIES / "llamacpp_process.py")
    kept.ask(path=str(path), ids=PROMPT, out=str(out))
    kept.close()
    with runner.load(path, cache_type="f32") as model:
        assert largest_error(model.logits(PROMPT), np.load(out)) < 1e-4


def fused(path: Path, out: Path) -> Path:
    """The file with one matrix for queries, keys and values in each block of a head, which llama.cpp asks for."""
    with container.open(path) as file:
        count = int(file.metadata[f"{file.architecture}.block_count"])
        first = count - int(file.metadata[f"{file.architecture}.nextn_predict_layers"])
        of = dict(file.tensors)
        for layer in range(first, count):
            parts = [of.pop(f"blk.{layer}.attn_{name}.weight").dequantize() for name in "qkv"]
            name = f"blk.{layer}.attn_qkv.weight"
            of[name] = gguflike.quantize(np.concatenate(parts), "F32", name=name)
        container.write(out, {key: file.metadata.typed(key) for key in file.metadata}, of.values())
    return out


@pytest.mark.parametrize("variant", [each for each in VARIANTS if each not in UNREAD])
def test_llama_cpp_computes_the_same_heads(tmp_path: Path, variant: str) -> None:
    path, out, before = converted(tmp_path, values(VARIANTS[variant])), tmp_path / "logits.npy", tmp_path / "before.npy"
    tensors, kept = stored(path), Kept(FAMILIES / "mtp_process.py")
    with container.open(path) as file:
        family = registry.for_gguf(str(file.architecture))
        graph = family.of_file(file.metadata, file.infos).graph(family.from_file(file.metadata, file.infos))
    x = blocks(graph, tensors, tensors["token_embd.weight"][PROMPT], Context(length=len(PROMPT)))
    normed = normalize(graph.norm, tensors, x)
    path = fused(path, tmp_path / "fused.gguf") if variant == "three" else path
    for number, head in enumerate(graph.mtp):
        given = (normed if head.inputs[0].normed else x)[:-1]
        ids = PROMPT[1 + number :]
        np.save(before, given)
        kept.ask(path=str(path), ids=ids, before=str(before), number=number, out=str(out))
        assert largest_error(mtp.logits(graph, tensors, PROMPT, number), np.load(out)) < 1e-4
        x = mtp.made(head, tensors, ids, given)
        normed = normalize(head.norm, tensors, x)
    kept.close()
