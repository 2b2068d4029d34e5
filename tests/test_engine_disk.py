"""What was computed of texts, on a disk: found after a start anew, exact, checked, within its limit."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest

from gguflike import runner
from gguflike.engine import Engine
from gguflike.engine.disk import MAGIC, SUFFIX, Disk
from gguflike.engine.prefixes import Blocks, Texts
from gguflike.errors import OutputError
from gguflike.runner.sampling import Sampling
from gguflike.runner.state import BLOCK
from tests.engines import ask, loaded
from tests.serving import CONTEXT as SERVED
from tests.serving import model as file_to_serve
from tests.serving import post, serving

STEM = [(7 * i) % 251 for i in range(100)]
WARM: dict[str, Any] = {"sampling": Sampling(temperature=1.0, seed=3), "ignore_end": True}
KINDS = ["Q8_0 f16", "Q8_0 q8_0", "F16 f16", "windows", "recurrent", "latent"]


def files(folder: Path) -> list[Path]:
    return sorted(folder.glob(f"*{SUFFIX}"))


def answered(model: Any, folder: Path | None, *prompts: list[int], **settings: Any) -> list[tuple[list[int], int]]:
    """Tokens of the answers by an engine of its own, and how many of the prompt's were not computed."""
    with Engine(model, parallel=1, prefixes=folder, **settings) as engine:
        results = [ask(engine, prompt, 12, **WARM).wait() for prompt in prompts]
    return [(result.tokens, result.cached_tokens) for result in results]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("memory", [0, 1 << 24])
def test_a_text_is_found_after_a_start_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, memory: int
) -> None:
    folder = tmp_path / "made" / "here"
    with loaded(tmp_path, kind, monkeypatch) as model:
        ((first, cached),) = answered(model, folder, STEM, cache_bytes=memory)
        assert cached == 0
        if os.name == "posix":
            assert folder.stat().st_mode & 0o077 == 0
        others = [STEM, [*STEM[:70], 1, 2, 3], [*STEM, *first, 9]]
        alone = [answered(model, None, other)[0] for other in others]
        again = answered(model, folder, *others, cache_bytes=memory)
    assert [tokens for tokens, _ in again] == [tokens for tokens, _ in alone]
    assert again[0][1] > 0
    if kind not in ("windows", "recurrent"):
        assert again[0][1] == 96
        assert again[1][1] >= 64
    assert again[2][1] >= 96 or kind == "recurrent"


@pytest.mark.parametrize("kind", ["Q8_0 f16", "windows"])
def test_what_is_damaged_is_computed_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    heard: list[str] = []
    with loaded(tmp_path, kind, monkeypatch) as model:
        wanted = answered(model, tmp_path / "kept", STEM)[0][0]
        for path in files(tmp_path / "kept"):
            data = bytearray(path.read_bytes())
            data[-100] ^= 1
            path.write_bytes(data)
        damaged = files(tmp_path / "kept")
        tokens, cached = answered(model, tmp_path / "kept", STEM, notice=heard.append)[0]
        assert (tokens, cached) == (wanted, 0)
        assert "damaged" in heard[0]
        assert "computing it anew" in heard[0]
        tokens, cached = answered(model, tmp_path / "kept", STEM, notice=heard.append)[0]
        assert tokens == wanted
        assert cached > 0  # they were written anew
    assert len(files(tmp_path / "kept")) <= len(damaged)


@pytest.mark.parametrize("tokens", ["null", "7", '"a"', "[[1]]", "[1.5]", "{}"])
def test_a_header_whose_tokens_are_none_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tokens: str
) -> None:
    """The headers of all files are read at the start of an engine, before any of them is checked."""
    folder = tmp_path / "kept"
    with loaded(tmp_path, "recurrent", monkeypatch) as model:
        ((first, _),) = answered(model, folder, STEM, cache_bytes=1 << 24)
        for path in files(folder):
            data = path.read_bytes()
            start = len(MAGIC) + 8
            length = int.from_bytes(data[len(MAGIC) : start], "little")
            header = re.sub(rb'"tokens": \[[^]]*\]', b'"tokens": ' + tokens.encode(), data[start : start + length])
            assert header != data[start : start + length]
            path.write_bytes(MAGIC + len(header).to_bytes(8, "little") + header + data[start + length :])
        assert answered(model, folder, STEM, cache_bytes=1 << 24) == [(first, 0)]


def test_a_file_that_is_another_text_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[str] = []
    other = [STEM[0] + 1, *STEM[1:]]
    with loaded(tmp_path, "Q8_0 f16", monkeypatch) as model:
        answered(model, tmp_path / "kept", STEM[: BLOCK + 1])
        mine = files(tmp_path / "kept")[0]
        wanted = answered(model, tmp_path / "others", other[: BLOCK + 1])[0]
        for path in files(tmp_path / "others"):
            path.write_bytes(mine.read_bytes())
        found = answered(model, tmp_path / "others", other[: BLOCK + 1], notice=heard.append)[0]
        assert found == wanted
        assert "another name" in heard[0]
        for path in files(tmp_path / "others"):
            path.write_bytes(MAGIC[:-3])
        found = answered(model, tmp_path / "others", other[: BLOCK + 1], notice=heard.append)[0]
        assert found == wanted
        assert len(heard) == 2


