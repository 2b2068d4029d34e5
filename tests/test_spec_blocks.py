"""spec/blocks and spec/tables: a page per type that matches the table, and worked blocks that decode as they say."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from gguflike.blocks import BlockFormat
from tests.block_samples import ALL, ids

ROOT = Path(__file__).parent.parent
PAGES = ROOT / "spec" / "blocks"


def test_generated_parts_are_up_to_date() -> None:
    run = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "gen_spec.py"), "--check"], capture_output=True, text=True
    )
    assert run.returncode == 0, run.stdout + run.stderr


def test_every_page_belongs_to_a_type() -> None:
    assert {path.stem for path in PAGES.glob("*.md")} == {fmt.name.lower() for fmt in ALL}


def fenced(text: str, kind: str) -> str:
    (content,) = re.findall(rf"```{kind}\n(.*?)```", text, re.DOTALL)
    return str(content)


@pytest.mark.parametrize("fmt", ALL, ids=ids(ALL))
def test_the_worked_block_decodes_as_the_page_says(fmt: BlockFormat) -> None:
    text = (PAGES / f"{fmt.name.lower()}.md").read_text()
    raw = b""
    for token in fenced(text, "block").split():  # "0f" or, for a run, "00*14"
        byte, _, times = token.partition("*")
        raw += bytes.fromhex(byte) * int(times or 1)
    assert fmt.decode is not None
    values = fmt.decode(np.frombuffer(raw, fmt.dtype))[0]
    lines = [re.fullmatch(r"(\d+): (\S+) +# .+", line) for line in fenced(text, "values").splitlines()]
    assert lines
    for line in lines:
        assert line is not None
        index, said = int(line[1]), np.float32(line[2])
        assert values[index].astype(np.float32).tobytes() == said.tobytes(), line[0]


@pytest.mark.parametrize("fmt", ALL, ids=ids(ALL))
def test_every_page_says_what_a_reader_needs(fmt: BlockFormat) -> None:
    text = (PAGES / f"{fmt.name.lower()}.md").read_text()
    headings = re.findall(r"^## (.+)$", text, re.MULTILINE)
    assert headings[0] == "Bits"
    assert "Zero, NaN, infinity" in headings
    assert all(f"`{f.name}" in text.split("## Bits")[1] or not fmt.is_quantized for f in fmt.fields)
