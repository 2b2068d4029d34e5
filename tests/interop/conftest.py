"""Real models and heavy oracles: llama.cpp (llama-cpp-python), transformers. Everything here is marked ``interop``."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gguflike

MODELS = Path(os.environ.get("GGUFLIKE_MODELS") or Path.home() / ".cache" / "gguflike-models")
AUSTEN = Path(gguflike.__file__).parent / "data" / "austen-kjv-6m"
TEXT = Path(gguflike.__file__).parent / "data" / "page.txt"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.interop)
            item.add_marker(pytest.mark.filterwarnings("default"))


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """SmolLM2-135M-Instruct as others quantized it (Q4_1)."""
    path = MODELS / "SmolLM2-135M-Instruct.Q4_1.gguf"
    if not path.exists():
        pytest.fail(f"{path} is missing; run scripts/get_models.py")
    return path


@pytest.fixture(scope="session")
def exported(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SmolLM2 as a Hugging Face folder, made by our export."""
    folder = tmp_path_factory.mktemp("smollm2") / "hf"
    gguflike.export(smollm2, folder)
    return folder


@pytest.fixture(scope="session")
def converted(exported: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """``converted("Q8_0")``: the exported folder as a GGUF of that type, made once."""
    folder = tmp_path_factory.mktemp("gguf")

    def make(kind: str) -> Path:
        path = folder / f"smollm2-{kind}.gguf"
        if not path.exists():
            gguflike.convert(exported, path, type=kind)
        return path

    return make


@pytest.fixture(scope="session")
def in_float(converted: Callable[[str], Path]) -> Callable[[str], Path]:
    """``in_float("Q8_0")``: what that file's weights decode to, as float32, made once."""

    def make(kind: str) -> Path:
        path = converted(kind).with_suffix(".f32.gguf")
        if not path.exists():
            gguflike.quantize_file(converted(kind), path, type="F32")
        return path

    return make


@pytest.fixture(scope="session")
def austen(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """``austen("Q4_K_M")``: the bundled checkpoint as a GGUF of that type, made once."""
    folder = tmp_path_factory.mktemp("austen")

    def make(kind: str) -> Path:
        path = folder / f"austen-{kind}.gguf"
        if not path.exists():
            gguflike.convert(AUSTEN, path, type=kind)
        return path

    return make


class LlamaCpp:
    """The few things asked of llama.cpp."""

    def __init__(self, path: Path, context: int = 1024) -> None:
        from llama_cpp import Llama

        self.llama: Any = Llama(str(path), n_ctx=context, logits_all=True, verbose=False, n_threads=1)

    def tokenize(self, text: str, special: bool = False) -> list[int]:
        return list(self.llama.tokenize(text.encode(), add_bos=False, special=special))

    def logits(self, ids: list[int]) -> np.ndarray:
        self.llama.reset()
        self.llama.eval(ids)
        return np.array(self.llama.scores[: len(ids)], np.float64)

    def greedy(self, ids: list[int], count: int) -> list[int]:
        """Up to ``count`` tokens by argmax, ending before the end token."""
        self.llama.reset()
        self.llama.eval(ids)
        out: list[int] = []
        while len(out) < count:
            token = int(self.llama.scores[self.llama.n_tokens - 1].argmax())
            if token == self.llama.token_eos():
                break
            out.append(token)
            self.llama.eval([token])
        return out


@pytest.fixture(scope="session")
def llama_cpp() -> Callable[[Path], LlamaCpp]:
    return LlamaCpp
