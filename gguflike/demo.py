"""The whole path on what the package carries: a small trained checkpoint, converted, measured, and made to talk.

The checkpoint (data/austen-kjv-6m) was trained on public-domain text; the page it is measured on (data/page.txt) is
from a book it never saw.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from gguflike.convert import convert
from gguflike.progress import Progress
from gguflike.runner import load

DATA = Path(__file__).with_name("data")
CHECKPOINT = DATA / "austen-kjv-6m"
PAGE = DATA / "page.txt"
TYPES = ("Q8_0", "Q4_K_M", "Q2_K")
PROMPT = "The next morning, when Elizabeth"
SPEED_TOKENS = 64


@dataclass(frozen=True)
class Result:
    """One converted file: ``file_bytes`` on disk, ``perplexity`` per token of the page, ``tokens_per_s`` of writing."""

    type: str
    path: Path
    file_bytes: int
    bits_per_weight: float
    perplexity: float
    tokens_per_s: float


def results(folder: Path, threads: int | None = None, progress: Progress | None = None) -> Iterator[Result]:
    """Convert the checkpoint to each type in ``folder``, and measure each file as it is done."""
    page = PAGE.read_text(encoding="utf-8")
    for kind in TYPES:
        path = folder / f"{CHECKPOINT.name}-{kind}.gguf"
        plan = convert(CHECKPOINT, path, kind, threads=threads, progress=progress)
        with load(path, threads=threads, progress=progress) as model:
            perplexity = model.perplexity(model.tokenize(page), progress=progress)
            speed = model.generate(PROMPT, SPEED_TOKENS).result().decode_tokens_per_s
        yield Result(
            type=kind,
            path=path,
            file_bytes=plan.file_bytes,
            bits_per_weight=plan.bits_per_weight,
            perplexity=perplexity,
            tokens_per_s=speed,
        )


def write(path: Path, tokens: int = 90, threads: int | None = None) -> Iterator[str]:
    """A few lines from the model in ``path``, piece by piece, the prompt first."""
    with load(path, threads=threads) as model:
        yield PROMPT
        for piece in model.generate(PROMPT, tokens, temperature=0.7, min_p=0.05, seed=7):
            yield piece.text
