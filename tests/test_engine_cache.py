"""What an engine need not compute again: shared beginnings, forks, chats; within its limit; and slots as files."""

from __future__ import annotations

import errno
import json
import mmap
import os
import random
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gguflike import runner
from gguflike.container import system
from gguflike.engine import Engine, Request, Token, files
from gguflike.engine.files import fingerprint
from gguflike.engine.prefixes import Blocks
from gguflike.engine.store import MAGIC
from gguflike.errors import ArgumentError, CacheError, OutputError
from gguflike.kernels.engine.memory import aligned, give_back
from gguflike.runner import Model
from gguflike.runner.sampling import Sampling
from gguflike.runner.slots import common
from gguflike.runner.state import BLOCK
from tests import tiny_gguf
from tests.engines import CONTEXT, Gate, Heard, ask, loaded, until

STEM = [(7 * i) % 251 for i in range(100)]
WARM: dict[str, Any] = {"sampling": Sampling(temperature=1.0, seed=3)}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    path = tmp_path_factory.mktemp("cache") / "m.gguf"
    tiny_gguf.write(path, "Q8_0", seed=5, n_ctx=CONTEXT)
    return runner.load(path, threads=2)


def alone(model: Model, prompt: list[int], **settings: Any) -> list[int]:
    with Engine(model, parallel=1, cache_bytes=0) as engine:
        return ask(engine, prompt, cache=False, **settings).wait().tokens


def test_a_beginning_is_shared_while_who_computed_it_goes_on(model: Model) -> None:
    with Engine(model, parallel=2) as engine:
        gate = Gate(engine, Request(STEM, None), Token)
        second = ask(engine, [*STEM[:90], 1, 2], **WARM)
        gate.open()
        assert second.wait().cached_tokens == 90 // BLOCK * BLOCK
        gate.job.cancel()
    assert second.wait().tokens == alone(model, [*STEM[:90], 1, 2], **WARM)


def test_a_chat_goes_on_in_its_slot_to_the_token(model: Model) -> None:
    with Engine(model, parallel=2) as engine:
        answer = ask(engine, STEM, 11, ignore_end=True).wait()
        longer = [*STEM, *answer.tokens, 9]
        again = ask(engine, longer, 5).wait()
        assert again.cached_tokens == len(STEM) + 10  # the last token of the answer was chosen, not computed
        assert ask(engine, longer, 5, cache=False).wait().cached_tokens == 0
        assert again.tokens == alone(model, longer, max_tokens=5)


def test_a_conversation_keeps_its_slot_where_others_share_its_beginning_only(model: Model) -> None:
    with Engine(model, parallel=2) as engine:
        answer = ask(engine, STEM, 60, ignore_end=True).wait()
        other = ask(engine, [*STEM[:40], 1], 5, ignore_end=True).wait()
        assert other.cached_tokens == 32  # copied
        again = ask(engine, [*STEM, *answer.tokens, 9], 5).wait()
        assert again.cached_tokens == len(STEM) + 59


def test_forks_of_one_prompt_compute_it_once(model: Model) -> None:
    with Engine(model, parallel=4) as engine:
        gate = Gate(engine)
        forks = [ask(engine, STEM, 10, sampling=Sampling(temperature=1.0, seed=number)) for number in range(3)]
        gate.open()
        results = [fork.wait() for fork in forks]
        assert sorted(result.cached_tokens for result in results) == [0, 96, 96]
    for number, result in enumerate(results):
        assert result.tokens == alone(model, STEM, max_tokens=10, sampling=Sampling(temperature=1.0, seed=number))


def test_a_fork_goes_on_when_the_one_that_it_waits_for_is_cancelled(model: Model) -> None:
    with Engine(model, parallel=4) as engine:
        gate = Gate(engine)
        first = engine.submit(Request(STEM, 10), Heard())
        second = ask(engine, STEM, 10, ignore_end=True)
        first.cancel()
        gate.open()
        assert len(second.wait().tokens) == 10


def test_what_was_used_longest_ago_goes_first(model: Model) -> None:
    with Engine(model, parallel=1) as engine:
        ask(engine, STEM, 1).wait()
        until(lambda: not engine.stats().slots)
        each = engine.stats().cache_bytes // (len(STEM) // BLOCK)
    others = [[number, *STEM[1:]] for number in range(100, 104)]
    with Engine(model, parallel=1, cache_bytes=7 * each) as engine:
        ask(engine, STEM, 1).wait()
        for other in others[:1]:
            ask(engine, other, 1).wait()
        assert ask(engine, STEM, 1).wait().cached_tokens == 96  # and so it is the newest
        ask(engine, others[1], 1).wait()
        until(lambda: engine.stats().done == 4)  # what is kept of a text may be too much until its end is counted
        assert engine.stats().cache_bytes <= 7 * each
        assert ask(engine, [*STEM[:97], 1], 1).wait().cached_tokens == 96
        assert ask(engine, others[0], 1).wait().cached_tokens < 96
    with Engine(model, parallel=1, cache_bytes=0) as engine:
        ask(engine, STEM, 1).wait()
        ask(engine, [5, 6], 1).wait()
        assert ask(engine, STEM, 1).wait().cached_tokens == 0
        until(lambda: engine.stats().done == 3)
        assert engine.stats().cache_bytes == 0


