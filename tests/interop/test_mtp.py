"""Multi-token-prediction heads: files of llama.cpp's converter have the same tensors, and llama.cpp loads ours."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from gguflike import container, runner
from tests.interop.families import converter
from tests.interop.families.processes import Kept
from tests.measures import largest_error
from tests.mtp_models import PROMPT, VARIANTS, converted, stored, values

FAMILIES = Path(converter.__file__).parent


@pytest.fixture(scope="module")
def process() -> Iterator[Kept]:
    kept = Kept(FAMILIES / "converter_process.py", converter.source_tree(), environment={"PYTHONPATH": ""})
    yield kept
    kept.close()


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_converter_of_llama_cpp_keeps_the_same(tmp_path: Path, process: Kept, variant: str) -> None:
    path, other = converted(tmp_path, values(VARIANTS[variant])), tmp_path / "other.gguf"
    ropes = {"rope_theta": 1e4, "partial_rotary_factor": 0.5}  # where it asks for it of MiMo V2
    published = {"rope_parameters": ropes} if variant == "three" else {}
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
