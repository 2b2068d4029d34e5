"""What a model that is served may take is known before it is loaded, and its engine stays within it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gguflike import runner
from gguflike.convert import convert
from gguflike.estimate import estimate
from gguflike.runner.needs import PROCESS
from gguflike.serve import Settings
from gguflike.serve.reserve import FOLDER_SHARE, Reserve, reserve
from tests import embedders, mtp_models
from tests.serving import CONTEXT, model, post, serving

PARALLEL = 4
MEMORY = 1 << 34


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model(tmp_path_factory.mktemp("model"))


def reserved(file: Path, memory: int = MEMORY, **settings: Any) -> Reserve:
    given = {"model": str(file), "context": CONTEXT, "threads": 1, "parallel": PARALLEL, "cache_bytes": 1000}
    return reserve(str(file), Settings(**{**given, **settings}), memory)


@pytest.mark.parametrize("kind", ["f16", "q8_0"])
@pytest.mark.parametrize("activations", ["dynamic", "adaptive"])
def test_it_is_what_is_estimated(file: Path, kind: str, activations: str) -> None:
    found = reserved(file, cache_type=kind, activations=activations)
    options: dict[str, Any] = {"cache_type": kind, "users": PARALLEL, "threads": 1, "activations": activations}
    needs = estimate(file, CONTEXT, **options).needs
    assert (found.fixed + found.texts, found.texts) == (needs.total - PROCESS, needs.cache)
    assert (found.loading, found.kept) == (needs.peak - needs.total, 1000)


def test_texts_have_what_the_memory_leaves(file: Path) -> None:
    """All of it for one model, a part of it in a folder, and one text has room in any case."""
    whole, one = reserved(file), reserved(file, memory=1)
    with runner.load(file, context=CONTEXT, threads=1) as alone:
        each = CONTEXT * alone.position_bytes
    assert (whole.texts - one.texts, one.text_bytes) == ((PARALLEL - 1) * each, 0)
    for texts in (1, 2, 3):
        memory = PROCESS + whole.fixed + whole.kept + texts * each
        found = reserved(file, memory)
        assert (found.text_bytes, whole.texts - found.texts) == (texts * each, (PARALLEL - texts) * each)
        assert PROCESS + found.total == memory + (found.texts - texts * each)  # and what does not grow with texts
    found = reserved(file, FOLDER_SHARE * 2 * each, models_dir=str(file.parent))
    assert (found.text_bytes, whole.texts - found.texts) == (2 * each, (PARALLEL - 2) * each)


def test_an_engine_keeps_what_is_reserved(file: Path) -> None:
    with serving(file, memory=1 << 30) as server:
        (loaded,) = server.models.loaded
        assert loaded.engine is not None
        assert loaded.engine.stats().cache_limit == loaded.reserve.kept == (1 << 30) // 10
    with serving(file, memory=1, parallel=2) as server:  # no more than one text at a time
        (loaded,) = server.models.loaded
        texts = [f"{number} {'text ' * 40}" for number in range(4)]
        answer = post(server, "/v1/completions", {"prompt": texts, "max_tokens": 4, "ignore_eos": True})
        assert answer.status == 200
        assert loaded.engine is not None
        slots = loaded.engine._together.slots
        assert sum(slot.touched for slot in slots) <= CONTEXT


def test_a_draft_model_counts(file: Path, tmp_path: Path) -> None:
    draft = model(tmp_path, "draft.gguf", seed=7)
    needs = estimate(draft, CONTEXT, users=PARALLEL, threads=1).needs
    found = reserved(file, draft=str(draft))
    assert found.total - reserved(file).total == needs.total - PROCESS
    other = Settings(model="other.gguf", context=CONTEXT, threads=1, parallel=PARALLEL, draft=str(draft))
    assert reserve(str(file), other, MEMORY).fixed == reserved(file).fixed  # which it does not guess for


def test_heads_count(tmp_path: Path) -> None:
    more = {}
    for variant in ("shared", "own", "three"):
        file = mtp_models.converted(tmp_path / variant, mtp_models.values(mtp_models.VARIANTS[variant]))
        more[variant] = reserved(file, context=64, draft="mtp").fixed - reserved(file, context=64).fixed
        with runner.load(file, context=64, threads=1) as whole:
            slots = [slot for head in whole.head_passes(PARALLEL) for slot in head.slots]
            assert more[variant] > sum(slot.states.nbytes for slot in slots)
    output = mtp_models.VOCAB * mtp_models.D * 4  # bytes of a matrix that the other has from the model
    assert more["own"] - more["shared"] >= output


def test_a_model_without_text_keeps_nothing_of_others(tmp_path: Path) -> None:
    folder = embedders.qwen3(tmp_path / "hf")
    embedders.modules(folder, pooling_mode_lasttoken=True, pooling_mode_mean_tokens=False)
    convert(folder, tmp_path / "x.gguf", "F32")
    found = reserved(tmp_path / "x.gguf", context=32)
    assert (found.kept, found.text_bytes) == (0, 0)
    needs = estimate(tmp_path / "x.gguf", 32, threads=1).needs  # of one text at a time
    assert found.total == needs.total - PROCESS