def test_blocks_share_what_texts_have_in_common(model: Model) -> None:
    slot, kept = model._passes.slots[0], Blocks(1 << 30)
    model.forget(0)
    model.logits(STEM)
    kept.keep(slot)
    once = kept.nbytes
    assert once == 3 * slot.states.block(0).nbytes
    kept.keep(slot)
    assert kept.nbytes == once
    other = [*STEM[:70], *range(60)]
    want = model.logits(other)[-1]
    kept.keep(slot)
    assert kept.nbytes == once + 2 * once // 3
    model.logits([1, 2, 3])
    kept.load(slot, other)
    assert slot.tokens == other[:128]
    assert np.array_equal(model.extend(other[128:], 128)[0], want)
    kept.clear()
    assert kept.longest(other) == 0


class FakeSlot:
    """A slot of which `Blocks` sees all: its text, and BLOCK bytes for each block of it."""

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.put: list[int] = []
        self.states: Any = self

    @property
    def solid(self) -> int:
        return len(self.tokens)

    def common_prefix(self, ids: Sequence[int]) -> int:
        return common(ids, self.tokens, len(ids) - 1)

    def return_to(self, position: int) -> None:
        del self.tokens[position:]

    def hold(self, ids: Sequence[int]) -> None:
        self.tokens = list(ids)

    def block(self, number: int) -> np.ndarray:
        return np.array(self.tokens[BLOCK * number : BLOCK * (number + 1)], np.uint8)

    def put_block(self, number: int, block: np.ndarray) -> None:
        self.put.append(number)
        assert len(block) == BLOCK


def test_what_is_dropped_has_nothing_hanging_on_it_and_what_was_used_last_stays() -> None:
    rng, limit = random.Random(0), 12 * BLOCK
    kept, slot = Blocks(limit), FakeSlot()
    for _ in range(2000):
        ids = [number for _ in range(rng.randrange(1, 5)) for number in [rng.randrange(2)] * BLOCK]
        if rng.random() < 0.3:
            slot.tokens, slot.put = [], []
            kept.load(slot, [*ids, 0])  # type: ignore[arg-type]
            assert slot.tokens == ids[: BLOCK * len(slot.put)]
        slot.tokens = ids
        kept.keep(slot)  # type: ignore[arg-type]
        assert kept.longest([*ids, 0]) == len(ids)
        left, there = list(kept._root.children.values()), 0
        while left:
            block = left.pop()
            assert block.data is not None
            left += block.children.values()
            there += block.data.nbytes
        assert there == kept.nbytes <= limit
    assert kept.nbytes == limit


@pytest.mark.parametrize("kind", ["Q8_0 f16", "Q8_0 q8_0", "windows", "recurrent"])
def test_a_slot_goes_on_from_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    model = loaded(tmp_path, kind, monkeypatch)
    folder = tmp_path / "slots"
    folder.mkdir()
    with Engine(model, parallel=2, store=folder) as engine:
        answer = ask(engine, STEM, 8, ignore_end=True).wait()
        until(lambda: not engine.stats().slots)
        held = engine.stats().held
        number = held.index(len(STEM) + 7)
        assert engine.save(number, "a-text.1") == len(STEM) + 7
    longer = [*STEM, *answer.tokens, 3]
    want = alone(model, longer, max_tokens=6)
    with Engine(model, parallel=2, store=folder) as engine:
        assert engine.restore(1, "a-text.1") == len(STEM) + 7
        assert engine.stats().held == (0, len(STEM) + 7)
        result = ask(engine, longer, 6).wait()
        of_answer = 7 if model.weights.exact else 0  # which is other bits as a part of a prompt
        assert (result.cached_tokens, result.tokens) == (len(STEM) + of_answer, want)
        until(lambda: not engine.stats().slots)
        assert engine.erase(1) > 0
        assert engine.stats().held == (0, 0)
    assert [path.name for path in folder.iterdir()] == ["a-text.1.slot"]