def test_another_context_model_or_way_to_round_is_another_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with loaded(tmp_path, "Q8_0 f16", monkeypatch) as model:
        answered(model, tmp_path / "kept", STEM)
    ways: list[dict[str, Any]] = [{"context": 128}, {"cache_type": "q8_0"}, {"activations": "adaptive"}]
    for way in ways:
        with runner.load(tmp_path / "m.gguf", threads=1, **way) as model:
            assert answered(model, tmp_path / "kept", STEM)[0][1] == 0
    with runner.load(tmp_path / "m.gguf", threads=2) as model:
        assert answered(model, tmp_path / "kept", STEM)[0][1] == 96


def test_the_disk_has_its_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = tmp_path / "kept"
    with loaded(tmp_path, "Q8_0 f16", monkeypatch) as model:
        answered(model, kept, STEM)
        count, each = len(files(kept)), files(kept)[0].stat().st_size
        limit = each * (count + 1) + 64
        for path in files(kept):
            os.utime(path, (1, 1))
        others = [[number, *STEM[1:]] for number in range(100, 103)]
        answered(model, kept, *others, cache_bytes=0, prefix_bytes=limit)
        assert sum(path.stat().st_size for path in files(kept)) <= limit
        found = answered(model, kept, others[-1], STEM, cache_bytes=0, prefix_bytes=limit)
        assert found[0][1] == 96
        assert found[1][1] == 0
        assert answered(model, None, STEM)[0][0] == found[1][0]


def test_memory_has_its_limit_also_where_a_file_behind_others_is_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = tmp_path / "kept"
    with loaded(tmp_path, "Q8_0 f16", monkeypatch) as model:
        answered(model, kept, STEM)
        with Engine(model, parallel=1, cache_bytes=0) as engine:
            ask(engine, STEM[:70], 1).wait()
            slot = engine._together.slots[0]
            held, each = list(slot.tokens), slot.states.block(0).nbytes
            disk, name = Disk(kept, 1 << 30, model, lambda _: None), ""
            for first in range(0, 3 * BLOCK, BLOCK):
                name = disk.name(name, STEM[first : first + BLOCK])
            disk._path(name).write_bytes(disk._path(name).read_bytes()[:-1])
            there = Blocks(each, disk)
            there.load(slot, STEM)  # no more than it has already
            disk.close()
            assert slot.tokens == held
            assert there.nbytes == each
            assert len(there._path(STEM)) == 1  # what is left is the beginning


def test_memory_has_its_limit_also_where_a_window_has_moved_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = tmp_path / "kept"
    with loaded(tmp_path, "windows", monkeypatch) as model:
        answered(model, kept, [*STEM, *STEM[::-1], *STEM[:40]])
        with Engine(model, parallel=1, cache_bytes=0) as engine:
            ask(engine, STEM[:70], 1).wait()
            slot = engine._together.slots[0]
            held, disk, used = list(slot.tokens), Disk(kept, 1 << 30, model, lambda _: None), []
            read = disk.get
            monkeypatch.setattr(disk, "get", lambda name: used.append(name) or read(name))
            there = Texts(0, disk)
            there.load(slot, STEM)
            disk.close()
            assert used
            assert slot.tokens == held
            assert there.nbytes == 0


def test_a_folder_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[str] = []
    with loaded(tmp_path, "Q8_0 f16", monkeypatch) as model:
        with pytest.raises(OutputError, match="cannot be made"):
            Engine(model, prefixes=tmp_path / "m.gguf" / "below")
        wanted = answered(model, None, STEM)
        with Engine(model, parallel=1, prefixes=tmp_path / "gone", notice=heard.append) as engine:
            (tmp_path / "gone").rmdir()
            assert ask(engine, STEM, 12, **WARM).wait().tokens == wanted[0][0]
    assert "not kept" in heard[0]


def test_a_server_that_is_started_anew(tmp_path: Path) -> None:
    path = file_to_serve(tmp_path)
    body = {"prompt": "Once upon a time " * 12, "max_tokens": 9, "temperature": 1, "seed": 4}
    answers = []
    for _ in range(2):
        with serving(path, prefix_dir=str(tmp_path / "kept")) as server:
            answers.append(post(server, "/v1/completions", body).json)
    assert answers[0]["choices"] == answers[1]["choices"]
    cached = [answer["usage"]["prompt_tokens_details"]["cached_tokens"] for answer in answers]
    assert cached[0] == 0
    assert cached[1] >= BLOCK
    assert cached[1] < SERVED
