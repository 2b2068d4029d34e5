"""gguflike browse: the pages, what is looked for, and the figures of a tensor; driven without a terminal."""

from __future__ import annotations

import asyncio
import io
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gguflike
from gguflike.cli import main

pytest.importorskip("textual")

from textual.widgets import Static, TabbedContent

from gguflike.cli.browser import Browser, Rows

Act = Callable[[Browser, Any], Awaitable[None]]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    chance = np.random.default_rng(0)
    kinds = {"blk.0.attn_q.weight": "Q4_K", "blk.1.attn_q.weight": "Q8_0", "blk.0.ffn_up.weight": "F16"}
    tensors = [
        gguflike.quantize(chance.standard_normal((8, 256)).astype(np.float32), kind, name=name)
        for name, kind in kinds.items()
    ]
    metadata = {
        "general.architecture": "llama",
        "general.name": "a [bold]name[/bold]\x1b[31m",
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": ["<s>", "</s>", "a", "[red]b"],
        "tokenizer.chat_template": "{{ messages }}\nsecond line",
        "long": "x" * 300 + "end",
    }
    gguflike.write(tmp_path / "model.gguf", metadata, tensors)
    return tmp_path / "model.gguf"


def browse(file: Path, act: Act) -> None:
    async def steps() -> None:
        with gguflike.open(file) as opened:
            app = Browser(opened, str(file))
            async with app.run_test(size=(120, 40)) as pilot:
                await pilot.pause()
                await act(app, pilot)

    asyncio.run(steps())


def shown(app: Browser, name: str) -> str:
    return str(app.query_one(name, Static).content)


def names(app: Browser, table: str) -> list[str]:
    rows = app.query_one(table, Rows)
    return [str(rows.get_row_at(at)[0]) for at in range(rows.row_count)]


def test_the_pages(file: Path) -> None:
    async def act(app: Browser, pilot: Any) -> None:
        first = str(app.query("#file Static").first(Static).content)
        assert "architecture" in first
        assert "[bold]name[/bold]\\x1b[31m" in first  # neither markup nor control characters
        assert "second line" in str(app.query("#templates Static").first(Static).content)
        assert names(app, "#of-tokens") == ["0", "1", "2", "3"]
        assert len(names(app, "#of-tensors")) == 3
        await pilot.press("q")

    browse(file, act)


def test_looking_for_rows_and_sorting(file: Path) -> None:
    async def act(app: Browser, pilot: Any) -> None:
        app.query_one(TabbedContent).active = "tensors"
        await pilot.pause()
        await pilot.press("slash")
        await pilot.pause()
        await pilot.press(*"attn", "enter")
        await pilot.pause()
        assert names(app, "#of-tensors") == ["blk.0.attn_q.weight", "blk.1.attn_q.weight"]
        await pilot.press("escape")
        await pilot.pause()
        assert len(names(app, "#of-tensors")) == 3
        for _ in range(5):  # to the column of bits
            await pilot.press("s")
        await pilot.pause()
        assert names(app, "#of-tensors") == ["blk.0.attn_q.weight", "blk.1.attn_q.weight", "blk.0.ffn_up.weight"]

    browse(file, act)


def test_a_tensor_and_a_value(file: Path) -> None:
    async def act(app: Browser, pilot: Any) -> None:
        app.query_one(TabbedContent).active = "tensors"
        await pilot.pause()
        app.query_one("#of-tensors", Rows).focus()
        await pilot.press("enter")
        await app.workers.wait_for_complete()
        await pilot.pause()
        text = shown(app, "#tensor")
        assert text.startswith("blk.0.attn_q.weight")
        assert "weights    2,048" in text
        assert "scales" in text
        app.query_one(TabbedContent).active = "metadata"
        await pilot.pause()
        rows = app.query_one("#of-metadata", Rows)
        rows.focus()
        rows.move_cursor(row=names(app, "#of-metadata").index("long"))
        await pilot.press("enter")
        await pilot.pause()
        assert shown(app, "#value").endswith("xend")

    browse(file, act)


def test_a_vocabulary_that_is_none(tmp_path: Path) -> None:
    metadata = {"tokenizer.ggml.tokens": 7, "tokenizer.chat_template.a\x1b[31m": "b\x1b[2J"}
    gguflike.write(tmp_path / "odd.gguf", metadata, [])

    async def act(app: Browser, pilot: Any) -> None:
        assert names(app, "#of-tokens") == []
        assert "\x1b" not in str(app.query("#templates Static").first(Static).content)

    browse(tmp_path / "odd.gguf", act)


def test_it_needs_a_terminal(file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    assert main(["browse", str(file)]) == 2
    assert "needs a terminal" in capsys.readouterr().err


@pytest.mark.parametrize("missing", ["textual", "rich"])
def test_a_missing_package_is_a_sentence(
    file: Path, missing: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == missing or name == "gguflike.cli.browser"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, missing, None)  # type: ignore[arg-type]

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stdin", Terminal())
    monkeypatch.setattr(sys, "stdout", Terminal())
    assert main(["browse", str(file)]) == 2
    assert "pip install 'gguflike[browse]'" in capsys.readouterr().err