def test_a_models_files_are_read_once_for_its_fingerprint(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[object] = []
    digest = files._digest

    def counted(names: Sequence[str]) -> str:
        read.append(names)
        return digest(names)

    monkeypatch.setattr(files, "_digest", counted)
    monkeypatch.setattr(files, "_known", type(files._known)())
    first = fingerprint(model)
    assert (fingerprint(model), len(read)) == (first, 1)
    for name in model.files:
        before = Path(name).stat()
        os.utime(name, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
        assert (fingerprint(model), len(read)) == (first, 2)
        os.utime(name, ns=(before.st_atime_ns, before.st_mtime_ns))  # for other tests, which read it


def test_a_file_that_does_not_fit_leaves_the_slot_empty(model: Model, tmp_path: Path) -> None:
    with Engine(model, parallel=1, store=tmp_path) as engine:
        ask(engine, STEM, 2).wait()
        until(lambda: not engine.stats().slots)
        engine.save(0, "good")
        good = (tmp_path / "good.slot").read_bytes()
        header = json.loads(good[len(MAGIC) + 8 :][: int.from_bytes(good[len(MAGIC) : len(MAGIC) + 8], "little")])
        assert header["model"] == fingerprint(model)
        assert header["tokens"][:100] == STEM
        flipped = bytearray(good)
        flipped[len(good) // 2] ^= 1
        for name, data, match in (
            ("flipped", bytes(flipped), "damaged"),
            ("cut", good[:-100], "damaged"),
            ("empty", b"", "no file of a slot"),
            ("other", b"x" * 200, "no file of a slot"),
        ):
            (tmp_path / f"{name}.slot").write_bytes(data)
            engine.restore(0, "good")
            with pytest.raises(CacheError, match=match):
                engine.restore(0, name)
            assert engine.stats().held == (0,)
        with pytest.raises(CacheError, match="cannot be read"):
            engine.restore(0, "missing")
        for wrong in ("../good", "a/b", "", ".hidden", "good\0", "x" * 101, "C:good"):
            with pytest.raises(ArgumentError, match="name"):
                engine.save(0, wrong)
        with pytest.raises(ArgumentError, match="holds nothing"):
            engine.save(0, "nothing")
        with pytest.raises(ArgumentError, match="no such slot"):
            engine.erase(1)
        gate = Gate(engine)
        gate.job.cancel()
        gate.open()
    with pytest.raises(ArgumentError, match="closed"):
        engine.erase(0)


def test_a_file_of_another_model_or_cache_is_refused(model: Model, tmp_path: Path) -> None:
    with Engine(model, parallel=1, store=tmp_path) as engine:
        ask(engine, STEM, 2).wait()
        until(lambda: not engine.stats().slots)
        engine.save(0, "text")
    tiny_gguf.write(tmp_path / "other.gguf", "Q8_0", seed=6, n_ctx=CONTEXT)
    for path, settings, match in (
        (tmp_path / "other.gguf", {}, "another model"),
        (model.path, {"cache_type": "f32"}, "another cache type"),
        (model.path, {"context": 128}, "another context"),
    ):
        with (
            runner.load(path, **settings) as another,
            Engine(another, parallel=1, store=tmp_path) as engine,
            pytest.raises(CacheError, match=match),
        ):
            engine.restore(0, "text")
    with pytest.raises(ArgumentError, match="no folder for slots"), Engine(model) as engine:
        engine.save(0, "text")
    with pytest.raises(ArgumentError, match="no such folder"):
        Engine(model, store=tmp_path / "nowhere")


def test_a_slot_that_a_job_has_is_not_touched(model: Model) -> None:
    with Engine(model, parallel=1) as engine:
        gate = Gate(engine, Request(STEM, None, ignore_end=True))
        errors: list[Exception] = []

        def erase() -> None:
            try:
                engine.erase(0)
            except ArgumentError as error:
                errors.append(error)

        asking = threading.Thread(target=erase)
        asking.start()
        until(lambda: engine._calls)
        gate.open()
        asking.join()
        assert "expected one of none" in str(errors[0])
        assert len(gate.heard.wait().tokens) == CONTEXT - len(STEM)


def test_texts_wait_for_memory_and_free_slots_give_it_back(model: Model) -> None:
    room = 150 * model.position_bytes
    with Engine(model, parallel=3, text_bytes=room, cache_bytes=0) as engine:
        together: set[int] = set()

        def count(event: Any) -> None:
            if isinstance(event, Token):
                together.add(sum(slot.prompt_tokens > 100 for slot in engine.stats().slots))

        gate, heard = Gate(engine), [Heard(count) for _ in range(3)]
        for number, each in enumerate(heard):
            engine.submit(Request([number, *STEM], 8, ignore_end=True), each)
        gate.open()
        for each in heard:
            assert len(each.wait().tokens) == 8
        assert together == {1}
        until(lambda: engine.stats().done == 4)
        assert sum(engine.stats().held) <= 150
    with Engine(model, parallel=3, text_bytes=0) as engine:
        assert len(ask(engine, STEM, 8, ignore_end=True).wait().tokens) == 8


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere pages may stay as they are for a while")
def test_memory_that_was_given_back_reads_as_zeros() -> None:
    pages = aligned(10 * mmap.PAGESIZE)
    pages[:] = 1
    give_back(pages[mmap.PAGESIZE // 2 : 4 * mmap.PAGESIZE])
    assert pages[: mmap.PAGESIZE].all()
    assert not pages[mmap.PAGESIZE : 4 * mmap.PAGESIZE].any()
    assert pages[4 * mmap.PAGESIZE :].all()
    give_back(np.ones(5))  # not made by `aligned`


def test_a_full_disk_leaves_the_saved_file_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "kept"
    files.write(path, MAGIC, {"tokens": [1]}, [[np.arange(3)]])
    before = path.read_bytes()

    def full(*_: Any) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(system, "write_at", full)
    with pytest.raises(OutputError, match="cannot write"):
        files.write(path, MAGIC, {"tokens": [2]}, [[np.arange(9)]])
    assert [each.name for each in tmp_path.iterdir()] == ["kept"]
    assert path.read_bytes() == before
