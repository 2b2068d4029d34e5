"""llama.cpp's converter, from the source tree that llama-cpp-python's archive on PyPI carries."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

from tests.interop.families.processes import Kept
from tests.interop.families.row import Row

VERSION = "0.3.36"
MODELS = Path(os.environ.get("GGUFLIKE_MODELS") or Path.home() / ".cache" / "gguflike-models")
#: What tokenizer.ggml.pre the "bpe" vocabulary gets: it splits as SmolLM2's.
PRE = {"bpe": "smollm", "framed bpe": "smollm", "wordpiece": "jina-v2-en", "spm": "default", "unigram": "default"}


def source_tree() -> Path:
    """llama.cpp's tree, downloaded once."""
    target = MODELS / "llama.cpp"
    if target.exists():
        return target
    MODELS.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=MODELS) as folder:
        download = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", "llama-cpp-python"]
        subprocess.run(
            [*download, "--dest", folder, f"llama-cpp-python=={VERSION}"],
            check=False,  # pip also asks the archive for its metadata, which may need cmake; the archive is there then
            capture_output=True,
        )
        (archive,) = Path(folder).glob("*.tar.gz")
        with tarfile.open(archive) as tar:
            tar.extractall(folder, filter="data")
        (tree,) = Path(folder).glob("*/vendor/llama.cpp")
        shutil.move(tree, target)
    return target


class Converter:
    """llama.cpp's converter, kept running."""

    def __init__(self) -> None:
        # Where sentencepiece and protobuf are, if not with the other packages.
        more = {"PYTHONPATH": os.environ.get("GGUFLIKE_CONVERTER_PATH", "")}
        self._kept = Kept(Path(__file__).with_name("converter_process.py"), source_tree(), environment=more)

    def convert(self, row: Row, folder: Path, out: Path) -> None:
        """Convert the ``folder`` of ``row`` to F32. Refused with what the converter raised."""
        published = {key: value for key, value in row.published.items() if value is not ...}
        removed = sorted(row.published.keys() - published.keys())
        if published:
            folder = _with_config(folder, folder.with_name("published"), published)
        self._kept.ask(folder=str(folder), out=str(out), pre=PRE[row.tokenizer], published=published, removed=removed)

    def close(self) -> None:
        self._kept.close()


def _with_config(folder: Path, copy: Path, changes: dict[str, Any]) -> Path:
    """A copy of a folder with more in its config.json; the other files are links."""
    copy.mkdir()
    for path in folder.iterdir():
        if path.name == "config.json":
            (copy / path.name).write_text(json.dumps({**json.loads(path.read_text()), **changes}))
        else:
            (copy / path.name).symlink_to(path)
    return copy
